// Where everything lies, for all rows at once: a few numbers a line in typed arrays, so 100,000 pictures are 1 MB and
// some milliseconds. Lines are headings or tiles; positions are pixels from the sheet's top.

const HEADING = 0;
const TILES = 1;
const GAP_PX = 8;
const CAPTION_PX = 24;
const HEADING_PX = 64;
const BAND_PX = 60; // for a band's size and quality, left of its tiles

function aspectOf(row) {
  let aspect = row.width > 0 && row.height > 0 ? row.width / row.height : NaN;
  if (!aspect && row.size) {
    const [across, down] = row.size.split(":");
    aspect = across / down;
  }
  return Number.isFinite(aspect) && aspect > 0 ? Math.min(Math.max(aspect, 0.4), 2.5) : 1;
}

class Layout {
  height = 0;
  kinds = []; // HEADING or TILES
  tops = [];
  heights = []; // of the line
  sides = []; // heights of the line's tiles, without captions
  firsts = []; // place of the line's first tile in `rows`
  counts = [];
  indents = []; // where the line's first tile begins; the band's name stands before it
  labels = []; // of a heading: its group; of a band's first line: the band
  rows; // in the order of the sheet, which is the viewer's as well

  constructor(rows, { width, caption = 0 }) {
    Object.assign(this, { rows, width, caption });
  }

  add(kind, { height, side = 0, first, count = 0, indent = 0, label = null, after = GAP_PX }) {
    this.kinds.push(kind);
    this.tops.push(this.height);
    this.heights.push(height);
    this.sides.push(side);
    this.firsts.push(first);
    this.counts.push(count);
    this.indents.push(indent);
    this.labels.push(label);
    this.height += height + after;
  }

  // The line that holds the pixel `y`, or the nearest one.
  lineAt(y) {
    return Math.max(0, after(this.tops, y) - 1);
  }

  // The line of the tile at `place`. A heading has the place of the tile after it, and comes before it.
  lineOf(place) {
    return Math.max(0, after(this.firsts, place) - 1);
  }

  // [left, width] of each tile of a line, in whole pixels, so that the right edges meet.
  across(line) {
    const side = this.sides[line];
    const rows = this.rows.slice(this.firsts[line], this.firsts[line] + this.counts[line]);
    const isFull = this.isFull(line);
    let left = this.indents[line];
    return rows.map((row, place) => {
      const from = Math.round(left);
      left += aspectOf(row) * side + GAP_PX;
      const end = isFull && place === rows.length - 1 ? this.width : Math.round(left - GAP_PX);
      return [from, Math.min(end, this.width) - from];
    });
  }

  isFull(line) {
    let width = this.indents[line] - GAP_PX;
    for (let place = 0; place < this.counts[line]; place += 1) {
      width += aspectOf(this.rows[this.firsts[line] + place]) * this.sides[line] + GAP_PX;
    }
    return Math.abs(width - this.width) < this.counts[line] + 2; // the height was rounded
  }
}

// How many of the ascending `values` are at most `value`.
function after(values, value) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Lines of one height that fill the width, as near to `target` as whole tiles allow.
function justified(rows, { width, target }) {
  const layout = new Layout(rows, { width });
  let first = 0;
  let aspects = 0;
  const close = (end, side) => {
    layout.add(TILES, { height: side, side, first, count: end - first });
    first = end;
    aspects = 0;
  };
  const filling = (sum, count) => (width - GAP_PX * (count - 1)) / sum;
  for (let place = 0; place < rows.length; place += 1) {
    const aspect = aspectOf(rows[place]);
    const side = filling(aspects + aspect, place + 1 - first);
    if (side > target) {
      aspects += aspect;
      continue;
    }
    const without = place > first ? filling(aspects, place - first) : Infinity;
    if (without - target < target - side && without < target * 1.6) {
      close(place, Math.floor(without));
      aspects = aspect;
      if (filling(aspect, 1) <= target) close(place + 1, Math.floor(filling(aspect, 1)));
    } else close(place + 1, Math.floor(side));
  }
  if (first < rows.length) close(rows.length, target);
  return layout;
}

// How many tiles of a band fit on a line, at least one.
function fitting(band, from, side, width) {
  let place = from;
  for (let left = width + GAP_PX; place < band.length; place += 1) {
    left -= Math.round(aspectOf(band[place]) * side) + GAP_PX;
    if (left < 0) break;
  }
  return Math.max(1, place - from);
}

// A heading for each group, then its bands; tiles keep their height, so that sizes can be compared.
function grouped(groups, { width, target, isNarrow }) {
  const rows = groups.flatMap((group) => group.rows);
  const layout = new Layout(rows, { width, caption: CAPTION_PX });
  let first = 0;
  for (const group of groups) {
    layout.add(HEADING, { height: HEADING_PX, first, label: group, after: 12 });
    const indent = isNarrow || group.isMixed ? 0 : BAND_PX;
    for (const band of group.bands) {
      const widest = band.reduce((most, row) => Math.max(most, aspectOf(row)), 0);
      const side = Math.min(target, Math.floor((width - indent) / widest));
      for (let from = 0; from < band.length; ) {
        const count = fitting(band, from, side, width - indent);
        layout.add(TILES, { height: side + CAPTION_PX, side, first, count, indent, label: from ? null : band });
        first += count;
        from += count;
      }
    }
    layout.height += 20;
  }
  return layout;
}
