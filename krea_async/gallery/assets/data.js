// The rows, from the page's own blocks or from the server's events. A row keeps its object for life, so that what
// points at it (a tile, the open viewer) sees its changes.

class Store {
  rows = [];
  totals = {};
  #byNumber = new Map();

  // Takes {columns, rows} and returns the rows that are new or changed. `n` is the key. isFollowed: they just happened.
  take({ columns, rows }, isFollowed = false) {
    return rows.map((values) => {
      const fresh = {};
      for (let place = 0; place < columns.length; place += 1) fresh[columns[place]] = values[place];
      fresh.text = null; // what the search reads, made when it is first needed
      fresh.hasLanded = false;
      const known = this.#byNumber.get(fresh.n);
      if (!known) {
        this.#byNumber.set(fresh.n, fresh);
        this.rows.push(fresh);
        fresh.hasLanded = isFollowed && fresh.status === "saved";
        return fresh;
      }
      fresh.hasLanded = isFollowed && fresh.status === "saved" && known.status !== "saved";
      return Object.assign(known, fresh);
    });
  }

  row(n) {
    return this.#byNumber.get(n);
  }

  clear() {
    this.rows = [];
    this.#byNumber.clear();
  }
}

// Calls `take(element)` for each data block of the page once it is whole, while the rest is still being read.
function readBlocks(take, done) {
  const seen = new WeakSet();
  const look = (isWhole) => {
    for (const block of document.querySelectorAll("body > script[data-block]")) {
      if (seen.has(block) || !(isWhole || block.nextElementSibling)) continue; // the last may still be growing
      seen.add(block);
      take(block);
    }
  };
  const observer = new MutationObserver(() => look(false));
  const finish = () => {
    observer.disconnect();
    look(true);
    done();
  };
  observer.observe(document.body, { childList: true });
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", finish);
  else finish();
}
