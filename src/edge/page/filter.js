// The one search box: words that all have to match. Some the daemon looks for, as it knows all rows; the page looks for
// the others in the rows that it has.

const SPAN_UNITS = { s: 1, m: 60, h: 3600, d: 86400 };
/** What the words before a colon are, and which lists know them. */
const KEYS = {
  port: ["ports", "drivers", "devices", "refused"],
  module: ["drivers", "devices"],
  silent: ["drivers", "devices"],
  within: ["refused"],
  shard: ["ports"],
  is: ["ports", "drivers", "devices"],
};
const STATES = {
  ports: ["problem", "stalled", "dropping", "refusing", "waiting", "carrying", "quiet"],
  drivers: ["problem", "stalled", "waiting"],
  devices: ["waiting"],
};
const TROUBLE_OF_STATE = { stalled: "stall", dropping: "drop", refusing: "refuse" };

/** Seconds of `5m`; `null` where it is no time. */
function seconds(text) {
  const found = /^(\d{1,6})([smhd]?)$/.exec(text);
  return found ? Number(found[1]) * SPAN_UNITS[found[2] || "s"] : null;
}

/** Reads the search box for a kind of list: parameters for the daemon, tests for rows, and what is not understood. */
function readFilter(kind, text) {
  const filter = { parameters: {}, tests: [], fault: null };
  for (const word of text.toLowerCase().split(/\s+/).filter(Boolean)) {
    const colon = word.indexOf(":");
    const key = colon > 0 ? word.slice(0, colon) : "";
    if (Object.hasOwn(KEYS, key)) {
      // Module ids keep their case.
      const at = text.toLowerCase().indexOf(word);
      readKey(filter, kind, key, text.slice(at + colon + 1, at + word.length));
    } else if (word === "tcp" || word === "udp") {
      filter.parameters.transport = word;
    } else if (/^[0-9a-f.:]+\/\d+$/.test(word) && kind !== "ports") {
      filter.parameters.address = word;
    } else {
      filter.tests.push((row) => KINDS[kind].text(row).includes(word));
    }
  }
  return filter;
}

function readKey(filter, kind, key, value) {
  const { parameters, tests } = filter;
  const fault = (text) => (filter.fault ??= text);
  if (!KEYS[key].includes(kind)) return fault(`“${key}:” is not for this list.`);
  // What is being typed is no fault yet.
  if (value === "") return undefined;
  if (key === "port") {
    if (!/^\d{1,5}$/.test(value) || value < 1 || value > 65535) return fault("A port is a number from 1 to 65535.");
    parameters.port = value;
  } else if (key === "module") {
    parameters.module = value;
  } else if (key === "shard") {
    tests.push((row) => row.shard === Number(value));
  } else if (key === "is") {
    if (!STATES[kind].includes(value)) return fault(`“is:” can be ${STATES[kind].join(", ")} here.`);
    if (value === "waiting") parameters.backlog = true;
    else tests.push((row) => isInState(row, value));
  } else {
    const time = seconds(value);
    if (time === null) return fault("A time is a number, with s, m, h or d behind it.");
    if (key === "silent") parameters.idle_seconds_min = time;
    else tests.push((row) => clock.server() - row.time <= time);
  }
  return undefined;
}

function isInState(row, state) {
  if (state === "problem") return row.troubles.length > 0;
  if (state === "carrying" || state === "quiet") return (row.rateIn > 0 || row.rateOut > 0) === (state === "carrying");
  return row.troubles.includes(TROUBLE_OF_STATE[state]);
}
