// The tiles: a number as it is, and a graph of the last five minutes. In is drawn above the line, out below it, so that
// they are told apart without colour.

const SVG = "http://www.w3.org/2000/svg";
const GRAPH = { width: 300, height: 48 };
/** A longer pause between samples is a gap. */
const GAP_S = 12;

const counted = (name) => (sample) => sample.counts[name] ?? 0;
const TILES = [
  { name: "devices", label: "Devices", text: count, lines: [{ value: (sample) => sample.devices }] },
  { name: "drivers", label: "Drivers", text: count, lines: [{ value: (sample) => sample.drivers }] },
  {
    name: "messages", label: "Messages", text: perSecond, isRate: true,
    lines: [{ label: "in", value: counted("messages_to_drivers") }, { label: "out", value: counted("messages_from_drivers") }],
  },
  {
    name: "bytes", label: "Bytes", text: bytesPerSecond, isRate: true,
    lines: [{ label: "in", value: counted("device_bytes_received") }, { label: "out", value: counted("device_bytes_written") }],
  },
];
const ARROWS = { in: "↓", out: "↑" };

function makeSvg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const tiles = {
  start() {
    byId("tiles").replaceChildren(...TILES.map((tile) => this.make(tile)));
  },

  make(tile) {
    tile.values = tile.lines.map((line) => {
      const value = make("span", { class: "value" }, NONE);
      const label = line.label && make("span", { class: "direction" }, `${ARROWS[line.label]} ${line.label}`);
      line.element = value;
      return make("span", { class: `reading ${line.label ?? "level"}` }, label, value);
    });
    tile.note = make("span", { class: "note" });
    tile.svg = makeSvg("svg", { viewBox: `0 0 ${GRAPH.width} ${GRAPH.height}`, preserveAspectRatio: "none", role: "img", class: "graph" });
    tile.pointedAt = null;
    tile.svg.addEventListener("pointermove", (event) => {
      const box = tile.svg.getBoundingClientRect();
      tile.pointedAt = (event.clientX - box.left) / box.width;
      this.draw(tile);
    });
    tile.svg.addEventListener("pointerleave", () => {
      tile.pointedAt = null;
      this.draw(tile);
    });
    const head = make("div", { class: "tile-head" }, make("h2", {}, tile.label), tile.note);
    return make("section", { class: "tile", "data-tile": tile.name }, head, make("div", { class: "readings" }, ...tile.values), tile.svg);
  },

  drawAll() {
    TILES.forEach((tile) => this.draw(tile));
  },

  draw(tile) {
    const end = samples.all.at(-1)?.at ?? now();
    const lines = tile.lines.map((line) => samples.line(line.value, tile.isRate));
    const most = Math.max(1, ...lines.flat().map((point) => point.value));
    const x = (at) => GRAPH.width * (1 - (end - at) / WINDOW_S);
    // Where a second line is, each has half of the height, and the second hangs from the middle.
    const isPair = lines.length > 1;
    const base = isPair ? GRAPH.height / 2 : GRAPH.height - 1;
    const height = base - 2;
    const y = (value, line) => base + (line === 1 ? 1 : -1) * (height * value) / most;
    const drawn = [makeSvg("line", { x1: 0, x2: GRAPH.width, y1: base, y2: base, class: "base" })];
    lines.forEach((points, line) => {
      const name = tile.lines[line].label ?? "level";
      for (const run of runs(points)) {
        const path = run.map((point) => `${x(point.at).toFixed(1)},${y(point.value, line).toFixed(1)}`).join("L");
        drawn.push(makeSvg("path", { d: `M${x(run[0].at).toFixed(1)},${base}L${path}L${x(run.at(-1).at).toFixed(1)},${base}Z`, class: `area ${name}` }));
        drawn.push(makeSvg("path", { d: `M${path}`, class: `line ${name}` }));
      }
    });
    const at = tile.pointedAt === null ? end : end - WINDOW_S * (1 - tile.pointedAt);
    if (tile.pointedAt !== null) drawn.push(makeSvg("line", { x1: x(at), x2: x(at), y1: 0, y2: GRAPH.height, class: "pointed" }));
    tile.svg.replaceChildren(...drawn);
    const readings = lines.map((points) => nearest(points, at));
    tile.lines.forEach((line, place) => setText(line.element, readings[place] === null ? NONE : tile.text(readings[place])));
    const isNow = tile.pointedAt === null;
    setText(tile.note, isNow ? `most ${tile.text(most === 1 ? Math.max(0, ...lines.flat().map((point) => point.value)) : most)}` : `${span(end - at)} ago`);
    const said = tile.lines.map((line, place) => `${line.label ?? ""} ${readings[place] === null ? "not known" : tile.text(readings[place])}`);
    tile.svg.setAttribute("aria-label", `${tile.label}, last five minutes: ${said.join(",")}, most ${tile.text(most)}`);
  },
};

/** Points in runs without a gap. */
function runs(points) {
  const found = [];
  for (const point of points) {
    const run = found.at(-1);
    if (run && point.at - run.at(-1).at < GAP_S) run.push(point);
    else found.push([point]);
  }
  return found;
}

function nearest(points, at) {
  if (!points.length) return null;
  const best = points.reduce((one, other) => (Math.abs(other.at - at) < Math.abs(one.at - at) ? other : one));
  return Math.abs(best.at - at) > GAP_S ? null : best.value;
}

/** Of a histogram's growth: the middle and the highest bound of what came, in seconds. */
function timesBetween(before, after, bounds) {
  const grown = after.buckets.map((number, at) => number - (before?.buckets[at] ?? 0));
  const times = sum(grown);
  if (times <= 0) return null;
  const highest = grown.findLastIndex((number) => number > 0);
  return { mean: (after.seconds - (before?.seconds ?? 0)) / times, below: bounds[highest] ?? Infinity };
}

/** The table of shards. */
const shards = {
  before: new Map(),

  draw(answer) {
    const rows = answer.shards.map((shard) => {
      const before = this.before.get(shard.shard);
      const turn = timesBetween(before?.loop_turn, shard.loop_turn, answer.time_bounds_seconds);
      const lag = timesBetween(before?.timer_lag, shard.timer_lag, answer.time_bounds_seconds);
      const buffers = shard.buffers_out / answer.limits.receive_buffers;
      const cells = [
        make("th", { scope: "row" }, String(shard.shard)),
        timeCell(turn, 0.025), timeCell(lag, 0.025),
        ...["ports", "sessions", "devices"].map((name) => make("td", {}, count(shard[name]))),
        make("td", { "data-tone": buffers >= BUFFERS_OUT_PART ? "bad" : "", title: `${count(shard.buffers_out)} of ${count(answer.limits.receive_buffers)} receive buffers` }, percent(buffers)),
      ];
      return make("tr", {}, ...cells);
    });
    byId("shard-rows").replaceChildren(...rows);
    this.before = new Map(answer.shards.map((shard) => [shard.shard, shard]));
  },
};

function timeCell(times, muchSeconds) {
  if (!times) return make("td", {}, NONE);
  const below = times.below === Infinity ? "above 10 s" : `all below ${shortTime(times.below)}`;
  return make("td", { "data-tone": times.mean > muchSeconds ? "warn" : "", title: below }, shortTime(times.mean));
}
