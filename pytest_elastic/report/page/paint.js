// From marks to SVG.  Dense kinds (calls, lines; joins and short waits, where there are many) are one path for each
// lane; where there are very many, they are not here, but in `dense.js`.  What has a meaning alone is an element.

const SVG = "http://www.w3.org/2000/svg";
const LETTER = 6.65; // Pixels that a letter of the chart's font is wide.
const BOLD = 7.3; // The same for a rank's name.

function el(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, typeof value === "number" ? round(value) : value);
  element.append(...children);
  return element;
}

const round = (value) => Math.round(value * 10) / 10;

function fitText(text, width, least = 4) {
  const letters = Math.floor(width / LETTER);
  return text.length <= letters ? text : letters >= least ? `${text.slice(0, letters - 1)}…` : "";
}

// The first of these texts that fits, else as much of the last as does.
function fitFirst(texts, width, least) {
  return fitText(texts.find((text) => fitText(text, width) === text) ?? texts[texts.length - 1], width, least);
}

function patterns() {
  const stripes = (id, size, width) => el("pattern", { id, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    el("rect", { width: size, height: size, class: `${id}-ground` }), el("rect", { width, height: size, class: `${id}-stripe` }));
  return el("defs", {}, stripes("hatch", 7, 3), stripes("away", 6, 1));
}

// A lane without its marks: they change with the view, it does not.  What is read aloud is in its label.
function paintLane(lane, shape) {
  const top = shape.top(lane.place);
  const group = el("g", { class: `lane${lane.state.bad ? " bad" : ""}${lane.culprit ? " culprit" : ""}${shape.tall ? "" : " compact"}`, role: "listitem", tabindex: "0", "data-lane": lane.number, "aria-label": `${lane.title}: ${lane.state.text || "nothing is known"}` });
  group.append(el("rect", { class: "ground", x: 0, y: top, width: shape.width, height: shape.lane }));
  if (lane.culprit) group.append(el("rect", { class: "mark", x: 0, y: top, width: 5, height: shape.lane }));
  paintLabel(group, lane, top, shape);
  lane.plot = el("g", { "clip-path": "url(#plot)" });
  group.append(lane.plot, el("line", { class: "edge", x1: 0, x2: shape.width, y1: top + shape.lane, y2: top + shape.lane }));
  return group;
}

function paintMarks(lane, marks, scale, shape) {
  const clip = document.createDocumentFragment();
  paintAway(clip, lane, shape.top(lane.place), scale, shape);
  const dense = marks.length > MANY ? new Map() : null;
  for (const mark of marks) {
    const outline = dense && OUTLINE[mark.kind]?.(mark);
    if (outline) dense.set(outline.name, (dense.get(outline.name) ?? "") + outline.path);
    else PAINT[mark.kind]?.(clip, mark, shape, lane);
  }
  for (const [name, path] of dense ?? []) clip.append(el("path", { class: name, d: path }));
  paintDots(clip, marks);
  paintHits(marks, clip);
  lane.plot.replaceChildren(clip);
}

function paintLabel(group, lane, top, shape) {
  const middle = top + shape.lane / 2;
  if (shape.tall) {
    group.append(el("text", { class: "name", x: 14, y: middle - 4 }, lane.title));
    group.append(el("text", { class: "state", x: 14, y: middle + 13 }, fitFirst([lane.state.text, lane.state.short, lane.state.first], shape.left - 24)));
  } else {
    group.append(el("text", { class: "name", x: 14, y: middle + 4 }, lane.title));
    const start = 14 + lane.title.length * BOLD + 8;
    group.append(el("text", { class: "state", x: start, y: middle + 4 }, fitFirst([lane.state.short, lane.state.first], shape.left - 8 - start)));
  }
  group.append(el("title", {}, `${lane.title}: ${lane.state.text}`));
}

// Before a rank's start and after its end there is nothing.
function paintAway(clip, lane, top, scale, shape) {
  const blank = (from, to) => to > from && clip.append(el("rect", { class: "away", x: from, y: top, width: to - from, height: shape.lane }));
  if (lane.start) blank(scale.left, Math.min(scale.right, scale.x(lane.start.at)));
  if (lane.exit) blank(Math.max(scale.left, scale.x(lane.exit.at)), scale.right);
}

const MANY = 120, SHORT = 12; // Marks of a lane; pixels.

function diamond(mark) {
  const y = (mark.y0 + mark.y1) / 2, size = Math.min(5, (mark.y1 - mark.y0) / 2);
  return `M${round(mark.x)} ${round(y - size)}l${size} ${size}l${-size} ${size}l${-size} ${-size}z`;
}

// What of a kind is like all the others there: its class and its path.
const OUTLINE = {
  wait(mark) {
    const width = Math.max(mark.x1 - mark.x0, 1);
    if (width >= SHORT || mark.items.some((wait) => wait.how !== "done")) return null;
    return { name: `wait ${mark.items.length > 1 ? "many" : "done"}`, path: `M${Math.round(mark.x0)} ${Math.round(mark.y0)}h${Math.ceil(width)}V${Math.round(mark.y1)}h${-Math.ceil(width)}z` };
  },
  joins(mark) {
    return mark.items.every((join) => join.meeting.complete) ? { name: "join complete", path: diamond(mark) } : null;
  },
};

const PAINT = {
  phase(clip, mark, shape) {
    const [phase] = mark.items, width = mark.x1 - mark.x0;
    const kind = ["setup", "call", "teardown"].includes(phase.name) ? phase.name : "other";
    clip.append(el("rect", { class: `phase ${kind} ${phase.outcome}`, x: mark.x0, y: mark.y0, width: Math.max(width, 0.5), height: mark.y1 - mark.y0 }));
    if (phase.outcome === "failed" && mark.ends) clip.append(el("rect", { class: "failure", x: Math.max(mark.x0, mark.x1 - 3), y: mark.y0, width: 3, height: mark.y1 - mark.y0 }));
  },
  wait(clip, mark, shape) {
    const [wait] = mark.items, width = Math.max(mark.x1 - mark.x0, 1), height = mark.y1 - mark.y0;
    const kind = mark.items.length > 1 ? "many" : wait.how === "done" ? "done" : "never";
    clip.append(el("rect", { class: `wait ${kind}`, "data-how": wait.how, x: mark.x0, y: mark.y0, width, height, rx: Math.min(3, width / 2) }));
    if (kind === "many") return;
    paintWaitLabel(clip, wait, mark.x0, mark.x1, mark.y0, mark.y1);
  },
  joins(clip, mark) {
    const bad = mark.items.some((join) => !join.meeting.complete);
    clip.append(el("path", { class: `join ${bad ? "incomplete" : "complete"}`, d: diamond(mark) }));
  },
  absent(clip, mark) {
    clip.append(el("circle", { class: "absent", cx: mark.x, cy: (mark.y0 + mark.y1) / 2, r: Math.min(5, (mark.y1 - mark.y0) / 2) }));
  },
  stood(clip, mark, shape) {
    const [stood] = mark.items, y = (mark.y0 + mark.y1) / 2, size = Math.min(5, (mark.y1 - mark.y0) / 2);
    clip.append(el("rect", { class: "stood", x: mark.x - size, y: y - size, width: 2 * size, height: 2 * size, rx: 1 }));
    clip.append(el("text", { class: "stood-name", x: mark.x + size + 4, y: y + 4 }, stood.state));
  },
  exit(clip, mark, shape) {
    const [exit] = mark.items, y = (mark.y0 + mark.y1) / 2, size = Math.min(6, (mark.y1 - mark.y0) / 2), x = round(mark.x);
    const kind = exit.code ? "bad" : "clean";
    clip.append(el("path", { class: `exit ${kind}`, d: `M${round(x - size)} ${round(y - size)}l${2 * size} ${2 * size}m0 ${-2 * size}l${-2 * size} ${2 * size}` }));
    const left = mark.x + size + 5 + exit.label.length * LETTER > shape.left + shape.plot;
    if (!exit.code || (left && !shape.tall)) return; // The cross says it; a name would hide a wait in a low lane.
    clip.append(el("text", { class: `exit-name ${kind}`, x: mark.x + (left ? -size - 5 : size + 5), y: y + 4, "text-anchor": left ? "end" : "start" }, exit.label));
  },
};

function paintWaitLabel(clip, wait, x0, x1, y0, y1) {
  const done = wait.how === "done", height = y1 - y0, y = y0 + height / 2 + 4;
  const label = height < 11 ? "" : fitFirst(waitLabels(wait), x1 - x0 - (done ? 20 : 34), 12);
  if (!label) return;
  // Where a hang begins there are joins and absent ranks: what never ended is named at its other end.
  const x = done ? x0 + 11 : x1 - label.length * LETTER - 11;
  if (!done) clip.append(el("rect", { class: "plate", x: x - 3, y: y - 11, width: label.length * LETTER + 6, height: 15, rx: 3 }));
  clip.append(el("text", { class: `said ${done ? "done" : "never"}`, x, y }, label));
}

function waitLabels(wait) {
  const { meeting, how } = wait, name = lacking(wait).names[0] ?? wait.name;
  const aims = meeting ? (meeting.spec === undefined ? [meeting.title, shortTitle(meeting)] : [titleOf(meeting), meeting.title]) : [name];
  return how === "done" || how === "never ended" ? aims : [...aims.map((aim) => `${how}: ${aim}`), aims[aims.length - 1]];
}

function paintDots(clip, marks) {
  const paths = { calls: "", out: "", error: "" };
  for (const mark of marks) {
    if (mark.kind === "calls") paths.calls += `M${Math.round(mark.x)} ${Math.round(mark.y0)}V${Math.round(mark.y1)}`;
    if (mark.kind === "lines") paths[mark.items.some((line) => line.error) ? "error" : "out"] += `M${Math.round(mark.x)} ${Math.round((mark.y0 + mark.y1) / 2)}h0`;
  }
  if (paths.calls) clip.append(el("path", { class: "calls", d: paths.calls }));
  if (paths.out) clip.append(el("path", { class: "dots", d: paths.out }));
  if (paths.error) clip.append(el("path", { class: "dots error", d: paths.error }));
}

// A barrier's or a collective's joins are tied together, the absent ranks with them; of many at one place one is drawn.
function ties(scale, shape, complete) {
  const found = [], places = new Set();
  for (const meeting of model.meetings) {
    if (meeting.complete !== complete) continue;
    const from = scale.x(meeting.joins[0].at), to = scale.x(meeting.last), place = Math.round(to / 3);
    if (to < scale.left || from > scale.right || (complete && places.has(place))) continue;
    places.add(place);
    const points = [...meeting.joins.map((join) => [join.lane, scale.x(join.at)]), ...meeting.absent.map((rank) => [rank, to])].filter(([lane]) => model.lanes[lane]?.place >= 0);
    found.push(points.map(([lane, x]) => [x, shape.top(model.lanes[lane].place) + 0.35 * shape.lane]).sort((a, b) => a[1] - b[1]));
  }
  return found;
}

function paintLinks(scale, shape, kinds) {
  return kinds.flatMap((kind) => ties(scale, shape, kind === "complete").map((points) =>
    el("path", { class: `link ${kind}`, d: points.map(([x, y], i) => `${i ? "L" : "M"}${round(x)} ${round(y)}`).join("") })));
}

// Spans that are drawn short, and the last event.
function paintFolds(warp, scale, shape) {
  const folds = warp.spans.filter((one) => one.quiet).map((span) => {
    const x = scale.x(span.from), width = scale.x(span.to) - x;
    return el("rect", { class: "fold", x, y: 0, width, height: shape.height });
  });
  const last = scale.x(model.last);
  return [...folds, el("line", { class: "last", x1: last, x2: last, y1: 0, y2: shape.height })];
}

function paintAxis(axis, warp, view, scale, shape) {
  const height = 34;
  axis.setAttribute("viewBox", `0 0 ${shape.width} ${height}`);
  axis.setAttribute("height", height);
  axis.replaceChildren(el("text", { class: "axis-title", x: 14, y: 22 }, "since the first event"));
  let free = shape.left - 8;
  const folds = warp.spans.filter((span) => span.quiet).map((span) => ({ from: scale.x(span.from), to: scale.x(span.to), text: `⋯ ${spanText(span.to - span.from)} ⋯` }));
  for (const fold of folds) {
    if (fold.to < scale.left || fold.from > scale.right) continue;
    const middle = (fold.from + fold.to) / 2;
    axis.append(el("text", { class: "fold-name", x: middle, y: 11, "text-anchor": "middle" }, fold.text));
  }
  for (const tick of ticks(warp, view, shape.plot, shape.apart)) {
    const x = scale.x(tick.time), half = (tick.label.length * LETTER) / 2;
    axis.append(el("line", { class: "tick", x1: x, x2: x, y1: 28, y2: height }));
    if (x - half < free || x + half > shape.width) continue;
    axis.append(el("text", { class: "tick-name", x, y: 23, "text-anchor": "middle" }, tick.label));
    free = x + half + 12;
  }
}

function paintGrid(warp, view, scale, shape) {
  const path = ticks(warp, view, shape.plot, shape.apart).map((tick) => `M${round(scale.x(tick.time))} 0V${shape.height}`).join("");
  return el("path", { class: "grid", d: path });
}
