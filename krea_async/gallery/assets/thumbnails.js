// Where a row's small picture comes from: a block of the page, a file beside it, or the server.
//
// Embedded ones stay what the parser made of them, one long text per block, until a tile of that block is in sight:
// nothing is decoded for the 20,000 that are not looked at.

const BLOCKS_KEPT = 24; // of about half a megabyte each

class Thumbnails {
  #places = new Map(); // n -> [block, place in it]
  #links = new Map(); // n -> url
  #notes = new Map(); // n -> why there is none
  #parsed = new Map(); // block -> its texts, the least lately used first
  #isLive;

  constructor(isLive) {
    this.#isLive = isLive;
  }

  takeEmbedded(block) {
    block.dataset.rows.split(" ").forEach((n, place) => this.#places.set(Number(n), [block, place]));
  }

  takeLinks(block) {
    for (const [n, url, note] of JSON.parse(block.textContent)) {
      if (url) this.#links.set(n, url);
      else this.#notes.set(n, note);
    }
  }

  // A URL for <img>, or null.
  of(row) {
    if (this.#isLive) return row.status === "saved" && !row.is_missing ? withToken(`thumbs/${row.n}.webp`) : null;
    for (const n of [row.n, row.copy_of]) {
      if (this.#links.has(n)) return this.#links.get(n);
      if (this.#places.has(n)) return this.#embedded(...this.#places.get(n));
    }
    return null;
  }

  note(row) {
    return this.#notes.get(row.n) ?? null;
  }

  #embedded(block, place) {
    const texts = this.#parsed.get(block) ?? JSON.parse(block.textContent);
    this.#parsed.delete(block);
    this.#parsed.set(block, texts);
    if (this.#parsed.size > BLOCKS_KEPT) this.#parsed.delete(this.#parsed.keys().next().value);
    return `data:image/webp;base64,${texts[place]}`;
  }
}

// The server wants the token that this page was opened with; a file has none.
function withToken(path) {
  const token = new URLSearchParams(location.search).get("token");
  return token === null ? path : `${path}?token=${encodeURIComponent(token)}`;
}

// The picture itself. Its name is hostile: encoded whole, and behind the directory no scheme can begin. Null: no URL can name it.
function pictureUrl(row, { live: isLive, base_url: base }) {
  if (!row.file) return null;
  try {
    const name = encodeURIComponent(row.file);
    if (name === "." || name === "..") return null;
    return isLive ? withToken(`pictures/${row.n}/${name}`) : base + name;
  } catch {
    return null; // a lone surrogate: a name that is no text
  }
}
