// What the viewer says of a row: its failure, the actions, and every fact that is known.

function showFacts(row, sheet, say) {
  const trouble = byId("trouble");
  trouble.hidden = row.status !== "failed";
  trouble.replaceChildren();
  if (row.status === "failed") {
    trouble.append(
      make("b", {}, row.error ?? "failed"),
      make("p", {}, row.message ?? ""),
      make("p", {}, `${chargeOf(row)} ${adviceFor(row.error)}`.trim()),
    );
  }
  byId("actions").replaceChildren(...actionsOf(row, sheet, say));
  byId("facts-list").replaceChildren(
    ...factsOf(row).flatMap(([name, value, isCode]) => [make("dt", {}, name), make("dd", { class: isCode ? "code" : null, dir: "auto" }, value)]),
  );
}

function actionsOf(row, sheet, say) {
  const copying = (label, name, text) => {
    const button = make("button", { type: "button", class: "plain" }, label);
    button.addEventListener("click", async () => say((await copy(text)) ? `${name} copied` : `${name} could not be copied`));
    button.addEventListener("click", () => flash(button, "Copied"));
    return button;
  };
  const url = row.status === "saved" ? pictureUrl(row, sheet) : null;
  return [
    row.prompt === null ? null : copying("Copy prompt", "Prompt", row.prompt),
    row.prompt === null ? null : copying("Copy command", "Command", commandOf(row)),
    row.task_id ? copying("Copy task id", "Task id", row.task_id) : null,
    url ? make("a", { class: "plain", href: url, target: "_blank", rel: "noopener noreferrer" }, "Open file") : null,
  ].filter((action) => action !== null);
}

function flash(button, words) {
  if (button.dataset.label !== undefined) return;
  button.dataset.label = button.textContent;
  button.style.minWidth = `${button.offsetWidth}px`;
  button.textContent = words;
  setTimeout(() => {
    button.textContent = button.dataset.label;
    delete button.dataset.label;
  }, 1200);
}

// [name, value, whether it is code]; what is not known is left out.
function factsOf(row) {
  const pixels = row.width && row.height ? ` (${row.width} × ${row.height})` : "";
  return [
    ["Status", row.status === "running" ? stateOf(row) : row.status],
    ["Size", row.size ? row.size + pixels : pixels.trim()],
    ["Quality", row.quality],
    ["Seed", isNumber(row.seed) ? String(row.seed) : null],
    ["Moderation", row.nsfw_check ? "strict" : null],
    ["Credits", isNumber(row.credits) ? upTo2.format(row.credits) + (row.status === "running" ? " reserved" : "") : null],
    ["Time", isNumber(row.seconds) ? inTime(row.seconds) : null],
    ["Ended", isNumber(row.at_s) ? inDate(row.at_s) : null],
    ["File size", isNumber(row.bytes) ? inBytes(row.bytes) : null],
    ["Row", isNumber(row.index) ? String(row.index) : null],
    ["Id", row.id, true],
    ["File", row.file, true],
    ["Same picture as", isNumber(row.copy_of) ? `row ${row.copy_of}` : null],
    ["Task", row.task_id, true],
  ].filter(([, value]) => value);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // a browser that has no clipboard for files
  }
}

function copyBySelection(text) {
  const area = make("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  byId("viewer").append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  return isCopied;
}
