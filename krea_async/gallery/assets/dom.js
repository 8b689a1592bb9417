// The only place that makes elements. Text goes in as text nodes: a prompt never becomes markup.

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A code that may be broken after its underscores, and nowhere else.
const breakable = (code) => code.split(/(?<=_)/).flatMap((part, place) => (place ? [make("wbr"), part] : [part]));

// `text` as nodes, with what `pattern` (a RegExp with the flag g, or null) finds marked.
function marked(text, pattern) {
  const nodes = document.createDocumentFragment();
  let from = 0;
  for (const found of pattern ? text.matchAll(pattern) : []) {
    nodes.append(text.slice(from, found.index), make("mark", {}, found[0]));
    from = found.index + found[0].length;
  }
  nodes.append(text.slice(from));
  return nodes;
}
