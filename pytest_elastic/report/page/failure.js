// What the test's report says: traceback, what else failed, how to run it again, and what it ran in.

const PLACE = /(^|[\s("])((?:[\w.+~-]+\/|\/)*[\w.+~-]+\.py)(?::|", line )(\d+)/g;

// A place in a file, as a link: what opens it does so on the machine where the file is.
const OPENERS = { browser: (path, line) => `file://${path}#L${line}`, vscode: (path, line) => `vscode://file${path}:${line}` };
const opener = document.querySelector("#opener select");

function placeLink(file, line, text) {
  const path = file.startsWith("/") ? file : `${raw.root}/${file}`;
  const link = html("a", { title: `${path}:${line}`, textContent: text });
  Object.assign(link.dataset, { path: encodeURI(path).replace(/[#?]/g, encodeURIComponent), line });
  return aim(link);
}

function aim(link) {
  link.href = OPENERS[opener.value](link.dataset.path, link.dataset.line);
  return link;
}

// The choice is kept for other pages, where the browser lets pages from disk keep anything.
function chooseOpener() {
  document.querySelectorAll("a[data-path]").forEach(aim);
  try {
    localStorage.setItem("elastic-opener", opener.value);
  } catch {}
}

function lastOpener() {
  try {
    const last = localStorage.getItem("elastic-opener");
    if (last in OPENERS) opener.value = last;
  } catch {}
}

function withLinks(text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(PLACE)) {
    const start = found.index + found[1].length;
    parts.push(text.slice(end, start), placeLink(found[2], Number(found[3]), text.slice(start, found.index + found[0].length)));
    end = found.index + found[0].length;
  }
  return [...parts, text.slice(end)];
}

// Lines of a traceback that begin with `E` say what is wrong, those with `>` where.
function tracePart(text) {
  const kinds = { E: "wrong", ">": "here" };
  return html("pre", {}, ...text.split("\n").flatMap((line) => [html("span", { className: kinds[line[0]] ?? "" }, ...withLinks(line)), "\n"]));
}

function fillFailure() {
  const said = raw.failure;
  if (said) {
    show("headline", said.headline);
    byId("failure").hidden = !(said.text || said.sections.length);
    if (said.text) byId("trace").append(tracePart(said.text));
    for (const [title, text] of said.sections) {
      byId("trace").append(html("details", {}, html("summary", { textContent: title }), tracePart(text)));
    }
  }
  byId("replay").hidden = !raw.replay;
  byId("command").textContent = raw.replay;
  byId("environment").hidden = !raw.environment.length;
  for (const [name, value] of raw.environment) {
    byId("environment-rows").append(html("dt", { textContent: name }), html("dd", { textContent: value }));
  }
}

async function copyCommand() {
  const range = document.createRange();
  range.selectNodeContents(byId("command"));
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  await navigator.clipboard?.writeText(raw.replay).catch(() => {}); // It is selected, for the keys.
}
