// The window's scroll bar for a sheet of any height.
//
// Browsers cut elements off at 17 to 33 million pixels, and their compositors place them in 32-bit floats, which are
// blurred long before. Beyond MAX_PX the element stays that high: small movements stay as they are, large ones (the
// bar is dragged) are taken in proportion. `shift` is the difference between the sheet's pixels and the element's.

const MAX_PX = 4_000_000;

class Scroller {
  shift = 0;
  #element;
  #height = 0;
  #shown = 0; // of the element
  #lastY = 0;

  constructor(element) {
    this.#element = element;
  }

  resize(height) {
    this.#height = height;
    this.#shown = Math.min(height, MAX_PX);
    this.#element.style.height = `${Math.ceil(this.#shown)}px`;
    if (height <= MAX_PX) this.shift = 0;
  }

  // The sheet's pixel at the window's top; less than 0 while the masthead is in sight.
  get top() {
    return this.#y + this.shift;
  }

  get #y() {
    return -this.#element.getBoundingClientRect().top;
  }

  // To be called when the window was scrolled.
  follow() {
    const y = this.#y;
    const range = this.#shown - window.innerHeight;
    if (this.#height > this.#shown) {
      if (y <= 0) this.shift = 0;
      else if (y >= range) this.shift = this.#height - this.#shown;
      else if (Math.abs(y - this.#lastY) > 2 * window.innerHeight) {
        this.shift = Math.round((y / range) * (this.#height - this.#shown));
      }
    }
    this.#lastY = y;
  }

  // Scrolls so that the sheet's pixel `top` is at the window's top.
  go(top) {
    const bounded = Math.min(top, this.#height);
    let y = bounded;
    if (this.#height > this.#shown && bounded > 0) {
      const range = this.#shown - window.innerHeight;
      y = Math.min(range, (bounded / (this.#height - window.innerHeight)) * range);
      this.shift = Math.round(bounded - y);
    } else if (this.#height > this.#shown) this.shift = 0;
    this.#lastY = y;
    window.scrollTo({ top: window.scrollY + y - this.#y, behavior: "instant" });
  }
}
