// The data of the page, as objects with names; `lane` is the number of a lane, ranks first.

const raw = JSON.parse(document.getElementById("data").textContent);
const model = readModel(raw);

function readModel(raw) {
  const text = (number) => raw.strings[number];
  const texts = (numbers) => numbers.map(text);
  const rows = (name, read) => raw[name].map(read);
  const most = Math.max(-1, ...["starts", "exits", "stood", "phases"].flatMap((name) => raw[name].map((row) => row[1])));
  const ranks = Math.max(raw.nprocs, most + 1);
  const lane = (rank) => (rank === null ? ranks : rank);
  const names = new Map(Object.entries(raw.names).map(([number, name]) => [text(number), name]));
  const keys = (shown, count) => ({ shown: texts(shown), count, names: texts(shown).map((key) => names.get(key) ?? `“${key}”`) });

  const found = {
    starts: rows("starts", ([at, rank, pid]) => ({ kind: "start", at, lane: lane(rank), pid })),
    exits: rows("exits", ([at, rank, code, label]) => ({ kind: "exit", at, lane: lane(rank), code, label })),
    stood: rows("stood", ([at, rank, state, channel, peer]) => ({ kind: "stood", at, lane: lane(rank), state, channel, peer })),
    phases: rows("phases", ([at, rank, name, until, outcome, error, place]) =>
      ({ kind: "phase", at, lane: lane(rank), name, until, outcome, error, place })),
    waits: rows("waits", ([at, rank, client, name, asked, askedCount, missing, missingCount, timeout, may, ended, by, writers]) => ({
      kind: "wait", at, lane: lane(rank), client, name: text(name), keys: keys(asked, askedCount),
      missing: keys(missing, missingCount), timeout, may, writers, until: ended && ended[0], how: ended ? ended[1] : "never ended",
      by: by && { at: by[0], lane: lane(by[1]), name: text(by[2]) },
    })),
    meetings: rows("meetings", ([at, prefix, title, expected, complete, joins, absent]) => ({
      at, prefix: text(prefix), title: text(title), expected, complete: Boolean(complete), absent,
      joins: joins.map(([at, rank, client]) => ({ at, lane: lane(rank), client })),
    })).concat(rows("collectives", ([at, prefix, title, spec, expected, complete, joins, absent]) => ({
      at, prefix: text(prefix), title: text(title), spec: text(spec), expected, complete: Boolean(complete), absent,
      joins: joins.map(([at, rank, client, said]) => ({ at, lane: lane(rank), client, said: text(said) })),
    }))),
    calls: rows("calls", ([at, rank, client, name, shown, count, changed = 1]) =>
      ({ kind: "call", at, lane: lane(rank), client, name: text(name), keys: keys(shown, count), changed })),
    lines: rows("lines", ([at, rank, error, line]) => ({ kind: "line", at, lane: lane(rank), error: Boolean(error), text: line })),
  };
  const others = [found.starts, found.exits, found.stood, found.phases, found.waits, found.calls, found.lines];
  const launcher = others.some((list) => list.some((one) => one.lane === ranks));
  found.lanes = Array.from({ length: ranks + Number(launcher) }, (_, number) => emptyLane(number, number === ranks));
  for (const name of ["phases", "waits", "calls", "lines", "stood"]) {
    for (const one of found[name]) found.lanes[one.lane][name].push(one);
  }
  for (const one of found.starts) found.lanes[one.lane].start = one;
  for (const one of found.exits) found.lanes[one.lane].exit = one;
  found.stacks = raw.stacks.map(([ranks, threads, cut, more]) => ({ ranks, threads, cut, more }));
  for (const stack of found.stacks) for (const rank of stack.ranks) if (found.lanes[rank]) found.lanes[rank].stack = stack;
  addMeetings(found);
  closeOpenEnds(found, raw.end);
  numberEvents(found);
  const culprits = new Set(raw.failure?.culprits);
  for (const one of found.lanes) {
    one.state = stateOf(one);
    one.culprit = culprits.has(one.number) && culprits.size < ranks; // Where all are, none stands out.
    one.title = one.culprit ? `${one.name} · cause` : one.name;
  }
  // From the top: the culprits, then the others, each in the order of ranks.
  found.order = [...found.lanes].sort((a, b) => Number(b.culprit) - Number(a.culprit) || a.number - b.number);
  return found;
}

// All that can be found, in the order of time; each knows its number there.
function numberEvents(found) {
  const lists = ["phases", "waits", "calls", "lines", "stood", "exits"].map((name) => found[name]);
  for (const name of ["joins", "absent"]) lists.push(found.lanes.flatMap((lane) => lane[name]).sort((a, b) => a.at - b.at));
  found.events = lists.reduce(merged);
  found.events.forEach((one, number) => (one.number = number));
}

function merged(some, others) {
  const all = [];
  let next = 0;
  for (const one of some) {
    while (next < others.length && others[next].at < one.at) all.push(others[next++]);
    all.push(one);
  }
  while (next < others.length) all.push(others[next++]);
  return all;
}

function emptyLane(number, launcher) {
  const lists = { phases: [], waits: [], calls: [], lines: [], stood: [], joins: [], absent: [] };
  return { number, name: launcher ? "launcher" : `rank ${number}`, start: null, exit: null, stack: null, ...lists };
}

function addMeetings(found) {
  for (const meeting of found.meetings) {
    meeting.last = Math.max(...meeting.joins.map((join) => join.at));
    for (const join of meeting.joins) found.lanes[join.lane]?.joins.push({ kind: "join", ...join, meeting });
    for (const rank of meeting.absent) found.lanes[rank]?.absent.push({ kind: "absent", at: meeting.last, lane: rank, meeting });
  }
  for (const lane of found.lanes) {
    lane.joins.sort((a, b) => a.at - b.at);
    lane.absent.sort((a, b) => a.at - b.at);
    nameWaits(lane);
  }
}

// A wait for a key of the barrier that its connection has just joined is the wait at that barrier.
function nameWaits(lane) {
  const joined = new Map();
  let next = 0;
  for (const wait of lane.waits) {
    for (; next < lane.joins.length && lane.joins[next].at <= wait.at; next++) joined.set(lane.joins[next].client, lane.joins[next].meeting);
    const meeting = joined.get(wait.client);
    if (meeting && wait.keys.shown.some((key) => key.startsWith(meeting.prefix))) wait.meeting = meeting;
  }
}

// The chart goes on a little after the last event, so that what is open there has a width to be seen.
function closeOpenEnds(found, end) {
  found.last = end;
  for (const lane of found.lanes) {
    for (const one of [...lane.phases, ...lane.waits]) {
      one.open = one.until === null;
      one.stop = one.open ? (lane.exit ? Math.max(lane.exit.at, one.at) : Infinity) : one.until;
    }
    lane.clients = [...new Set(lane.waits.map((wait) => wait.client))];
    lane.vain = lane.waits.filter((wait) => wait.how !== "done");
    lane.lonely = lane.joins.filter((join) => !join.meeting.complete);
  }
}

// What became of a rank, in a few words (fewer still, and one thing only, where there is less room), and whether that is bad.
function stateOf(lane) {
  const failed = lane.phases.find((phase) => phase.outcome === "failed");
  const vain = (wait) => wait.open || wait.how === "gone" || (failed && wait.how !== "done" && !wait.may);
  const wait = lane.waits.findLast(vain);
  const said = wait ? [`${wait.open && !lane.exit ? "waits" : "waited"} ${aimText(wait)}`] : [];
  if (failed) said.push(`${failed.name} failed${wait || !failed.error ? "" : `: ${failed.error}`}`);
  if (!said.length && lane.stood.length) said.push(lane.stood[lane.stood.length - 1].state);
  if (lane.exit && (lane.exit.code || !said.length)) said.push(lane.exit.label);
  if (!said.length && lane.phases.length) said.push(phaseState(lane.phases[lane.phases.length - 1]));
  const short = wait ? [aimText(wait, true), ...said.slice(1)] : said;
  const bad = Boolean(failed || wait || lane.stood.length || (lane.exit && lane.exit.code));
  return { text: said.join(" · "), short: short.join(" · "), first: short[0] ?? "", bad };
}

function phaseState(phase) {
  return phase.open ? `in ${phase.name}` : `${phase.name} ${phase.outcome}`;
}

function aimText(wait, short = false) {
  if (wait.meeting?.spec !== undefined) return `in ${wait.meeting.title}`;
  if (short) return wait.meeting ? `at ${shortTitle(wait.meeting)}` : `for ${lacking(wait).names[0] ?? wait.name}`;
  return wait.meeting ? `at ${wait.meeting.title}` : `for ${keyText(lacking(wait), 1) || wait.name}`;
}

function lacking(wait) {
  return wait.missing.count ? wait.missing : wait.keys;
}

function shortTitle(meeting) {
  return meeting.title.replace(/^barrier (?=“)/, "");
}

function keyText(keys, most) {
  const shown = [...new Set(keys.names.slice(0, most))].join(", ");
  return keys.count > Math.min(most, keys.shown.length) ? `${shown} and ${(keys.count - Math.min(most, keys.shown.length)).toLocaleString("en")} more` : shown;
}

function rankText(ranks) {
  const runs = [];
  for (const rank of [...new Set(ranks)].sort((a, b) => a - b)) {
    const run = runs[runs.length - 1];
    if (run && run[1] === rank - 1) run[1] = rank;
    else runs.push([rank, rank]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ");
}
