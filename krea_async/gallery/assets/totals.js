// The sums at the top, and what stands at the foot. Numbers of rows are buttons: they filter.

function showTotals(totals, chosen, toggle) {
  const figure = (value, label) => [make("b", {}, value), " ", make("span", {}, label)];
  const figures = STATUSES.filter((status) => totals[status] || status === "saved").map((status) => {
    const button = make(
      "button",
      { type: "button", class: `total is-${status}`, "aria-pressed": String(chosen.status.has(status)), "data-status": status },
      ...figure(whole.format(totals[status] ?? 0), status),
    );
    button.addEventListener("click", () => toggle("status", status));
    return button;
  });
  const states = figures.splice(0);
  const plain = (value, label) => make("span", { class: "total" }, ...figure(value, label));
  figures.push(plain(upTo2.format(totals.credits ?? 0), "credits"), plain(dollars.format(totals.usd ?? 0), "spent"));
  if (totals.credits_unknown) figures.push(plain(upTo2.format(totals.credits_unknown), "credits perhaps charged"));
  if (totals.bytes) {
    const [number, unit] = inBytes(totals.bytes).split(" ");
    figures.push(plain(number, unit));
  }
  const took = totals.last_s - totals.first_s;
  if (totals.runs > 1) figures.push(plain(whole.format(totals.runs), "runs"));
  else if (took > 0) figures.push(plain(inTime(took), "from start to end"));
  if (totals.saved && totals.seconds) figures.push(plain(inTime(totals.seconds / totals.saved), "a picture"));
  const focused = document.activeElement?.dataset?.status;
  byId("totals").replaceChildren(make("div", {}, ...states), make("div", { class: "sums" }, ...figures));
  if (focused) byId("totals").querySelector(`[data-status="${focused}"]`)?.focus();
}

function showFoot(settings, totals) {
  const words = [`Made ${inDate(settings.made_at_s)} from ${settings.source}.jsonl by krea-async ${settings.version}.`];
  if (settings.live) words[0] = `Served live by krea-async ${settings.version}.`;
  if (totals.stopped_by) words.push(`The last run ended early: ${totals.stopped_by}.`);
  else if (!settings.live && totals.has_ended === false) words.push("The last run had not ended.");
  if (totals.damaged_lines) words.push(`${plural(totals.damaged_lines, "damaged line")} left out.`);
  byId("foot").textContent = words.join(" ");
}
