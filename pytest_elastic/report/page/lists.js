// What stands around the chart: the head, the legend, the stacks, the log.

const MOST_LINES = 400;
const byId = (id) => document.getElementById(id);

function show(id, text) {
  byId(id).hidden = !text;
  byId(id).textContent = text;
}

function fillHead() {
  const said = raw.diagnosis;
  byId("title").textContent = raw.title;
  show("outcome", raw.outcome);
  byId("outcome").classList.add(raw.outcome === "passed" ? "good" : "bad");
  show("verdict", said?.verdict ?? "");
  show("cause", said?.cause ?? raw.failure?.summary.split("\n")[0] ?? "");
  show("text", said?.text ?? "");
  byId("diagnosis").hidden = !said?.text;
  byId("diagnosis").open = Boolean(said?.text) && said.text.split("\n").length <= 12;
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const facts = [count(raw.nprocs, "rank"), spanText(raw.end), ...Object.entries(raw.counts).map(([noun, number]) => count(number, noun))];
  byId("facts").textContent = facts.join(" · ");
  byId("left-out").hidden = !raw.leftOut.length;
  byId("left-out").replaceChildren(...raw.leftOut.map((text) => html("li", { textContent: `${text}: it would be too big. The newest are here, and what never ended well.` })));
}

const LEGEND = [
  ["bands", "setup, call, teardown", '<rect class="phase setup" x="1" y="1" width="7" height="14"/><rect class="phase call" x="8" y="1" width="7" height="14"/><rect class="phase teardown" x="15" y="1" width="7" height="14"/>'],
  ["wait", "wait", '<rect class="wait done" x="1" y="3" width="20" height="10" rx="2"/>'],
  ["never", "no answer", '<rect class="wait never" x="1" y="3" width="20" height="10" rx="2"/>'],
  ["call", "store call", '<path class="calls" d="M6 3V13M11 3V13M16 3V13"/>'],
  ["join", "barrier, collective", '<path class="link complete" d="M11 0V16"/><path class="join complete" d="M11 3l5 5l-5 5l-5 -5z"/>'],
  ["incomplete", "incomplete", '<path class="join incomplete" d="M6 3l5 5l-5 5l-5 -5z"/><circle class="absent" cx="17" cy="8" r="4"/>'],
  ["line", "log line", '<path class="dots" d="M6 8h0"/><path class="dots error" d="M15 8h0"/>'],
  ["failure", "failed here", '<rect class="failure" x="9" y="1" width="4" height="14"/>'],
  ["stood", "outside of the store", '<rect class="stood" x="6" y="3" width="10" height="10" rx="1"/>'],
  ["away", "not running", '<rect class="away" x="1" y="1" width="20" height="14"/>'],
  ["quiet", "quiet, drawn short", '<rect class="fold" x="1" y="1" width="20" height="14"/>'],
  ["found", "found", '<rect class="found" x="4" y="2" width="14" height="12" rx="3"/>'],
  ["exit", "exit", '<path class="exit bad" d="M6 3l10 10m0 -10l-10 10"/>'],
];

function fillLegend() {
  for (const [name, text, drawing] of LEGEND) {
    const picture = el("svg", { width: 22, height: 16, class: "key", "aria-hidden": "true" });
    picture.innerHTML = drawing; // Ours, from the table above.
    byId("legend").append(html("li", { className: name }, picture, text));
  }
}

// Bytes and time of each operation of each process group.
function fillUsage() {
  byId("usage").hidden = !raw.usage.length;
  const row = (cells, name = "td") => html("tr", {}, ...cells.map((text) => html(name, { textContent: text })));
  const heads = ["operation", "group", "calls", "bytes", "waited, all ranks", "longest from first to last", "last there"];
  byId("usage-rows").replaceChildren(row(heads, "th"), ...raw.usage.map(([operation, group, calls, size, waited, spread, late]) =>
    row([operation, group, calls.toLocaleString("en"), size.toLocaleString("en"), spanText(waited), spread ? spanText(spread) : "", late === null ? "" : `rank ${late}`])));
}

function fillStacks() {
  byId("stacks").hidden = !model.stacks.length;
  for (const stack of model.stacks) {
    const title = `${stack.ranks.length === 1 ? "rank" : "ranks"} ${rankText(stack.ranks)}`;
    const parts = stack.threads.map((frames, number) => threadPart(frames, stack.cut[number], number));
    const more = stack.more ? [html("p", { textContent: `${stack.more} more threads` })] : [];
    byId("stack-list").append(html("details", { open: model.stacks.length <= 4 }, html("summary", { textContent: title }), ...parts, ...more));
  }
}

function threadPart(frames, cut, number) {
  const part = html("div", {}, ...(number ? [html("h4", { textContent: "another thread" })] : []));
  if (cut) part.append(html("p", { textContent: `${cut} outer calls are not shown` }));
  part.append(html("ol", { className: "frames" }, ...frames.map(wholeFrame)));
  return part;
}

function wholeFrame([file, line, name]) {
  return html("li", {}, html("b", { textContent: name }), " ", placeLink(file, line, `${file}:${line || "?"}`));
}

// The lines of the span that the chart shows, and of the filter: `rank 3`, or text.
function fillLines(from, to) {
  if (!model.lines.length) return;
  byId("log").hidden = false;
  const wanted = byId("filter").value.trim().toLowerCase();
  const shown = (line) => model.lanes[line.lane].place >= 0;
  const suits = (line) => !wanted || model.lanes[line.lane].name === wanted || (!/^rank \d+$/.test(wanted) && (line.low ??= line.text.toLowerCase()).includes(wanted));
  const found = model.lines.slice(firstFrom(model.lines, from), firstFrom(model.lines, to + 1)).filter((line) => line.at <= to && shown(line) && suits(line));
  const last = found.slice(-MOST_LINES);
  byId("lines").replaceChildren(...last.map(lineItem));
  const all = model.lines.length.toLocaleString("en"), some = found.length.toLocaleString("en");
  const cut = last.length < found.length ? `, the last ${last.length} of them shown` : "";
  byId("log-count").textContent = found.length === model.lines.length && !cut ? `${all} ${found.length === 1 ? "line" : "lines"}` : `${some} of ${all} lines are in view${cut}`;
}

function lineItem(line) {
  const item = html("li", { className: line.error ? "error" : "" });
  item.dataset.at = line.at;
  item.append(html("span", { className: "at", textContent: clockText(line.at, 10) }), html("span", { className: "who", textContent: model.lanes[line.lane].name }), html("span", { className: "what", textContent: line.text }));
  return item;
}
