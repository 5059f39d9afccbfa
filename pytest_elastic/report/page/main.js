// The page: draws on each change of the view, and listens to the mouse and the keys.

addEventListener("error", (event) => show("broken", `The page is broken: ${event.message}`));

const chart = byId("chart"), axis = byId("axis"), lanes = byId("lanes");
const LEAST_VIEW = 2; // Microseconds.
const laidOut = new Map();
let warp, view, shape, scale, framed = "", current = null, pinned = false, waiting = false, drag = null, refocusing = false, filling = 0, filled = false;

function setWarp(fold) {
  warp = makeWarp(raw.gaps, model.last, fold);
  view = wholeView();
}

// All of the run and a little more, so that what is open at the end can be seen.
function wholeView() {
  const length = warp.length || 1000;
  return { start: -0.01 * length, stop: 1.09 * length };
}

function zoom(factor, x) {
  const center = scale.place(x ?? scale.left + shape.plot / 2);
  setView(center - (center - view.start) * factor, center + (view.stop - center) * factor);
}

function setView(start, stop) {
  const whole = wholeView(), most = whole.stop - whole.start;
  const length = Math.min(most, Math.max(LEAST_VIEW, stop - start));
  const from = Math.min(Math.max(whole.start, stop - start < LEAST_VIEW ? (start + stop) / 2 - length / 2 : start), whole.stop - length);
  view = { start: from, stop: from + length };
  redraw();
}

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function draw() {
  shape = geometry(chart.clientWidth, model.shown.length);
  scale = makeScale(warp, view, shape);
  laidOut.clear();
  frame();
  const dense = model.shown.reduce((sum, lane) => sum + countInView(lane, scale), 0) > DENSE;
  for (const lane of model.shown) paintMarks(lane, dense ? rareMarks(lane, scale, shape, lane.vain, lane.lonely) : marksOf(lane), scale, shape);
  if (dense) paintDense(scale, shape);
  else canvas.hidden = true;
  crosshair(null);
  byId("grid").replaceChildren(paintGrid(warp, view, scale, shape));
  byId("folds").replaceChildren(...paintFolds(warp, scale, shape));
  byId("links").replaceChildren(...paintLinks(scale, shape, dense ? ["incomplete"] : ["complete", "incomplete"]));
  over().replaceChildren();
  paintAxis(axis, warp, view, scale, shape);
  const whole = wholeView();
  chart.dataset.zoomed = String(view.start > whole.start + 1e-6 || view.stop < whole.stop - 1e-6);
  clearTimeout(filling);
  if (model.lines.length > 2000 && filled) filling = setTimeout(fillInView, 300); // Not in the middle of a zoom.
  else fillInView();
}

// The lanes, without marks; they stay as long as neither they nor their size change.
function frame() {
  const lasts = `${shape.width} ${model.shown.map((lane) => lane.number)}`;
  if (lasts === framed) return;
  framed = lasts;
  const focused = document.activeElement?.closest?.("g.lane")?.dataset.lane;
  lanes.setAttribute("viewBox", `0 0 ${shape.width} ${shape.height}`);
  lanes.setAttribute("height", shape.height);
  const plot = el("clipPath", { id: "plot" }, el("rect", { x: shape.left, y: 0, width: shape.plot, height: shape.height }));
  const layer = (id) => el("g", { id, "clip-path": "url(#plot)" });
  lanes.replaceChildren(patterns(), plot, el("g", { id: "grid" }), ...model.shown.map((lane) => paintLane(lane, shape)), layer("folds"), layer("links"), el("g", { id: "over" }));
  refocusing = true; // The lanes are new elements: the focus stays where it was.
  if (focused !== undefined) lanes.querySelector(`[data-lane="${focused}"]`)?.focus({ preventScroll: true });
  refocusing = false;
}

// Where the marks of a lane are, for the mouse and the keys.
function marksOf(lane) {
  if (!laidOut.has(lane)) laidOut.set(lane, layoutLane(lane, scale, shape));
  return laidOut.get(lane);
}

function fillInView() {
  filled = true;
  fillLines(warp.time(view.start), warp.time(view.stop));
}

// The card, and the line under the mouse.

function choose(mark, lane, x, y) {
  current = mark && { mark, lane };
  chart.style.cursor = mark ? "pointer" : "";
  over().replaceChildren();
  if (!mark) return hideCard();
  const grown = mark.kind === "phase" ? 0 : 2;
  over().append(el("rect", { class: "chosen", x: mark.x0 - grown, y: mark.y0 - grown, width: mark.x1 - mark.x0 + 2 * grown, height: mark.y1 - mark.y0 + 2 * grown, rx: 4 }));
  fillCard(mark, lane);
  placeCard(x, y);
}

const over = () => byId("over");

function hideCard() {
  pinned = false;
  card.hidden = true;
  card.classList.remove("pinned");
}

function crosshair(x) {
  axis.querySelectorAll(".now").forEach((one) => one.remove());
  lanes.querySelectorAll(".now").forEach((one) => one.remove());
  if (x === null || x < scale.left || x > scale.right) return;
  const label = clockText(Math.max(0, scale.time(x)), Math.max(0.1, (view.stop - view.start) / shape.plot));
  const width = label.length * LETTER + 10, left = Math.min(Math.max(x - width / 2, scale.left), shape.width - width);
  lanes.append(el("line", { class: "now", x1: x, x2: x, y1: 0, y2: shape.height }));
  axis.append(el("rect", { class: "now plate", x: left, y: 9, width, height: 19, rx: 4 }), el("text", { class: "now", x: left + width / 2, y: 23, "text-anchor": "middle" }, label));
}

function pointOf(event) {
  const box = lanes.getBoundingClientRect();
  return { x: ((event.clientX - box.left) * shape.width) / box.width, y: ((event.clientY - box.top) * shape.width) / box.width };
}

function hover(event) {
  const { x, y } = pointOf(event);
  crosshair(x);
  if (pinned) return;
  const lane = model.shown[Math.floor((y - TOP) / shape.lane)];
  const mark = lane && x >= scale.left ? nearest(marksOf(lane), x, y) : null;
  choose(mark, lane, event.clientX, event.clientY);
}

function leave() {
  crosshair(null);
  if (!pinned) choose(null);
}

// Drag selects a span to zoom into; with shift it moves.

function press(event) {
  if (event.button !== 0) return;
  const { x } = pointOf(event);
  if (x < shape.left) return;
  drag = { x, from: { ...view }, move: event.shiftKey, far: false };
}

function pull(event) {
  if (!drag) return hover(event);
  const { x } = pointOf(event);
  drag.far ||= Math.abs(x - drag.x) > 4;
  if (!drag.far) return;
  if (drag.move) {
    const by = ((drag.x - x) / shape.plot) * (drag.from.stop - drag.from.start);
    return setView(drag.from.start + by, drag.from.stop + by);
  }
  choose(null);
  const [from, to] = [drag.x, x].sort((a, b) => a - b);
  over().replaceChildren(el("rect", { class: "selection", x: from, y: 0, width: to - from, height: shape.height }));
}

function release(event) {
  if (!drag) return;
  const { x } = pointOf(event), { far, move, x: from } = drag;
  drag = null;
  if (!far) return pin();
  if (!move) setView(scale.place(Math.min(from, x)), scale.place(Math.max(from, x)));
}

function pin() {
  pinned = Boolean(current) && !pinned;
  card.classList.toggle("pinned", pinned);
  if (!pinned) choose(null);
}

function turn(event) {
  const { x } = pointOf(event);
  if (x < shape.left) return;
  event.preventDefault();
  if (!pinned) choose(null);
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    const by = ((event.deltaX || event.deltaY) / shape.plot) * (view.stop - view.start);
    return setView(view.start + by, view.stop + by);
  }
  zoom(Math.exp(Math.sign(event.deltaY) * Math.min(0.5, Math.abs(event.deltaY) * 0.002)), x);
}

// Keys: arrows walk over the marks of the lane that has the focus.

function walk(lane, step) {
  const marks = [...marksOf(lane)].sort((a, b) => a.x0 - b.x0);
  if (!marks.length) return;
  const at = current?.lane === lane ? marks.findIndex((mark) => mark.items.includes(current.mark.items[0])) : -1;
  const next = at < 0 ? (step > 0 ? 0 : marks.length - 1) : Math.min(marks.length - 1, Math.max(0, at + step));
  keep(marks[next], lane);
}

function keep(mark, lane) {
  const box = lanes.getBoundingClientRect();
  pinned = true;
  choose(mark, lane, box.left + Math.min(mark.x1, mark.x0 + 60), box.top + mark.y1);
}

// To what is chosen, with as much again around it.
function zoomToChosen() {
  if (!current) return;
  const { x0, x1 } = current.mark, around = Math.max(x1 - x0, 8) / 2;
  setView(scale.place(x0 - around), scale.place(x1 + around));
}

function enter(event) {
  const lane = model.lanes[event.target.closest("g.lane")?.dataset.lane];
  if (lane && !refocusing && !drag && event.target.matches(":focus-visible")) walk(lane, 1);
}

function key(event) {
  if (event.target.matches?.("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const lane = model.lanes[event.target.closest?.("g.lane")?.dataset.lane];
  const ways = { "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1.67), 0: () => showAll(), z: () => zoomToChosen(), Escape: () => choose(null) };
  const steps = lane ? { ArrowRight: () => walk(lane, 1), ArrowLeft: () => walk(lane, -1), ArrowDown: () => goTo(lane.place + 1), ArrowUp: () => goTo(lane.place - 1) } : {};
  const act = ways[event.key] ?? steps[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function goTo(place) {
  if (place < 0 || place >= model.shown.length) return;
  choose(null);
  lanes.querySelector(`[data-lane="${model.shown[place].number}"]`)?.focus();
}

function showAll() {
  choose(null);
  view = wholeView();
  redraw();
}

function toggleFold() {
  const fold = byId("fold").getAttribute("aria-pressed") !== "true";
  byId("fold").setAttribute("aria-pressed", String(fold));
  setWarp(fold);
  redraw();
}

function start() {
  lastOpener();
  fillHead();
  fillLegend();
  fillUsage();
  fillFailure();
  fillStacks();
  placeLanes();
  setWarp(true);
  byId("fold").hidden = !warp.spans.some((span) => span.quiet);
  draw();
  indexWhenIdle();
  addEventListener("resize", redraw);
  for (const medium of ["print", "(prefers-color-scheme: dark)"]) matchMedia(medium).addEventListener("change", draw); // The canvas has no style.
  addEventListener("keydown", key);
  addEventListener("pointermove", (event) => (drag || lanes.contains(event.target) ? pull(event) : leave()));
  addEventListener("pointerup", release);
  lanes.addEventListener("pointerdown", press);
  lanes.addEventListener("dblclick", showAll);
  lanes.addEventListener("wheel", turn, { passive: false });
  chart.addEventListener("focusin", enter); // On the drawing itself it would make that a stop of the tab key.
  byId("fold").addEventListener("click", toggleFold);
  byId("closer").addEventListener("click", () => zoom(0.6));
  byId("farther").addEventListener("click", () => zoom(1.67));
  byId("all").addEventListener("click", showAll);
  byId("filter").addEventListener("input", redraw);
  byId("ranks").addEventListener("input", () => {
    choose(null);
    placeLanes();
    search();
    redraw();
  });
  byId("find").addEventListener("input", () => {
    search();
    redraw();
  });
  byId("find").addEventListener("keydown", (event) => event.key === "Enter" && nextHit(event.shiftKey ? -1 : 1));
  opener.addEventListener("change", chooseOpener);
  byId("copy").addEventListener("click", copyCommand);
  byId("lines").addEventListener("pointerover", (event) => crosshair(scale.x(Number(event.target.closest("li")?.dataset.at ?? -1))));
}

start();
