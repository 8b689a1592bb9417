// Facts in words. Numbers are written alike wherever the page is opened; only times are the reader's own.

const whole = new Intl.NumberFormat("en");
const upTo2 = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const WHOLE_PROMPT_CHARS = 300; // as much as a tile or a name can show; the viewer has all of it

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const plural = (count, word) => `${whole.format(count)} ${word}${count === 1 ? "" : "s"}`;

function inBytes(bytes) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let step = 0;
  while (bytes >= 1000 && step < units.length - 1) {
    bytes /= 1000;
    step += 1;
  }
  return `${step ? Number(bytes.toPrecision(3)) : bytes} ${units[step]}`;
}

function inTime(seconds) {
  if (seconds < 60) return `${Number(seconds.toFixed(seconds < 10 ? 1 : 0))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  return `${whole.format(Math.floor(minutes / 60))} h ${minutes % 60} min`;
}

const inDate = (seconds) => {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? String(seconds) : moment.format(date);
};

// A text cut to what a tile can show, never between the halves of a character.
function short(text, chars = WHOLE_PROMPT_CHARS) {
  if (text.length <= chars) return text;
  const end = /[\uD800-\uDBFF]/.test(text[chars - 1]) ? chars - 1 : chars;
  return `${text.slice(0, end)}…`;
}

const STEPS = { sent: "being sent", accepted: "generating", completed: "on its way" };
const stateOf = (row) => (row.status === "running" ? STEPS[row.step] ?? "running" : row.status);
const promptOf = (row) => row.prompt ?? "Prompt not recorded";

// "16:9 · 2K · seed 11"; what is not known is left out.
const briefly = (row) =>
  [row.size, row.quality, isNumber(row.seed) ? `seed ${row.seed}` : null].filter((part) => part).join(" · ");

const nameOf = (row) =>
  [short(promptOf(row), 160), briefly(row), row.status === "failed" ? `failed: ${row.error ?? "unknown"}` : stateOf(row)]
    .filter((part) => part)
    .join(", ") + (row.is_missing ? ", file missing" : "");
