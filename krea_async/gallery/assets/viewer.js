// One picture, as large as the window or in its own pixels, and all that is known of it.

class Viewer {
  #dialog = byId("viewer");
  #stage = byId("stage");
  #image = byId("picture");
  #ahead = []; // the neighbours' pictures, kept so that they are loaded already
  #rows = [];
  #row = null;
  #settings;

  // `settings`: {sheet, thumbnails, pattern(), moved(row), closed(row)}.
  constructor(settings) {
    this.#settings = settings;
    byId("back").addEventListener("click", () => this.step(-1));
    byId("on").addEventListener("click", () => this.step(1));
    byId("close").addEventListener("click", () => this.#dialog.close());
    byId("scale").addEventListener("click", () => this.#zoom());
    this.#dialog.addEventListener("close", () => this.#onClose());
    this.#dialog.addEventListener("keydown", (event) => this.#onKey(event));
    this.#image.addEventListener("load", () => this.#fit());
    this.#image.addEventListener("error", () => this.#onMissing());
    addEventListener("resize", () => this.#row && this.#fit());
    followPointer(this.#stage, { tap: () => this.#zoom(), swipe: (by) => this.step(by), isWhole: () => this.#isWhole });
  }

  get row() {
    return this.#row;
  }

  // Shows `row` among `rows`, which are in the sheet's order.
  open(row, rows) {
    this.#rows = rows;
    this.#show(row);
    if (!this.#dialog.open) {
      this.#dialog.showModal();
      byId("close").focus();
    }
    this.#fit();
  }

  close() {
    if (this.#dialog.open) this.#dialog.close();
  }

  // The rows are others now, or the one that is shown has changed.
  update(rows, changed) {
    if (!this.#row) return;
    this.#rows = rows;
    if (changed.includes(this.#row)) this.#show(this.#row);
    else this.#place();
  }

  step(by) {
    const place = this.#rows.indexOf(this.#row);
    this.#go(place < 0 ? 0 : place + by);
  }

  #go(place) {
    const row = this.#rows[place];
    if (!row || row === this.#row) return;
    this.#show(row);
    this.#fit();
    this.#settings.moved(row);
  }

  #show(row) {
    this.#row = row;
    this.#setWhole(false);
    this.#place();
    byId("viewer-prompt").replaceChildren(marked(promptOf(row), this.#settings.pattern()));
    showFacts(row, this.#settings.sheet, (words) => (byId("said").textContent = words));
    byId("said").textContent = "";
    const url = row.status === "saved" ? pictureUrl(row, this.#settings.sheet) : null;
    this.#image.hidden = url === null;
    byId("scale").hidden = url === null;
    byId("stage-words").hidden = url !== null;
    this.#image.alt = short(promptOf(row));
    if (url === null) {
      this.#image.removeAttribute("src");
      if (row.status === "saved") this.#say("This picture cannot be shown", "Its file's name is no text.");
      else if (row.status === "failed") this.#say("No picture", row.message ?? row.error ?? "It failed.");
      else this.#say(row.status === "running" ? "Under way" : "Waiting", `This picture is ${stateOf(row)}.`);
    } else {
      const small = this.#settings.thumbnails.of(row);
      this.#image.style.backgroundImage = small === null ? "" : `url("${CSS.escape ? small.replaceAll('"', "%22") : small}")`;
      this.#image.src = url;
    }
    this.#preload();
  }

  #place() {
    const place = this.#rows.indexOf(this.#row);
    byId("place").textContent = place < 0 ? "not in this view" : `${whole.format(place + 1)} of ${whole.format(this.#rows.length)}`;
    byId("back").disabled = place <= 0;
    byId("on").disabled = place === this.#rows.length - 1;
  }

  #preload() {
    const place = this.#rows.indexOf(this.#row);
    this.#ahead = [place + 1, place - 1].map((near) => {
      const row = this.#rows[near];
      const url = row?.status === "saved" && !row.is_missing ? pictureUrl(row, this.#settings.sheet) : null;
      if (url === null) return null;
      const image = new Image();
      image.src = url;
      return image;
    });
  }

  #say(title, words) {
    byId("stage-words").replaceChildren(make("b", {}, title), short(words));
  }

  #onMissing() {
    if (!this.#row || !this.#image.hasAttribute("src")) return;
    this.#image.hidden = true;
    byId("scale").hidden = true;
    byId("stage-words").hidden = false;
    this.#say("The file is missing", `${this.#row.file} is not in this directory any more, or no picture.`);
  }

  get #isWhole() {
    return this.#stage.classList.contains("is-whole");
  }

  #setWhole(isWhole) {
    this.#stage.classList.toggle("is-whole", isWhole);
    byId("scale").setAttribute("aria-pressed", isWhole);
  }

  // Between the whole picture in the window and its own pixels.
  #zoom() {
    if (this.#image.hidden) return;
    this.#setWhole(!this.#isWhole);
    this.#fit();
    this.#stage.scrollTo((this.#stage.scrollWidth - this.#stage.clientWidth) / 2, (this.#stage.scrollHeight - this.#stage.clientHeight) / 2);
  }

  // The size is set before the picture is there, so that nothing jumps when it arrives.
  #fit() {
    const width = this.#image.naturalWidth || this.#row?.width || 1024 * aspectOf(this.#row ?? {});
    const height = this.#image.naturalHeight || this.#row?.height || 1024;
    const scale = this.#isWhole ? 1 : Math.min(1, this.#stage.clientWidth / width, this.#stage.clientHeight / height);
    this.#image.style.width = `${Math.floor(width * scale)}px`;
    this.#image.style.height = `${Math.floor(height * scale)}px`;
  }

  #onClose() {
    const row = this.#row;
    this.#row = null;
    this.#image.removeAttribute("src");
    this.#ahead = [];
    if (row) this.#settings.closed(row);
  }

  #onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const acts = {
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      Home: () => this.#go(0),
      End: () => this.#go(this.#rows.length - 1),
      z: () => this.#zoom(),
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    acts[event.key]();
  }
}

// A tap, a swipe, and dragging a picture that is larger than its stage.
function followPointer(stage, { tap, swipe, isWhole }) {
  let from = null;
  stage.addEventListener("pointerdown", (event) => {
    from = event.isPrimary && event.button === 0 ? { x: event.clientX, y: event.clientY, lastX: event.clientX, lastY: event.clientY } : null;
  });
  stage.addEventListener("pointermove", (event) => {
    if (!from || !isWhole() || event.pointerType !== "mouse") return;
    stage.scrollBy(from.lastX - event.clientX, from.lastY - event.clientY);
    Object.assign(from, { lastX: event.clientX, lastY: event.clientY });
  });
  stage.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x, y] = [event.clientX - from.x, event.clientY - from.y];
    from = null;
    if (Math.hypot(x, y) < 6) {
      if (event.target.tagName === "IMG") tap();
    } else if (event.pointerType === "touch" && !isWhole() && (visualViewport?.scale ?? 1) < 1.05 && Math.abs(x) > Math.max(50, 2 * Math.abs(y))) {
      swipe(x < 0 ? 1 : -1);
    }
  });
  stage.addEventListener("pointercancel", () => (from = null));
}
