// Many marks, as pixels.  What makes a browser slow is the number of its elements, and then that of its strokes: where
// more than a few events are in view, those that mean little alone (calls, lines, waits that ended well, joins of whole
// barriers) are written to the memory of a canvas.

const DENSE = 1200; // Events in view.
const canvas = document.getElementById("dense"), pen = canvas.getContext("2d", { willReadFrequently: true });
let image = null, pixels = null, width = 0, height = 0, plotLeft = 0, plotRight = 0;

function paintDense(scale, shape) {
  if (width !== shape.width || height !== shape.height) {
    ({ width, height } = Object.assign(canvas, { width: shape.width, height: shape.height }));
    image = pen.createImageData(width, height);
    pixels = new Uint32Array(image.data.buffer);
  } else pixels.fill(0);
  [plotLeft, plotRight] = [Math.floor(scale.left), Math.ceil(scale.right)];
  paintWaits(scale, shape);
  paintCalls(scale, shape);
  paintLines(scale, shape);
  paintTies(scale, shape);
  paintJoins(scale, shape);
  if (found.count) paintFound(scale, shape);
  pen.putImageData(image, 0, 0);
  canvas.hidden = false;
}

// A colour of the page as a pixel; it changes with the system's, and on paper.
function pixelOf(name, alpha = 1) {
  const value = parseInt(getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim().slice(1), 16);
  return ((Math.round(alpha * 255) << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}

// These two run for every mark on every change of the view.
function box(x0, y0, x1, y1, pixel) {
  const left = Math.max(plotLeft, Math.round(x0)), right = Math.min(plotRight, Math.round(x1)), bottom = Math.min(height, Math.round(y1));
  for (let y = Math.round(y0); y < bottom; y++) {
    for (let place = y * width + left, end = y * width + right; place < end; place++) pixels[place] = pixel;
  }
}

function frameBox(x0, y0, x1, y1, pixel) {
  box(x0, y0, x1, y0 + 1, pixel);
  box(x0, y1 - 1, x1, y1, pixel);
  box(x0, y0, x0 + 1, y1, pixel);
  box(x1 - 1, y0, x1, y1, pixel);
}

function paintWaits(scale, shape) {
  const one = pixelOf("wait"), many = pixelOf("wait", 0.55), edge = pixelOf("wait-edge");
  for (const lane of model.shown) {
    for (const { x0, x1, y0, y1, items } of waitMarks(lane.waits, lane.clients, scale, rowOf("wait", lane, shape))) {
      if (items[0].how !== "done") continue;
      const right = Math.max(x1, x0 + 1);
      box(x0, y0, right, y1, items.length > 1 ? many : one);
      if (right - x0 >= 4 && items.length === 1) frameBox(x0, y0, right, y1, edge);
      if (right - x0 >= SHORT) paintWaitLabel(lane.plot, items[0], x0, right, y0, y1);
    }
  }
}

function paintCalls(scale, shape) {
  const pixel = pixelOf("tick"), wide = shape.tall ? 2 : 1;
  for (const lane of model.shown) {
    const [y0, y1] = rowOf("call", lane, shape);
    eachPlace(lane.calls, scale, (x) => box(x, y0, Math.round(x) + wide, y1, pixel));
  }
}

function paintLines(scale, shape) {
  const size = shape.tall ? 5 : 3, out = pixelOf("soft"), error = pixelOf("warm");
  for (const lane of model.shown) {
    const [y0, y1] = rowOf("line", lane, shape), y = Math.round((y0 + y1 - size) / 2);
    eachPlace(lane.lines, scale, (x, from, to) => {
      let number = from;
      while (number < to && !lane.lines[number].error) number++;
      const left = Math.round(x - size / 2);
      box(left, y, left + size, y + size, number < to ? error : out);
    });
  }
}

function paintTies(scale, shape) {
  const pixel = pixelOf("join", 0.55);
  for (const points of ties(scale, shape, true)) {
    for (let number = 1; number < points.length; number++) {
      const [x0, y0] = points[number - 1], [x1, y1] = points[number];
      const steps = Math.ceil(Math.max(Math.abs(x1 - x0), y1 - y0, 1));
      for (let step = 0; step < steps; step++) {
        const x = Math.round(x0 + ((x1 - x0) * step) / steps), y = Math.round(y0 + ((y1 - y0) * step) / steps);
        if (x >= plotLeft && x < plotRight) pixels[y * width + x] ||= pixel;
      }
    }
  }
}

function paintJoins(scale, shape) {
  const pixel = pixelOf("join");
  for (const lane of model.shown) {
    const [y0, y1] = rowOf("wait", lane, shape), y = Math.round((y0 + y1) / 2), size = Math.floor(Math.min(5, (y1 - y0) / 2));
    eachPlace(lane.joins, scale, (x) => {
      for (let row = -size; row <= size; row++) box(Math.round(x) - size + Math.abs(row), y + row, Math.round(x) + size - Math.abs(row) + 1, y + row + 1, pixel);
    });
  }
}

// Of what is found here: the row, and how far a mark reaches to both sides.
const REACH = { call: ["call", 0.75], line: ["line", 2.5], join: ["wait", 5], wait: ["wait", 0] };

// What is found, and lies close together in a row, has one frame.
function paintFound(scale, shape) {
  const pixel = pixelOf("warm"), frames = new Map();
  const close = ({ from, to, row: [y0, y1] }) => frameBox(from - 2, y0 - 2, to + 2, y1 + 2, pixel);
  for (const number of found.numbers) {
    const one = model.events[number], [name, reach] = REACH[one.kind] ?? [];
    if (!name || one.meeting?.complete === false) continue; // Those are elements, and their frames, too.
    const from = scale.x(one.at) - reach, to = scale.x(one.stop ?? one.at) + reach;
    if (to < scale.left || from > scale.right) continue;
    const key = `${one.lane} ${name}`, last = frames.get(key);
    if (last && from - last.to <= 4) {
      last.to = Math.max(last.to, to);
      continue;
    }
    if (last) close(last);
    frames.set(key, { from, to, row: rowOf(name, model.lanes[one.lane], shape) });
  }
  frames.forEach(close);
}
