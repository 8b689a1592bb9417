// The sheet on the screen: only the lines in sight, and a little more, are elements.
//
// It is an ARIA grid with one tab stop: arrows move the focus, and the line that has it stays an element wherever the
// window is scrolled to.

const AHEAD_PX = 900; // scrolled into sight before the next frame is drawn

class Grid {
  #element;
  #scroller;
  #toolbar;
  #open;
  #layout = new Layout([], { width: 0 });
  #context = {};
  #lines = new Map(); // line -> its element
  #cells = new Map(); // row -> its cell, of the lines that are elements
  #place = 0; // of the tile that has the focus, or would get it
  #isDue = false;
  #held = null; // the last anchor

  constructor(element, { toolbar, open }) {
    this.#element = element;
    this.#toolbar = toolbar;
    this.#open = open;
    this.#scroller = new Scroller(element);
    addEventListener("scroll", () => this.#soon(), { passive: true });
    element.addEventListener("keydown", (event) => this.#onKey(event));
    element.addEventListener("click", ({ target }) => this.#withRow(target, (row) => this.#open(row)));
    for (const type of ["pointerover", "focusin"]) {
      element.addEventListener(type, ({ target }) =>
        this.#withRow(target, (row, button) => row.status === "saved" && addOver(button, row, this.#context.pattern)),
      );
    }
    element.addEventListener("focusin", ({ target }) => this.#withRow(target, (row) => this.#rove(row.place)));
    element.addEventListener("error", ({ target }) => this.#withoutPicture(target), true); // of an <img>: no bubbling
  }

  // Shows another layout. mode "top": from its beginning; "stay": what was in sight stays where it is.
  show(layout, context, mode) {
    const hadFocus = this.#element.contains(document.activeElement);
    const focused = this.#layout.rows[this.#place];
    const anchor = mode === "stay" ? this.#anchor() : null;
    if (context.pattern !== this.#context.pattern || context.caption !== this.#context.caption) this.#cells.clear();
    this.#layout = layout;
    this.#context = context;
    layout.rows.forEach((row, place) => (row.place = place));
    this.#place = this.#has(focused) ? focused.place : 0;
    this.#element.setAttribute("aria-rowcount", layout.tops.length);
    this.#element.classList.toggle("is-searching", Boolean(context.pattern));
    this.#scroller.resize(layout.height);
    if (anchor && this.#has(anchor.row)) this.#scroller.go(this.#topOf(anchor.row) - anchor.offset);
    else if (mode === "top" && this.#scroller.top > 0) this.#scroller.go(-this.#toolbar.offsetHeight - 12);
    this.#redraw(hadFocus);
  }

  // Rows whose tiles must be made anew. Their lines come with the next `show`, or at once.
  changed(rows) {
    for (const row of rows) this.#cells.delete(row);
  }

  // A thumbnail that was missing may have arrived.
  refresh(isLoading) {
    this.#context.isLoading = isLoading;
    const bare = [...this.#cells].filter(([row, cell]) => row.status === "saved" && !cell.querySelector("img"));
    if (!bare.length) return;
    this.changed(bare.map(([row]) => row));
    this.#redraw(this.#element.contains(document.activeElement));
  }

  // `keepsPlace`: the focus is about to come back to its tile.
  render(keepsPlace = this.#element.contains(document.activeElement)) {
    this.#isDue = false;
    this.#follow();
    const layout = this.#layout;
    if (!layout.tops.length) {
      this.#forgetLines();
      this.#cells.clear();
      return;
    }
    const top = this.#scroller.top;
    const first = layout.lineAt(top - AHEAD_PX);
    const end = layout.lineAt(top + window.innerHeight + AHEAD_PX);
    if (!keepsPlace) this.#place = this.#firstInSight(top);
    const wanted = new Set([layout.lineOf(this.#place)]);
    for (let line = first; line <= end; line += 1) wanted.add(line);
    this.#draw([...wanted].sort((one, other) => one - other), wanted);
    this.#rove(this.#place);
  }

  // Gives the focus to a row's tile, and scrolls it into sight.
  focus(row) {
    if (!this.#has(row)) return;
    this.#place = row.place;
    this.#reveal(row);
    this.#button(row.place)?.focus({ preventScroll: true });
  }

  #reveal(row) {
    const line = this.#layout.lineOf(row.place);
    const top = this.#layout.tops[line];
    const covered = this.#toolbar.getBoundingClientRect().bottom;
    const lowest = window.innerHeight - this.#layout.heights[line] - 8;
    const now = top - this.#scroller.top;
    if (now < covered + 8) this.#scroller.go(top - covered - 8);
    else if (now > lowest) this.#scroller.go(top - Math.max(lowest, covered + 8));
    this.render(true);
  }

  get rows() {
    return this.#layout.rows;
  }

  #has(row) {
    return row !== undefined && this.#layout.rows[row.place] === row;
  }

  #soon() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => this.render());
  }

  #follow() {
    const before = this.#scroller.shift;
    this.#scroller.follow();
    if (this.#scroller.shift !== before) for (const [line, element] of this.#lines) this.#put(line, element);
    this.#toolbar.classList.toggle("is-stuck", this.#scroller.top > 0);
  }

  #draw(lines, wanted) {
    for (const [line, element] of this.#lines) {
      if (wanted.has(line)) continue;
      element.remove();
      this.#lines.delete(line);
      this.#forgetCells(line);
    }
    let next = this.#element.firstChild;
    for (const line of lines) {
      let element = this.#lines.get(line);
      if (element && element === next) {
        next = next.nextSibling;
        continue;
      }
      if (!element) {
        element = this.#line(line);
        this.#lines.set(line, element);
        this.#put(line, element);
      }
      this.#element.insertBefore(element, next);
    }
  }

  #line(line) {
    const { kinds, labels, firsts, counts, heights, indents, rows } = this.#layout;
    const element = make("div", { class: "line", role: "row", "aria-rowindex": line + 1 });
    element.style.height = `${heights[line]}px`;
    if (kinds[line] === HEADING) {
      element.append(makeHeading(labels[line], this.#context.pattern));
      return element;
    }
    if (labels[line] && indents[line]) element.append(makeBand(labels[line]));
    const across = this.#layout.across(line);
    for (let place = 0; place < counts[line]; place += 1) {
      const row = rows[firsts[line] + place];
      const cell = this.#cells.get(row) ?? makeCell(row, this.#context);
      this.#cells.set(row, cell);
      cell.setAttribute("aria-colindex", place + 1);
      cell.style.left = `${across[place][0]}px`;
      cell.style.width = `${across[place][1]}px`;
      cell.style.height = `${heights[line]}px`;
      element.append(cell);
    }
    return element;
  }

  #put(line, element) {
    element.style.transform = `translateY(${this.#layout.tops[line] - this.#scroller.shift}px)`;
  }

  #forgetLines() {
    this.#element.replaceChildren();
    this.#lines.clear();
  }

  #forgetCells(line) {
    for (let place = 0; place < this.#layout.counts[line]; place += 1) {
      this.#cells.delete(this.#layout.rows[this.#layout.firsts[line] + place]);
    }
  }

  #redraw(hadFocus) {
    this.#forgetLines();
    this.render(hadFocus);
    if (hadFocus) this.#button(this.#place)?.focus({ preventScroll: true });
  }

  // What must not move: the first tile in sight, and for as long as nobody scrolls the same one, although lines fill
  // anew and it may no longer be the first of its line.
  #anchor() {
    const top = this.#scroller.top;
    const held = this.#held;
    if (held && this.#has(held.row) && Math.abs(this.#topOf(held.row) - top - held.offset) < 2) return held;
    if (top <= 0 || !this.#layout.rows.length) return null;
    const row = this.#layout.rows[this.#firstInSight(top)];
    this.#held = { row, offset: this.#topOf(row) - top };
    return this.#held;
  }

  #topOf(row) {
    return this.#layout.tops[this.#layout.lineOf(row.place)];
  }

  #firstInSight(top) {
    if (top <= 0) return 0;
    const line = this.#layout.lineAt(top + this.#toolbar.offsetHeight + GAP_PX);
    return Math.min(this.#layout.firsts[line], this.#layout.rows.length - 1);
  }

  #button(place) {
    return this.#cells.get(this.#layout.rows[place])?.querySelector("button");
  }

  #rove(place) {
    this.#place = place;
    for (const stop of this.#element.querySelectorAll('button[tabindex="0"]')) stop.tabIndex = -1;
    const button = this.#button(place);
    if (button) button.tabIndex = 0;
  }

  #withRow(target, act) {
    const button = target.closest?.("button.tile");
    if (!button) return;
    for (const [row, cell] of this.#cells) if (cell.contains(button)) return void act(row, button);
  }

  #withoutPicture(image) {
    this.#withRow(image, (row, button) => {
      image.remove();
      button.querySelector(".over, .flag")?.remove();
      if (!button.querySelector(".words")) addWords(button, row, this.#context);
    });
  }

  #onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.#layout.rows.length) return;
    const place = this.#target(event.key);
    if (place === null) return;
    event.preventDefault();
    this.focus(this.#layout.rows[Math.min(Math.max(place, 0), this.#layout.rows.length - 1)]);
  }

  // The place that a key moves to, or null for other keys.
  #target(key) {
    switch (key) {
      case "ArrowLeft": return this.#place - 1;
      case "ArrowRight": return this.#place + 1;
      case "ArrowUp": return this.#vertically(-1);
      case "ArrowDown": return this.#vertically(1);
      case "PageUp": return this.#vertically(-this.#linesInSight());
      case "PageDown": return this.#vertically(this.#linesInSight());
      case "Home": return 0;
      case "End": return this.#layout.rows.length - 1;
      default: return null;
    }
  }

  #linesInSight() {
    const height = this.#layout.heights[this.#layout.lineOf(this.#place)] + GAP_PX;
    return Math.max(1, Math.floor((window.innerHeight - this.#toolbar.offsetHeight) / height) - 1);
  }

  // The tile some lines of tiles further whose middle is nearest.
  #vertically(by) {
    const { kinds, firsts } = this.#layout;
    const step = Math.sign(by);
    const from = this.#layout.lineOf(this.#place);
    let line = from;
    for (let next = from + step, left = Math.abs(by); left > 0 && next >= 0 && next < kinds.length; next += step) {
      if (kinds[next] !== TILES) continue;
      line = next;
      left -= 1;
    }
    if (line === from) return this.#place;
    const middle = ([left, width]) => left + width / 2;
    const aim = middle(this.#layout.across(from)[this.#place - firsts[from]]);
    const distances = this.#layout.across(line).map((tile) => Math.abs(middle(tile) - aim));
    return firsts[line] + distances.indexOf(Math.min(...distances));
  }
}
