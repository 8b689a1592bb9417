// A run while it goes on: the server's events, and how the connection is, in words.

class Live {
  #take;
  #element = byId("live");
  #totals = {};
  #state = "connecting";

  // `take`: {rows(block), totals(totals), reset(), waiting()}.
  constructor(take) {
    this.#take = take;
    this.#element.hidden = false;
    const events = new EventSource(withToken("events"));
    const on = (name, act) => events.addEventListener(name, ({ data }) => act(JSON.parse(data)));
    on("reset", () => take.reset());
    on("rows", (block) => take.rows(block));
    on("waiting", () => {
      this.#totals = {};
      this.#show("open");
      take.waiting();
    });
    on("totals", (totals) => {
      this.#totals = totals;
      this.#show("open");
      take.totals(totals);
    });
    events.addEventListener("open", () => this.#show("open"));
    events.addEventListener("error", () => this.#show(events.readyState === EventSource.CLOSED ? "closed" : "lost"));
    this.#show("connecting");
  }

  #show(state) {
    this.#state = state;
    this.#element.dataset.state = state === "closed" ? "lost" : this.#hasEnded ? "ended" : state;
    const words = this.#words();
    if (byId("live-words").textContent !== words) byId("live-words").textContent = words;
    const { rows = 0, saved = 0, failed = 0 } = this.#totals;
    byId("live-progress").max = rows || 1;
    byId("live-progress").value = saved + failed;
  }

  get #hasEnded() {
    return this.#state === "open" && this.#totals.has_ended && this.#totals.runs > 0;
  }

  #words() {
    const { rows = 0, saved = 0, failed = 0, running = 0, waiting = 0, stopped_by: stoppedBy } = this.#totals;
    if (this.#state === "connecting") return "Connecting to the run";
    if (this.#state === "lost") return "Connection lost; trying again. What is shown may be old.";
    if (this.#state === "closed") return "Connection lost. Start krea-async gallery --serve again and open its new address.";
    if (this.#hasEnded) {
      const left = running + waiting ? `, ${plural(running + waiting, "row")} not finished` : "";
      return stoppedBy ? `The run ended early: ${stoppedBy}${left}` : `The run has ended${left}`;
    }
    if (!rows) return "Connected; waiting for the first row";
    return `Live: ${whole.format(saved + failed)} of ${whole.format(rows)} done, ${whole.format(running)} running`;
  }
}
