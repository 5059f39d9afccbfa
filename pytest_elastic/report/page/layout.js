// Where everything is, in pixels: from the model and a view to marks; nothing is drawn here.

// A mark has a kind, a box, and the items that it stands for: what lies below a few pixels is one mark.
const RIGHT = 18, TOP = 6;
const CLOSE = 2.5; // Pixels: calls, lines and short waits nearer than this are drawn, and told, as one.

function laneHeight(count) {
  return count <= 8 ? 54 : count <= 16 ? 42 : count <= 32 ? 28 : 21;
}

function geometry(width, count) {
  const lane = laneHeight(count), left = Math.min(264, Math.max(150, Math.round(width / 5)));
  return { width, lane, tall: lane >= 40, left, plot: Math.max(100, width - left - RIGHT), apart: width < 700 ? 70 : 95, height: TOP + lane * count + 8, top: (place) => TOP + lane * place };
}

// The view's part of the warp, and the way from times to pixels.
function makeScale(warp, view, shape) {
  const perPlace = shape.plot / (view.stop - view.start);
  // Where times are in order: the left edge and the pixels for each microsecond of each span.
  const spans = warp.spans.map(({ from, to, start, stop }) => {
    const rate = (perPlace * (stop - start)) / (to - from);
    return { to, rate, left: shape.left + (start - view.start) * perPlace - from * rate };
  });
  return {
    spans,
    x: (time) => (time === Infinity ? shape.left + shape.plot : shape.left + (warp.place(time) - view.start) * perPlace),
    place: (x) => view.start + (x - shape.left) / perPlace,
    time: (x) => warp.time(view.start + (x - shape.left) / perPlace),
    left: shape.left,
    right: shape.left + shape.plot,
    from: warp.time(view.start - (view.stop - view.start) / 100), // Outside of these times nothing is drawn.
    to: warp.time(view.stop + (view.stop - view.start) / 100),
  };
}

const ROWS = { wait: [0.14, 0.56], call: [0.62, 0.8], line: [0.84, 0.98] };

// Where a lane has its waits, calls or lines: the upper and the lower edge.
function rowOf(name, lane, shape) {
  return ROWS[name].map((part) => shape.top(lane.place) + part * shape.lane);
}

function layoutLane(lane, scale, shape) {
  return [
    ...rareMarks(lane, scale, shape, lane.waits, lane.joins),
    ...pointMarks(lane.calls, scale, rowOf("call", lane, shape), "calls", 0.75),
    ...pointMarks(lane.lines, scale, rowOf("line", lane, shape), "lines", 2.5),
  ];
}

// The marks that mean something alone, with these waits and joins of the lane.
function rareMarks(lane, scale, shape, waits, joins) {
  const top = shape.top(lane.place), row = rowOf("wait", lane, shape);
  return [
    ...lane.phases.map((one) => spanMark(one, scale, [top + 1, top + shape.lane - 1])).filter(Boolean),
    ...waitMarks(waits, lane.clients, scale, row),
    ...pointMarks(lane.stood, scale, row, "stood", 6),
    ...pointMarks(lane.absent, scale, row, "absent", 6),
    ...pointMarks(joins, scale, row, "joins", 5),
    ...pointMarks(lane.exit ? [lane.exit] : [], scale, row, "exit", 7),
  ];
}

function spanMark(one, scale, [y0, y1]) {
  const x0 = Math.max(scale.left, scale.x(one.at)), x1 = Math.min(scale.right, scale.x(one.stop));
  if (x1 < scale.left || x0 > scale.right) return null;
  return { kind: one.kind, x0, x1: Math.max(x1, x0), y0, y1, items: [one], ends: scale.x(one.stop) <= scale.right };
}

// Each connection of a rank has a row of its own, so that waits of its threads do not hide each other.
function waitMarks(waits, clients, scale, [y0, y1]) {
  const height = (y1 - y0) / Math.max(1, Math.min(4, clients.length));
  const marks = [], open = new Map();
  for (const wait of waits) {
    if (wait.at > scale.to) break;
    if (wait.stop < scale.from) continue;
    const row = clients.indexOf(wait.client) % 4;
    const mark = spanMark(wait, scale, [y0 + row * height, y0 + (row + 1) * height - (clients.length > 1 ? 1 : 0)]);
    if (!mark) continue;
    const before = open.get(row);
    const short = mark.x1 - mark.x0 < CLOSE && wait.how === "done";
    if (before && short && before.short && mark.x0 - before.x1 < CLOSE && mark.x1 - before.x0 < 8 * CLOSE) {
      before.x1 = Math.max(before.x1, mark.x1);
      before.items.push(wait);
    } else {
      marks.push(mark);
      open.set(row, Object.assign(mark, { short }));
    }
  }
  return marks;
}

// The number of the first item at that time or later; they are in the order of time.
function firstFrom(items, time) {
  let low = 0, high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (items[middle].at < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

function pointMarks(items, scale, [y0, y1], kind, reach) {
  const marks = [];
  eachPlace(items, scale, (x, from, to) => marks.push({ kind, x, x0: x - reach, x1: x + reach, y0, y1, items: items.slice(from, to) }));
  return marks;
}

// Call `take(x, from, to)` for each place in view: the numbers of the items that are too close there to be drawn apart.
function eachPlace(items, scale, take) {
  const end = firstFrom(items, scale.to);
  let from = firstFrom(items, scale.from), place = scale.x(items[from]?.at ?? 0), span = 0;
  for (let number = from + 1; number <= end; number++) {
    let x = Infinity;
    if (number < end) {
      const { at } = items[number];
      while (at > scale.spans[span].to && span < scale.spans.length - 1) span++;
      x = scale.spans[span].left + at * scale.spans[span].rate;
    }
    if (x - place < CLOSE) continue;
    if (place >= scale.left - 1 && place <= scale.right + 1) take(place, from, number);
    from = number;
    place = x;
  }
}

function countInView(lane, scale) {
  return [lane.calls, lane.lines, lane.joins, lane.waits].reduce((sum, items) => sum + firstFrom(items, scale.to) - firstFrom(items, scale.from), 0);
}

// The mark that is meant by a point: the nearest, the smaller one of two; a phase only where nothing else is near.
function nearest(marks, x, y) {
  let best = null, least = Infinity;
  for (const mark of marks) {
    const dx = Math.max(mark.x0 - x, 0, x - mark.x1), dy = Math.max(mark.y0 - y, 0, y - mark.y1);
    const size = (mark.x1 - mark.x0) / 1e4;
    const far = mark.kind === "phase" ? 7 : Math.hypot(dx, dy / 2);
    if ((mark.kind !== "phase" || dx === 0) && far <= 8 && far + size < least) [best, least] = [mark, far + size];
  }
  return best;
}
