// The card: what, when, how long, keys, and the stack of the rank.  Everything is set as text.

const card = document.getElementById("card");
const FRAMES = 7;

function html(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

function fillCard(mark, lane) {
  const [first] = mark.items;
  const said = mark.items.length > 1 ? manySaid(mark) : SAID[first.kind](first, lane);
  const list = html("dl");
  for (const [name, value] of said.rows) {
    if (value !== "" && value !== false && value != null) list.append(html("dt", { textContent: name }), html("dd", { textContent: value }));
  }
  card.replaceChildren(html("h3", { textContent: `${lane.name} ${said.title}`, className: said.bad ? "bad" : "" }), list, stackOf(lane));
}

function whenText(one) {
  return clockText(one.at, 1);
}

function lengthText(one, lane) {
  if (!one.open) return spanText(one.until - one.at);
  const seen = (lane.exit ? Math.max(lane.exit.at, one.at) : Math.max(model.last, one.at)) - one.at;
  return `${spanText(seen)} up to ${lane.exit ? "the rank's end" : "the last event"}; it never ended`;
}

const SAID = {
  wait: (one, lane) => ({
    title: { done: "waited", "timed out": "waited until its timeout", jumped: "waited; the clock jumped to its timeout", gone: "waited until it was gone", "never ended": "waits" }[one.how],
    bad: one.how !== "done",
    rows: [
      ["barrier", one.meeting && one.meeting.spec === undefined && shortTitle(one.meeting)],
      ...(one.meeting?.spec === undefined ? [] : [["collective", titleOf(one.meeting)], ...meetingRows(one.meeting)]),
      ["operation", one.meeting?.spec === undefined && one.name],
      ["asked for", one.meeting?.spec === undefined && keyText(one.keys, 8)],
      ["missing", one.meeting?.spec === undefined && keyText(one.missing, 8)],
      ["written by", one.writers.length > 0 && `${one.writers.length > 1 ? "ranks" : "rank"} ${rankText(one.writers)} alone`],
      ["when", whenText(one)],
      ["how long", lengthText(one, lane)],
      ["timeout", `${one.timeout === null ? "none" : spanText(one.timeout * 1e6)}${one.may ? ", counted on by the caller" : ""}`],
      ["released by", one.by && `${model.lanes[one.by.lane].name}: ${one.by.name} at ${clockText(one.by.at, 1)}`],
      ["connection", lane.clients.length > 1 ? one.client : ""],
    ],
  }),
  call: (one) => ({ title: `called ${one.name}`, rows: [["keys", keyText(one.keys, 8)], ["when", whenText(one)], ["effect", one.changed ? "" : "it changed nothing"], ["connection", one.client]] }),
  line: (one) => ({ title: `wrote to ${one.error ? "stderr" : "stdout"}`, rows: [["when", whenText(one)], ["text", cutText(one.text, 600)]] }),
  phase: (one, lane) => ({
    title: `${one.name}${one.outcome ? `: ${one.outcome}` : ""}`,
    bad: one.outcome === "failed",
    rows: [["when", whenText(one)], ["how long", lengthText(one, lane)], ["error", cutText(one.error, 600)], ["place", one.place]],
  }),
  join: ({ at, meeting }) => ({ title: `joined ${titleOf(meeting)}`, bad: !meeting.complete, rows: [["when", clockText(at, 1)], ...meetingRows(meeting)] }),
  absent: ({ meeting }) => ({ title: `never joined ${titleOf(meeting)}`, bad: true, rows: [["last join", clockText(meeting.last, 1)], ...meetingRows(meeting)] }),
  stood: (one) => ({ title: `was ${one.state}`, bad: true, rows: [["when", whenText(one)], ["waits in", one.channel], ["peer", one.peer]] }),
  exit: (one, lane) => ({
    title: one.code ? `ended: ${one.label}` : "ended cleanly",
    bad: one.code !== 0,
    rows: [["when", whenText(one)], ["exit code", one.code], ["pid", lane.start && lane.start.pid], ["lived for", lane.start && spanText(one.at - lane.start.at)]],
  }),
};

function titleOf(meeting) {
  return meeting.spec ? `${meeting.title}, ${meeting.spec}` : meeting.title;
}

// Who came when, and what each called.
function joinText(meeting) {
  const shown = meeting.joins.slice(0, 12).map((join) => `rank ${join.lane}: +${spanText(join.at - meeting.joins[0].at)}, ${join.said}`);
  return [...shown, ...(meeting.joins.length > 12 ? [`… and ${meeting.joins.length - 12} more`] : [])].join("\n");
}

function meetingRows(meeting) {
  const ranks = [...new Set(meeting.joins.map((join) => join.lane))];
  return [
    ["arrived", `${rankText(ranks)} (${meeting.joins.length} of ${meeting.expected})`],
    ["absent", meeting.complete ? "nobody" : rankText(meeting.absent)],
    ["who came when", meeting.spec !== undefined && joinText(meeting)],
    ["from first to last", meeting.joins.length > 1 && spanText(meeting.last - meeting.joins[0].at)],
  ];
}

// Several things that lie too close to be drawn apart.
function manySaid(mark) {
  const nouns = { call: "store calls", line: "log lines", wait: "short waits", join: "joins", absent: "meetings without it", stood: "states" };
  const { items } = mark, last = items[items.length - 1];
  const names = new Map();
  for (const one of items) {
    const name = one.kind === "line" ? (one.error ? "stderr" : "stdout") : one.meeting ? one.meeting.title : one.name ?? one.state;
    names.set(name, (names.get(name) ?? 0) + 1);
  }
  const counts = [...names].sort((a, b) => b[1] - a[1]).slice(0, 8).map(([name, count]) => `${name} × ${count.toLocaleString("en")}`);
  const shown = items.slice(0, 5).map((one) => (one.kind === "line" ? cutText(one.text, 120) : one.keys ? `${one.name} ${keyText(one.keys, 2)}` : "")).filter(Boolean);
  return {
    title: `${items.length.toLocaleString("en")} ${nouns[items[0].kind]}`,
    rows: [["what", counts.join(", ")], ["when", `${clockText(items[0].at, 1)} to ${clockText(last.at, 1)}`], ["the first", shown.join("\n")], ["", "zoom in to tell them apart"]],
  };
}

function cutText(text, most) {
  return text.length <= most ? text : `${text.slice(0, most)}… (${(text.length - most).toLocaleString("en")} more)`;
}

function stackOf(lane) {
  if (!lane.stack) return "";
  const [frames = []] = lane.stack.threads;
  const shown = frames.slice(-FRAMES);
  const list = html("ol", { className: "frames" }, ...shown.map(frameItem));
  const more = frames.length - shown.length;
  return html("div", { className: "stack" }, html("h4", { textContent: `${lane.name} stood here at the end` }), more > 0 ? html("p", { textContent: `… ${more} outer calls` }) : "", list);
}

function frameItem([file, line, name]) {
  const short = file.split("/").slice(-2).join("/");
  return html("li", { title: file }, html("b", { textContent: name }), " ", placeLink(file, line, `${short}:${line || "?"}`));
}

// Beside the point, inside the window.
function placeCard(x, y) {
  card.hidden = false;
  const { width, height } = card.getBoundingClientRect();
  const left = x + 18 + width < innerWidth ? x + 18 : Math.max(8, x - width - 18);
  const top = Math.min(Math.max(8, y + 14), Math.max(8, innerHeight - height - 8));
  card.style.left = `${left}px`;
  card.style.top = `${top}px`;
}
