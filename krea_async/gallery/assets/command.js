// The command line that makes a picture again, safe to paste whatever the prompt says.

// One word of a POSIX shell. Control characters are no part of a quoted word on a terminal (^C ends the line), so a
// text that has any is written with bash's and zsh's escapes.
function quoted(text) {
  const sound = text.replaceAll("\0", "").toWellFormed();
  if (!/[\u0001-\u0009\u000b-\u001f\u007f-\u009f]/.test(sound)) return `'${sound.replaceAll("'", "'\\''")}'`;
  const escaped = sound.replace(/[\u0001-\u001f\u007f-\u009f'\\]/g, (character) => {
    if (character === "'" || character === "\\") return `\\${character}`;
    return `\\u${character.codePointAt(0).toString(16).padStart(4, "0")}`;
  });
  return `$'${escaped}'`;
}

function commandOf(row) {
  const words = ["krea-async", "generate"];
  const option = (name, value) => words.push(name, /^[\w:.-]+$/.test(value) ? value : quoted(value));
  if (row.size) option("--size", String(row.size));
  if (row.quality) option("--quality", String(row.quality));
  if (isNumber(row.seed)) option("--seed", String(row.seed));
  if (row.nsfw_check) words.push("--nsfw-check");
  return [...words, "--", quoted(row.prompt)].join(" ");
}
