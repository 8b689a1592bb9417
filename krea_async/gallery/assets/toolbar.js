// Search, filters, sort and grouping: what is chosen, and the means to choose it.

const FACET_NAMES = { status: "Status", size: "Size", quality: "Quality", error: "Error" };
const SEARCH_PAUSE_MS = 60;

class Toolbar {
  #chosen;
  #changed;
  #values = Object.fromEntries(FACETS.map((facet) => [facet, new Set()]));
  #timer = 0;

  // `changed(isOnlyLayout)` is called after each change of `chosen`.
  constructor(chosen, changed) {
    this.#chosen = chosen;
    this.#changed = changed;
    for (const [name, { label }] of Object.entries(SORTS)) byId("sort").append(make("option", { value: name }, label));
    byId("search").addEventListener("input", () => this.#search());
    byId("sort").addEventListener("change", ({ target }) => this.#set("sort", target.value));
    byId("direction").addEventListener("click", () => this.#set("desc", !chosen.desc));
    byId("group").addEventListener("click", () => this.#set("group", !chosen.group));
    byId("filters-open").addEventListener("click", () => this.toggleFilters());
    byId("filters").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.toggleFilters(false);
      byId("filters-open").focus();
    });
    byId("empty-clear").addEventListener("click", () => {
      this.clear();
      byId("search").focus();
    });
  }

  toggle(facet, value) {
    const values = this.#chosen[facet];
    if (!values.delete(value)) values.add(value);
    this.#changed();
  }

  clear() {
    Object.assign(this.#chosen, { q: "" });
    for (const facet of FACETS) this.#chosen[facet].clear();
    this.#changed();
  }

  toggleFilters(isOpen = byId("filters").hidden) {
    byId("filters").hidden = !isOpen;
    byId("filters-open").setAttribute("aria-expanded", isOpen);
  }

  // The controls as `chosen` says, with the counts of `select`.
  show(counts, rows) {
    const chosen = this.#chosen;
    if (document.activeElement !== byId("search") || !this.#timer) byId("search").value = chosen.q;
    byId("sort").value = chosen.sort;
    byId("direction").setAttribute("aria-pressed", chosen.desc);
    byId("direction").textContent = chosen.desc ? "↑" : "↓";
    byId("group").setAttribute("aria-pressed", chosen.group);
    const active = FACETS.reduce((sum, facet) => sum + chosen[facet].size, 0);
    byId("filters-open").textContent = active ? `Filter (${active})` : "Filter";
    for (const row of rows) for (const facet of FACETS) if (row[facet] !== null) this.#values[facet].add(row[facet]);
    const focused = document.activeElement?.dataset?.chip;
    byId("filters").replaceChildren(...FACETS.map((facet) => this.#facet(facet, counts[facet])).filter(Boolean));
    if (focused) [...byId("filters").querySelectorAll("button")].find((chip) => chip.dataset.chip === focused)?.focus();
  }

  #set(name, value) {
    this.#chosen[name] = value;
    this.#changed();
  }

  #search() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.#set("q", byId("search").value);
    }, SEARCH_PAUSE_MS);
  }

  #facet(facet, counts) {
    const values = new Set([...this.#values[facet], ...this.#chosen[facet]]);
    if (!values.size) return null;
    const order = { status: STATUSES, size: SIZES }[facet];
    const sortedValues = [...values].sort((one, other) =>
      order ? order.indexOf(one) - order.indexOf(other) : (counts.get(other) ?? 0) - (counts.get(one) ?? 0) || (one < other ? -1 : 1),
    );
    const chips = sortedValues.map((value) => {
      const count = counts.get(value) ?? 0;
      const chip = make(
        "button",
        {
          type: "button",
          class: `chip${count ? "" : " is-none"}`,
          "aria-pressed": String(this.#chosen[facet].has(value)),
          "data-chip": `${facet} ${value}`,
        },
        short(String(value), 60),
        " ",
        make("small", {}, whole.format(count)),
      );
      chip.addEventListener("click", () => this.toggle(facet, value));
      return chip;
    });
    return make(
      "fieldset",
      {},
      make("legend", { class: "name" }, make("span", { class: "name" }, FACET_NAMES[facet])),
      make("div", { class: "chips" }, ...chips),
    );
  }
}
