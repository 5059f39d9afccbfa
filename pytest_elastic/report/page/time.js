// Time, in microseconds from the first event, and its way to the screen.

// A long span in which nothing happens would press all else into a few pixels: it is drawn short.
// A warp maps times to places and back; `spans` are its pieces, in order.
const FOLDED = 0.06; // A folded span's width, as a part of all that is not folded.

function makeWarp(gaps, end, fold) {
  const folded = fold ? quietSpans(gaps, end) : [];
  const busy = end - folded.reduce((sum, [from, to]) => sum + to - from, 0);
  const spans = [];
  let time = 0, place = 0;
  const add = (to, width, quiet) => {
    if (to > time) spans.push({ from: time, to, start: place, stop: place + width, quiet });
    time = to;
    place += width;
  };
  for (const [from, to] of folded) {
    add(from, from - time, false);
    add(to, busy * FOLDED, true);
  }
  add(end, end - time, false);
  return {
    spans,
    length: place,
    place: (t) => placeOf(spans, t),
    time: (p) => timeOf(spans, p),
  };
}

// Of the longest gaps between events: those beside which all else would be small.
function quietSpans(gaps, end) {
  const chosen = [];
  let rest = end;
  for (const [from, to] of [...gaps].sort((a, b) => b[1] - b[0] - (a[1] - a[0]))) {
    if (to - from < 0.35 * rest || to - from >= rest) break;
    chosen.push([from, to]);
    rest -= to - from;
  }
  return chosen.sort((a, b) => a[0] - b[0]);
}

// These run for every event on every change of the view.
function placeOf(spans, time) {
  if (!spans.length) return 0;
  let number = 0;
  while (number < spans.length - 1 && time > spans[number].to) number++;
  const { from, to, start, stop } = spans[number];
  return start + ((time - from) / (to - from)) * (stop - start);
}

function timeOf(spans, place) {
  if (!spans.length) return 0;
  let number = 0;
  while (number < spans.length - 1 && place > spans[number].stop) number++;
  const { from, to, start, stop } = spans[number];
  return from + ((place - start) / (stop - start)) * (to - from);
}

// Ticks at 1, 2 or 5 times a power of ten, about `apart` pixels from each other.
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => step >= least * 0.999);
}

function ticks(warp, view, width, apart) {
  const perPixel = (view.stop - view.start) / width;
  const step = niceStep(Math.max(perPixel * apart, 0.1));
  const found = [];
  for (const span of warp.spans) {
    if (span.quiet || span.stop < view.start || span.start > view.stop) continue;
    const from = Math.max(span.from, warp.time(Math.max(view.start, span.start)));
    const to = Math.min(span.to, warp.time(Math.min(view.stop, span.stop)));
    for (let n = Math.max(0, Math.ceil(from / step - 1e-9)); n * step <= to + step * 1e-9; n++) {
      found.push({ time: n * step, label: clockText(n * step, step) });
    }
  }
  return found;
}

// A browser takes long to make such a format, and long to use `toLocaleString`.
const FORMATS = new Map();

function fixed(number, digits) {
  if (!FORMATS.has(digits)) FORMATS.set(digits, new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  return FORMATS.get(digits).format(number);
}

// A moment: milliseconds, or seconds from ten seconds on and in steps of seconds, with the digits that `step` needs.
function clockText(time, step = 1) {
  const [unit, size] = time >= 1e7 || step >= 1e6 ? ["s", 1e6] : ["ms", 1e3];
  const digits = Math.min(7, Math.max(0, Math.ceil(-Math.log10(step / size) - 1e-9)));
  return `${fixed(time / size, digits)} ${unit}`;
}

// A span, with three digits that count.
function spanText(length) {
  const [unit, size] = length >= 1e6 ? ["s", 1e6] : length >= 1e3 ? ["ms", 1e3] : ["µs", 1];
  return `${Number((length / size).toPrecision(3)).toLocaleString("en")} ${unit}`;
}
