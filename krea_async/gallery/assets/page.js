// The page around the sheet: theme, keys that work everywhere, and what is remembered of this reader's taste.

const KEYS = [
  [["←", "→", "↑", "↓"], "move between pictures"],
  [["Home", "End"], "first, last picture"],
  [["Page ↑", "Page ↓"], "a screen further"],
  [["Enter"], "open the picture"],
  [["←", "→"], "in the viewer: previous, next"],
  [["z"], "in the viewer: 100 %"],
  [["Esc"], "close"],
  [["/"], "search"],
  [["f"], "filters"],
  [["g"], "group by prompt"],
  [["?"], "this help"],
];

function listenToKeys({ toolbar, group }) {
  const help = byId("help");
  byId("help-keys").append(
    ...KEYS.flatMap(([keys, words]) => [
      make("dt", {}, ...keys.flatMap((key) => [make("kbd", {}, key), " "])),
      make("dd", {}, words),
    ]),
  );
  byId("help-open").addEventListener("click", () => help.showModal());
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment is the view's
    (byId("sheet").querySelector('[tabindex="0"]') ?? byId("sheet")).focus();
  });
  const acts = {
    "/": () => byId("search").select(),
    "?": () => help.showModal(),
    f: () => toolbar.toggleFilters(),
    g: group,
  };
  addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
    if (event.target.closest("input, select, textarea, dialog") || !Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    acts[event.key]();
  });
}

function setUpTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const show = () => byId("theme").setAttribute("aria-pressed", isDark());
  const wanted = recall("theme");
  if (wanted === "dark" || wanted === "light") document.documentElement.dataset.theme = wanted;
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    remember("theme", document.documentElement.dataset.theme);
    show();
  });
  dark.addEventListener("change", show);
  show();
}

// A browser may keep nothing for a file, or at all.
function remember(name, value) {
  try {
    localStorage.setItem(`krea-async ${name}`, value);
  } catch {
    return;
  }
}

function recall(name) {
  try {
    return localStorage.getItem(`krea-async ${name}`);
  } catch {
    return null;
  }
}
