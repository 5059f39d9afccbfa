// Search in all that is drawn, and the choice of ranks.

let hits = [], hit = -1;

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
  return [one.name, one.text, one.error, one.label, one.state, one.meeting?.title, ...(one.keys?.shown ?? []), ...(one.keys?.names ?? [])].filter(Boolean).join(" ").toLowerCase();
}

// All events with the text, in the order of time.
function search() {
  const wanted = byId("find").value.trim().toLowerCase();
  hit = -1;
  hits = [];
  if (wanted) {
    for (const lane of model.shown) {
      const all = [...lane.phases, ...lane.waits, ...lane.calls, ...lane.lines, ...lane.stood, ...lane.joins, ...lane.absent, ...(lane.exit ? [lane.exit] : [])];
      hits.push(...all.filter((one) => (one.told ??= textOf(one)).includes(wanted)));
    }
    hits.sort((a, b) => a.at - b.at);
  }
  model.hits = new Set(hits);
  byId("found").textContent = wanted ? `${hits.length.toLocaleString("en")} found` : "";
}

function paintHits(lane, marks, group) {
  if (!model.hits?.size) return;
  let path = "";
  for (const mark of marks) {
    if (!mark.items.some((one) => model.hits.has(one))) continue;
    const width = round(mark.x1 - mark.x0 + 4);
    path += `M${round(mark.x0 - 2)} ${round(mark.y0 - 2)}h${width}V${round(mark.y1 + 2)}h${-width}z`;
  }
  if (path) group.append(el("path", { class: "found", d: path }));
}

// Show the next one: move there, with the same zoom, and keep its card.
function nextHit(step) {
  if (!hits.length) return;
  hit = (hit + step + hits.length) % hits.length;
  const one = hits[hit], half = (view.stop - view.start) / 2, at = warp.place(one.at);
  if (at < view.start || at > view.stop) setView(at - half, at + half);
  draw();
  byId("found").textContent = `${(hit + 1).toLocaleString("en")} of ${hits.length.toLocaleString("en")}`;
  const lane = model.lanes[one.lane], mark = marksOf[lane.number].find((mark) => mark.items.includes(one));
  if (mark) keep(mark, lane);
}
