// Search in all that is drawn, and the choice of ranks.

// One text holds what is said of all events, a line for each, in the order of time: one search in it finds all.
// It is made in pieces while the browser has nothing else to do.
const index = { parts: [], starts: [], length: 0, text: null };
const found = { count: 0, numbers: [], marked: new Uint8Array(model.events.length), at: -1 };
const PIECE = 2000; // Events.

// "0-2, 7" or "rank 3" as the numbers of lanes; null for all.
function chosenRanks(text) {
  const parts = text.replace(/ranks?/gi, " ").split(/[\s,]+/).filter(Boolean);
  if (!parts.length) return null;
  const chosen = new Set();
  for (const part of parts) {
    const [, from, to] = /^(\d+)(?:[-–](\d+))?$/.exec(part) ?? [];
    if (from === undefined) return undefined;
    for (let rank = Number(from); rank <= Math.min(Number(to ?? from), model.lanes.length); rank++) chosen.add(rank);
  }
  return chosen;
}

// Give each lane its place from the top; -1 is none.
function placeLanes() {
  const chosen = chosenRanks(byId("ranks").value);
  byId("ranks").setAttribute("aria-invalid", String(chosen === undefined));
  for (const lane of model.lanes) lane.place = -1;
  model.shown = model.order.filter((lane) => !chosen || chosen.has(lane.number));
  model.shown.forEach((lane, place) => (lane.place = place));
}

function textOf(one) {
  const keys = one.keys ? `${one.keys.shown.join(" ")} ${one.keys.names.join(" ")}` : "";
  return `${one.name ?? ""} ${one.text ?? ""} ${one.error || ""} ${one.label ?? ""} ${one.state ?? ""} ${one.meeting?.title ?? ""} ${keys}\n`.toLowerCase();
}

function addToIndex(most) {
  const end = Math.min(model.events.length, index.parts.length + most);
  for (let number = index.parts.length; number < end; number++) {
    const text = textOf(model.events[number]);
    index.parts.push(text);
    index.starts.push(index.length);
    index.length += text.length;
  }
  if (end === model.events.length) index.text ??= index.parts.join("");
  return index.text !== null;
}

function indexWhenIdle() {
  const later = window.requestIdleCallback ?? ((act) => setTimeout(act, 20));
  later(() => addToIndex(PIECE) || indexWhenIdle());
}

// The number of the event in whose line this place of the text is, from that number on.
function eventAt(place, from) {
  let low = from, step = 1;
  while (index.starts[low + step] <= place) {
    low += step;
    step *= 2;
  }
  for (; step >= 1; step >>= 1) if (index.starts[low + step] <= place) low += step;
  return low;
}

// All events with the text, in the order of time.
function search() {
  const wanted = byId("find").value.trim().toLowerCase();
  found.at = -1;
  found.numbers = [];
  found.marked.fill(0);
  if (wanted) {
    addToIndex(Infinity);
    let number = 0, place = index.text.indexOf(wanted);
    while (place >= 0) {
      number = eventAt(place, number);
      if (model.lanes[model.events[number].lane].place >= 0) {
        found.numbers.push(number);
        found.marked[number] = 1;
      }
      place = index.starts[number + 1] === undefined ? -1 : index.text.indexOf(wanted, index.starts[number + 1]);
    }
  }
  found.count = found.numbers.length;
  byId("found").textContent = wanted ? `${found.count.toLocaleString("en")} found` : "";
}

function isFound(items, from, to) {
  for (let number = from; number < to; number++) if (found.marked[items[number].number]) return true;
  return false;
}

function paintHits(marks, group) {
  if (!found.count) return;
  let path = "";
  for (const mark of marks) {
    if (!isFound(mark.items, 0, mark.items.length)) continue;
    const width = round(mark.x1 - mark.x0 + 4);
    path += `M${round(mark.x0 - 2)} ${round(mark.y0 - 2)}h${width}V${round(mark.y1 + 2)}h${-width}z`;
  }
  if (path) group.append(el("path", { class: "found", d: path }));
}

// Show the next one: move there, with the same zoom, and keep its card.
function nextHit(step) {
  if (!found.count) return;
  found.at = (found.at + step + found.count) % found.count;
  const one = model.events[found.numbers[found.at]], half = (view.stop - view.start) / 2, at = warp.place(one.at);
  if (at < view.start || at > view.stop) setView(at - half, at + half);
  draw();
  byId("found").textContent = `${(found.at + 1).toLocaleString("en")} of ${found.count.toLocaleString("en")}`;
  const lane = model.lanes[one.lane], mark = marksOf(lane).find((mark) => mark.items.includes(one));
  if (mark) keep(mark, lane);
}
