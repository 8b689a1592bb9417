// What was chosen, as the URL's fragment: a view can be bookmarked, sent to someone, and gone back to.

const nothingChosen = () => ({
  q: "", status: new Set(), size: new Set(), quality: new Set(), error: new Set(),
  sort: "index", desc: false, group: false, open: null,
});

function readAddress() {
  const chosen = nothingChosen();
  const given = new URLSearchParams(location.hash.slice(1));
  chosen.q = given.get("q") ?? "";
  for (const facet of FACETS) chosen[facet] = new Set(given.getAll(facet));
  if (Object.hasOwn(SORTS, given.get("sort") ?? "")) chosen.sort = given.get("sort");
  chosen.desc = given.has("desc");
  chosen.group = given.get("group") === "prompt";
  chosen.open = /^\d+$/.test(given.get("open") ?? "") ? Number(given.get("open")) : null;
  return chosen;
}

function addressOf(chosen) {
  const given = new URLSearchParams();
  if (chosen.q) given.set("q", chosen.q);
  for (const facet of FACETS) for (const value of chosen[facet]) given.append(facet, value);
  if (chosen.sort !== "index") given.set("sort", chosen.sort);
  if (chosen.desc) given.set("desc", "1");
  if (chosen.group) given.set("group", "prompt");
  if (chosen.open !== null) given.set("open", chosen.open);
  return given.toString();
}

// `isStep`: the back button undoes it.
function writeAddress(chosen, isStep = false) {
  const hash = addressOf(chosen);
  const url = `${location.pathname}${location.search}${hash ? `#${hash}` : ""}`;
  if (isStep) history.pushState({ isViewer: true }, "", url);
  else history.replaceState(history.state, "", url);
}
