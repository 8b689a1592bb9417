// Which rows are shown, and in what order. Pure: rows and what was chosen go in, rows and counts come out.

const FACETS = ["status", "size", "quality", "error"];
const SIZES = ["1:2", "9:16", "2:3", "3:4", "4:5", "1:1", "5:4", "4:3", "3:2", "16:9", "2:1"]; // tall to wide
const STATUSES = ["saved", "failed", "running", "waiting"];

const last = Number.MAX_VALUE; // what is not known comes last, whichever way the others go
const by = (key) => (row) => (isNumber(row[key]) ? row[key] : null);
const placeOf = (size) => (SIZES.includes(size) ? SIZES.indexOf(size) : SIZES.length);
const SORTS = {
  index: { label: "List order", key: by("index") },
  newest: { label: "Newest", key: (row) => (isNumber(row.at_s) ? -row.at_s : null) },
  prompt: { label: "Prompt", key: (row) => (row.prompt === null ? null : textOf(row)) },
  size: { label: "Size", key: (row) => (row.size ? placeOf(row.size) * 10 + (row.quality === "2K" ? 1 : 0) : null) },
  seed: { label: "Seed", key: by("seed") },
  credits: { label: "Credits", key: by("credits") },
  time: { label: "Time taken", key: by("seconds") },
  bytes: { label: "File size", key: by("bytes") },
};

const textOf = (row) => (row.text ??= [row.prompt, row.id, row.file, row.task_id].filter(Boolean).join("\n").toLowerCase());
const wordsOf = (query) => query.toLowerCase().split(/\s+/).filter(Boolean);

// What marks the words of a query in a text, or null.
function patternOf(query) {
  const words = query.split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  words.sort((one, other) => other.length - one.length); // of two that begin alike the longer one is marked
  return new RegExp(words.map((word) => word.replace(/[.*+?^${}()|[\]\\\/-]/g, "\\$&")).join("|"), "gi");
}

// The rows that match, in order, and for each facet how many would if only the facet's other choices were dropped.
function select(rows, chosen) {
  const words = wordsOf(chosen.q);
  const active = FACETS.filter((facet) => chosen[facet].size);
  const counts = Object.fromEntries(FACETS.map((facet) => [facet, new Map()]));
  const count = (facet, row) => {
    if (row[facet] !== null) counts[facet].set(row[facet], (counts[facet].get(row[facet]) ?? 0) + 1);
  };
  const matching = [];
  for (const row of rows) {
    if (words.length && !words.every((word) => textOf(row).includes(word))) continue;
    const failing = active.filter((facet) => !chosen[facet].has(row[facet]));
    if (failing.length === 0) {
      matching.push(row);
      for (const facet of FACETS) count(facet, row);
    } else if (failing.length === 1) count(failing[0], row);
  }
  return { rows: sorted(matching, chosen.sort, chosen.desc), counts };
}

function sorted(rows, name, isDescending) {
  const { key } = SORTS[name];
  const sign = isDescending ? -1 : 1;
  const keyed = rows.map((row) => [key(row), row]);
  keyed.sort(([one, a], [other, b]) => {
    if (one === other) return sign * (a.n - b.n);
    if (one === null || other === null) return one === null ? 1 : -1;
    return one < other ? -sign : sign;
  });
  return keyed.map(([, row]) => row);
}

// One group for each prompt, in the order of their first rows; in it bands of one size and quality, seeds in order.
function groupsOf(rows) {
  const groups = new Map();
  for (const row of rows) {
    const group = groups.get(row.prompt);
    if (group) group.push(row);
    else groups.set(row.prompt, [row]);
  }
  const rank = (row) => placeOf(row.size) * 10 + (row.quality === "2K" ? 1 : 0);
  return Array.from(groups.values(), (group) => {
    group.sort((a, b) => rank(a) - rank(b) || (a.seed ?? last) - (b.seed ?? last) || a.n - b.n);
    const bands = [];
    for (const row of group) {
      const band = bands.at(-1);
      if (band && band[0].size === row.size && band[0].quality === row.quality) band.push(row);
      else bands.push([row]);
    }
    // One of each kind: side by side on one line, and the captions tell them apart.
    return bands.length > 1 && bands.length === group.length ? { rows: group, bands: [group], isMixed: true } : { rows: group, bands };
  });
}
