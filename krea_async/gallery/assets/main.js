// Puts the parts together: data comes in, what was chosen decides, the grid shows it.

const settings = JSON.parse(byId("settings").textContent);
const store = new Store();
store.totals = settings.totals;
const thumbnails = new Thumbnails(settings.live);
const chosen = readAddress();
const isNarrow = () => byId("sheet").clientWidth < 620;
let matching = [];
let pattern = null;
let isLoading = true;
let isDue = false;
let fresh = []; // rows that came since the last drawing
let isFollowed = false; // all that was there is here: what comes now has just happened

const grid = new Grid(byId("sheet"), { toolbar: byId("toolbar"), open: (row) => openViewer(row) });
const toolbar = new Toolbar(chosen, () => {
  writeAddress(chosen);
  update("top");
});
const viewer = new Viewer({
  sheet: settings,
  thumbnails,
  pattern: () => pattern,
  moved: (row) => {
    chosen.open = row.n;
    writeAddress(chosen);
  },
  closed: (row) => {
    if (chosen.open !== null) {
      chosen.open = null;
      if (history.state?.isViewer) history.back();
      else writeAddress(chosen);
    }
    grid.focus(row);
  },
});

function openViewer(row, isStep = true) {
  chosen.open = row.n;
  if (isStep) writeAddress(chosen, true);
  viewer.open(row, grid.rows);
}

// Everything anew, from the rows. mode: where the window stands afterwards (Grid.show).
function update(mode) {
  isDue = false;
  const changed = fresh;
  fresh = [];
  const found = select(store.rows, chosen);
  matching = found.rows;
  const next = patternOf(chosen.q);
  if (String(next) !== String(pattern)) pattern = next; // the same object means: the same marks
  toolbar.show(found.counts, changed);
  showTotals(store.totals, chosen, (facet, value) => toolbar.toggle(facet, value));
  showFoot(settings, store.totals);
  showCount();
  grid.changed(changed);
  lay(mode);
  viewer.update(grid.rows, changed);
  openAddressed();
}

function lay(mode) {
  const width = byId("sheet").clientWidth;
  const zoom = Number(byId("zoom").value);
  const target = Math.min(isNarrow() ? zoom * 0.75 : zoom, width);
  const groups = chosen.group ? groupsOf(matching) : [];
  const mixed = new Set(groups.filter((group) => group.isMixed).flatMap((group) => group.rows));
  const layout = chosen.group
    ? grouped(groups, { width, target: Math.min(target, 240), isNarrow: isNarrow() })
    : justified(matching, { width, target });
  grid.show(layout, { thumbnails, pattern, isLoading, caption: layout.caption, isNarrow: isNarrow(), isMixed: (row) => mixed.has(row) }, mode);
}

function showCount() {
  const total = store.rows.length;
  const words = matching.length === total ? plural(total, "row") : `${whole.format(matching.length)} of ${plural(total, "row")}`;
  if (byId("count").textContent !== words) byId("count").textContent = words;
  const isEmpty = matching.length === 0 && (total > 0 || !isLoading);
  byId("empty").hidden = !isEmpty;
  byId("empty-clear").hidden = total === 0;
  byId("empty-title").textContent = total ? "No row matches" : "Nothing rendered yet";
  byId("empty-words").textContent = total
    ? "Search for fewer words, or take a filter back."
    : settings.live ? "Pictures appear here as they land." : "Render into this directory, then make the sheet again.";
}

function soon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => update("stay"));
}

function takeRows(block) {
  fresh.push(...store.take(block, isFollowed));
  soon();
}

// A bookmarked picture opens once its row is there, and the one that is open becomes the row's new object after a reset.
function openAddressed() {
  const row = chosen.open === null ? undefined : store.row(chosen.open);
  if (row && row !== viewer.row) openViewer(row, false);
}

function takeBlock(block) {
  if (block.dataset.block === "rows") {
    takeRows(JSON.parse(block.textContent));
    block.remove();
    return;
  }
  if (block.dataset.block === "thumbnails") thumbnails.takeEmbedded(block);
  else thumbnails.takeLinks(block);
  grid.refresh(isLoading);
}

addEventListener("popstate", () => {
  const before = addressOf({ ...chosen, open: null });
  Object.assign(chosen, readAddress());
  if (chosen.open === null) viewer.close();
  if (addressOf({ ...chosen, open: null }) !== before) update("top");
  else openAddressed();
});

let lastWidth = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width !== lastWidth) lay("stay");
  lastWidth = contentRect.width;
}).observe(byId("sheet"));
addEventListener("resize", () => grid.render());
byId("zoom").addEventListener("input", ({ target }) => {
  remember("zoom", target.value);
  lay("stay");
});
listenToKeys({ toolbar, group: () => byId("group").click() });
setUpTheme();
byId("zoom").value = recall("zoom") ?? 200;

readBlocks(takeBlock, () => {
  isLoading = settings.live;
  update("stay");
  grid.refresh(isLoading);
  if (settings.live) {
    isLoading = false;
    new Live({
      rows: takeRows,
      totals: (totals) => {
        store.totals = totals;
        isFollowed = true;
        soon();
      },
      reset: () => {
        isFollowed = false;
        store.clear();
        soon();
      },
      waiting: () => {
        store.clear();
        store.totals = {};
        soon();
      },
    });
  }
});
update("stay");
