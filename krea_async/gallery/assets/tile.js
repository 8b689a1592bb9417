// One row as a tile: its picture, or words in the picture's place.

// The cell at (left, width) of a line. `context`: {thumbnails, pattern, isLoading, caption}.
function makeCell(row, context) {
  const button = make("button", {
    type: "button",
    class: `tile is-${row.status}${row.hasLanded ? " has-landed" : ""}`,
    tabindex: "-1",
    "data-row": row.n,
    "aria-label": nameOf(row),
  });
  row.hasLanded = false; // it lands once, not each time it is scrolled into sight
  const source = row.status === "saved" ? context.thumbnails.of(row) : null;
  if (source !== null) {
    button.append(make("img", { src: source, alt: "", decoding: "async", draggable: "false" }));
    if (row.is_missing) button.append(make("span", { class: "flag" }, "file missing"));
    if (context.pattern) addOver(button, row, context.pattern);
  } else if (!(context.isLoading && row.status === "saved")) addWords(button, row, context);
  const cell = make("div", { class: "cell", role: "gridcell" }, button);
  if (context.caption) {
    cell.classList.add("has-caption");
    const seed = isNumber(row.seed) ? `seed ${row.seed}` : row.id ?? `no. ${row.index ?? row.n}`;
    const words = context.isNarrow || context.isMixed(row) ? [row.size, row.quality, seed].filter(Boolean).join(" · ") : seed;
    cell.append(make("div", { class: "caption", "aria-hidden": "true" }, short(words, 60)));
  }
  return cell;
}

function addWords(button, row, { pattern, thumbnails }) {
  const words = make("span", { class: "words", "aria-hidden": "true" });
  if (row.status === "failed") words.append(make("b", {}, ...breakable(short(row.error ?? "failed", 60))), make("span", {}, short(row.message ?? "", 160)));
  else if (row.status === "saved") words.append(make("span", {}, row.is_missing ? "file missing" : short(thumbnails.note(row) ?? "", 80)));
  else words.append(make("span", {}, stateOf(row)));
  words.append(make("span", { class: "late", dir: "auto" }, marked(short(promptOf(row), 160), pattern)));
  button.append(words);
}

// Prompt and facts over the picture's foot. Made when the tile is pointed at, not for all that are scrolled past.
function addOver(button, row, pattern) {
  if (button.querySelector(".over, .words")) return;
  const over = make("span", { class: "over", "aria-hidden": "true" });
  over.append(make("b", { dir: "auto" }, marked(short(promptOf(row)), pattern)), make("small", {}, briefly(row)));
  button.append(over);
}

function makeHeading(group, pattern) {
  const { rows } = group;
  const credits = rows.reduce((sum, row) => sum + (isNumber(row.credits) ? row.credits : 0), 0);
  const facts = [plural(rows.length, "row"), credits ? `${upTo2.format(credits)} credits` : null];
  return make(
    "div",
    { class: "heading", role: "rowheader" },
    make("b", { dir: "auto" }, marked(short(promptOf(rows[0])), pattern)),
    make("span", {}, facts.filter(Boolean).join(" · ")),
  );
}

const makeBand = ([row]) =>
  make("div", { class: "band", role: "rowheader" }, make("b", {}, row.size ?? "any size"), row.quality ?? "");
