// What was seen over the last five minutes: samples for the graphs, problems for the strip, and what rows did since the
// refresh before.

const WINDOW_S = 300;
/** Counts that are problems, and how each reads behind its number. */
const STALLS = {
  sessions_stalled: "drivers let go",
  devices_stalled: "devices let go",
  outbox_waits: "waits for drivers",
  credit_waits: "waits for devices",
};
const DROPS = {
  datagrams_dropped_outbox: "datagrams to slow drivers",
  datagrams_dropped_write: "datagrams from drivers",
  datagrams_dropped_kernel: "datagrams in the kernel",
  writes_dropped: "writes to devices",
};
const REFUSALS = {
  devices_refused_source: "devices that no driver accepts",
  devices_refused_limit: "devices beyond their port's limit",
  devices_refused_source_limit: "devices beyond their source's limit",
  devices_refused_flapping: "devices that connect too often",
  devices_refused_replaced: "devices that connected again before they were let in",
  devices_refused_proxy: "devices whose balancer does not say who they are",
  connections_refused_proxy: "connections whose balancer does not say who they are",
  datagrams_ignored_source: "datagrams that no driver accepts",
  joins_refused: "joins",
  tokens_refused: "tokens",
  tokens_unchecked: "requests after too many tokens",
};
/** From here on a shard's receive buffers are nearly all out. */
const BUFFERS_OUT_PART = 0.9;

const now = () => performance.now() / 1000;
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** Samples of all shards together, the oldest first, each with `at` on the page's own clock. */
const samples = {
  all: [],
  started: null,

  /** Takes an answer of `shards`. A daemon that has started anew begins anew; where that was within the window, at nothing. */
  take(answer) {
    if (this.started !== answer.started) {
      const nothing = { at: now() - answer.uptime_seconds, devices: 0, drivers: 0, counts: {} };
      this.all = answer.uptime_seconds < WINDOW_S ? [nothing] : [];
      rowsBefore.clear();
      this.started = answer.started;
    }
    const total = (name) => sum(answer.shards.map((shard) => shard[name]));
    const counts = {};
    for (const { counts: own } of answer.shards) {
      for (const name in own) counts[name] = (counts[name] ?? 0) + own[name];
    }
    const sample = { at: now(), devices: total("devices"), drivers: total("sessions"), counts };
    this.all.push({ ...sample, bufferWaits: answer.shards.map((shard) => shard.buffer_waits) });
    this.forget();
  },

  /** Fills in what the daemon remembers of the time in which nobody looked; `serverNow` is its clock. */
  recall(history, serverNow) {
    const seen = this.all.map((sample) => sample.at);
    history.times.forEach((time, at) => {
      const here = now() - (serverNow - time);
      if (seen.some((other) => Math.abs(other - here) < 1.5)) return;
      const counts = {};
      for (const name in history.counts) counts[name] = history.counts[name][at];
      this.all.push({ at: here, devices: history.devices[at], drivers: history.sessions[at], counts });
    });
    this.all.sort((one, other) => one.at - other.at);
    this.forget();
  },

  forget() {
    const oldest = now() - WINDOW_S - 5;
    while (this.all.length > 2 && this.all[1].at < oldest) this.all.shift();
  },

  /** Points of one line: when, and how many there were or how many came each second. */
  line(value, isRate) {
    const points = [];
    this.all.forEach((sample, at) => {
      const before = this.all[at - 1];
      if (!isRate) points.push({ at: sample.at, value: value(sample) });
      else if (before && sample.at > before.at) {
        const came = Math.max(0, value(sample) - value(before));
        points.push({ at: sample.at, value: came / (sample.at - before.at) });
      }
    });
    return points;
  },

  /** How many of these counts came within the window, by name; those of none are left out. */
  grown(names) {
    const [first, last] = [this.all[0], this.all.at(-1)];
    const grown = names.map((name) => [name, (last?.counts[name] ?? 0) - (first?.counts[name] ?? 0)]);
    return grown.filter(([, by]) => by > 0);
  },
};

/** The problems of the last five minutes: each with a number, words, and the filter that shows whose they are. */
function problems(answer) {
  const of = (kind, label, words, tab, search) => {
    const grown = samples.grown(Object.keys(words));
    const number = sum(grown.map(([, by]) => by));
    const text = grown.map(([name, by]) => (grown.length > 1 ? `${count(by)} ${words[name]}` : words[name])).join(", ");
    return number > 0 ? { kind, label, number: count(number), text, tab, search } : null;
  };
  const found = [
    of("stall", "Stalls", STALLS, "drivers", "is:stalled"),
    of("drop", "Drops", DROPS, "ports", "is:dropping"),
    of("refuse", "Refusals", REFUSALS, "refused", "within:5m"),
    buffersOut(answer),
  ];
  return found.filter(Boolean);
}

/** The shard that is shortest of receive buffers, where one is short. */
function buffersOut(answer) {
  const most = answer.limits.receive_buffers;
  const first = samples.all.find((sample) => "bufferWaits" in sample)?.bufferWaits ?? [];
  const all = answer.shards.map((shard, at) => ({ ...shard, waits: shard.buffer_waits - (first[at] ?? 0) }));
  const isShort = (shard) => shard.buffers_out >= most * BUFFERS_OUT_PART || shard.waits > 0 || shard.buffers_lost > 0;
  const short = all.filter(isShort);
  if (short.length === 0) return null;
  const worst = short.reduce((one, other) => (other.waits > one.waits ? other : one));
  const parts = [`shard ${worst.shard}: ${count(worst.buffers_out)} of ${count(most)} out`];
  if (worst.waits > 0) parts.push(`${count(worst.waits)} reads waited`);
  if (worst.buffers_lost > 0) parts.push(`${count(worst.buffers_lost)} lost: a defect`);
  const number = percent(worst.buffers_out / most);
  return { kind: "buffers", label: "Buffers out", number, text: parts.join(", "), tab: "ports", search: `shard:${worst.shard}` };
}

/** By kind and key: what a row's counters were, and when they last grew. */
const rowsBefore = new Map();

/** Adds to rows what only two looks can tell: rates each second, and which troubles are recent. */
function compareRows(kind, rows, troublesNow) {
  const before = rowsBefore.get(kind) ?? new Map();
  const after = new Map();
  const at = now();
  for (const row of rows) {
    const key = KINDS[kind].key(row);
    const known = before.get(key);
    const own = { at, in: row.bytes_received, out: row.bytes_written, troubles: {} };
    const time = known ? at - known.at : 0;
    row.key = key;
    row.rateIn = time > 0 ? Math.max(0, row.bytes_received - known.in) / time : null;
    row.rateOut = time > 0 ? Math.max(0, row.bytes_written - known.out) / time : null;
    row.troubles = [];
    for (const [trouble, number] of Object.entries(KINDS[kind].troubles?.(row) ?? {})) {
      // Of a row that is new here it is not known when; it counts as recent where there are recent ones at all.
      const grew = known ? number > known.troubles[trouble].number : number > 0 && troublesNow.has(trouble);
      const grewAt = grew ? at : (known?.troubles[trouble].grewAt ?? -Infinity);
      own.troubles[trouble] = { number, grewAt };
      if (at - grewAt <= WINDOW_S) row.troubles.push(trouble);
    }
    after.set(key, own);
  }
  rowsBefore.set(kind, after);
}
