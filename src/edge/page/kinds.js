// The four lists: their columns, their usual order, and what of a row is searched.

/** The daemon's clock, as of its last answer. */
const clock = {
  offset: 0,
  server: () => now() + clock.offset,
  set(serverNow) {
    clock.offset = serverNow - now();
  },
};

const TROUBLES = { stall: "stalls", drop: "drops", refuse: "refuses" };
const portName = (row) => (row.port ? `${row.transport} ${row.port}` : "API");
const sinceText = (row) => span(clock.server() - row.since);
const part = (value, most) => Math.min(1, value / most);
/** Most that a driver can have of each; set by the daemon's answers. */
const limits = { outbox: 1, credit: 1 };

/** Text with its lower-case form kept, as it is searched with every letter. */
function searched(make) {
  return (row) => (row.searchText ??= make(row).toLowerCase());
}

function endpoint(row) {
  return row.address.includes(":") ? `[${row.address}]:${row.remote_port}` : `${row.address}:${row.remote_port}`;
}

/** Reasons whose names say too little to whoever meets them first. */
const REASONS = {
  source: "no driver accepts it",
  limit: "the port is full",
  invalid: "wrong token",
  too_many_failed: "too many wrong tokens before",
};
const reasonText = (row) => REASONS[row.reason] ?? row.reason.replaceAll("_", " ");

/** What goes behind `tap --device`. */
function tapDevice(row) {
  return row.address.includes(":") ? `[${row.address}]:${row.id}` : `${row.address}:${row.id}`;
}

/** Addresses in the order of their numbers. */
function addressValue(row) {
  return (row.addressValue ??= row.address.includes(":")
    ? `6${row.address.split(":").map((group) => group.padStart(4, "0")).join(":")}`
    : `4${row.address.split(".").map((byte) => byte.padStart(3, "0")).join(".")}`);
}

const rateOf = (row) => (row.rateIn ?? 0) + (row.rateOut ?? 0);
const outboxPart = (row) => (row.outbox_full ? 1 : part(row.backlog_bytes, limits.outbox));
const stallsOf = (row) => row.outbox_waits + row.credit_waits;

function portState(row) {
  if (row.troubles.length) return row.troubles.map((trouble) => TROUBLES[trouble]).join(", ");
  if (row.rateIn > 0 || row.rateOut > 0) return "carries";
  return row.transport === "tcp" && row.devices === 0 ? "no device" : "quiet";
}

/*
 * A column: `rank` 1 is shown at every width, 3 only on wide screens; `sort` is the daemon's name for its order, with a
 * minus where that is the other way round; `falls` says that the largest comes first when it is chosen; `tone` and `meter` are shown beside the text.
 */
const number = { align: "end", falls: true };
const column = (name, label, width, rank, text, value, more = {}) => ({ name, label, width, rank, text, value, ...more });
const inOut = (name, label, field, sort) =>
  column(name, label, "minmax(5.2rem,.8fr)", 3, (row) => bytes(row[field]), (row) => row[field], { ...number, sort });

const KINDS = {
  ports: {
    title: "Ports",
    one: "port",
    key: (row) => `${row.transport}/${row.port}`,
    text: searched((row) => `${row.transport} ${row.port} ${row.transport}:${row.port}`),
    troubles: (row) => ({ stall: row.waits, drop: row.dropped, refuse: row.refused }),
    // Problems first, then whatever carries most.
    order: { shown: "state", sort: "-bytes_received", by: [(row) => -row.troubles.length, (row) => -rateOf(row)] },
    empty: "No port is open. A port opens when a driver joins it.",
    columns: [
      column("state", "State", "minmax(6.4rem,1fr)", 1, portState, (row) => -row.troubles.length, {
        tone: (row) => (row.troubles.length ? "warn" : row.rateIn > 0 || row.rateOut > 0 ? "good" : "idle"),
      }),
      column("port", "Port", "minmax(6.9rem,.8fr)", 1, portName, (row) => row.port + (row.transport === "udp" ? 0.5 : 0), { sort: "id", strong: true }),
      column("drivers", "Drivers", "minmax(4.2rem,.6fr)", 2, (row) => count(row.drivers), (row) => row.drivers, { ...number, sort: "drivers" }),
      column("devices", "Devices", "minmax(4.4rem,.6fr)", 1, (row) => (row.transport === "udp" ? NONE : count(row.devices)), (row) => row.devices, { ...number, sort: "devices" }),
      column("in", "In", "minmax(5.2rem,.8fr)", 1, (row) => (row.rateIn === null ? NONE : bytesPerSecond(row.rateIn)), (row) => row.rateIn ?? 0, { ...number, sort: "bytes_received", hint: "Bytes from devices each second" }),
      column("out", "Out", "minmax(5.2rem,.8fr)", 2, (row) => (row.rateOut === null ? NONE : bytesPerSecond(row.rateOut)), (row) => row.rateOut ?? 0, { ...number, sort: "bytes_written", hint: "Bytes to devices each second" }),
      inOut("in_all", "In, all", "bytes_received", "bytes_received"),
      inOut("out_all", "Out, all", "bytes_written", "bytes_written"),
      column("waiting", "Waiting", "minmax(4.6rem,.7fr)", 3, (row) => bytes(row.backlog_bytes), (row) => row.backlog_bytes, { ...number, sort: "backlog_bytes", hint: "Bytes that wait at the port for its drivers" }),
      column("since", "Open for", "minmax(5.4rem,.8fr)", 2, sinceText, (row) => -row.since, { ...number, sort: "-since" }),
      column("shard", "Shard", "minmax(3.6rem,.4fr)", 3, (row) => String(row.shard), (row) => row.shard, { align: "end" }),
    ],
  },
  drivers: {
    title: "Drivers",
    one: "driver",
    key: (row) => String(row.id),
    text: searched((row) => `${row.module ?? ""} ${endpoint(row)} ${row.transport} ${row.port} ${row.transport}:${row.port} ${row.accept}`),
    troubles: (row) => ({ stall: stallsOf(row) }),
    order: { shown: "stalls", sort: "-backlog_bytes", by: [(row) => -row.troubles.length, (row) => -stallsOf(row), (row) => row.module ?? "\uffff"] },
    empty: "No driver is joined. To see one: dispatch listen tcp 6001",
    columns: [
      column("module", "Module", "minmax(6rem,1.4fr)", 1, (row) => row.module ?? "no id", (row) => row.module ?? "\uffff", { strong: true }),
      column("address", "Address", "minmax(8.5rem,1.2fr)", 2, endpoint, addressValue, { sort: "address", code: true }),
      column("port", "Port", "minmax(6.2rem,.6fr)", 1, portName, (row) => row.port, { sort: "id" }),
      column("since", "Joined for", "minmax(5.4rem,.7fr)", 2, sinceText, (row) => -row.since, { ...number, sort: "-since" }),
      inOut("to", "To it", "bytes_written", "bytes_written"),
      inOut("from", "From it", "bytes_received", "bytes_received"),
      column("outbox", "Outbox", "minmax(5rem,.7fr)", 1, (row) => percent(outboxPart(row)), outboxPart, { ...number, sort: "backlog_bytes", hint: "Of what may wait for this driver; full when devices wait for it", meter: outboxPart }),
      column("credit", "Credit", "minmax(5rem,.7fr)", 2, (row) => percent(part(row.credit_bytes, limits.credit)), (row) => row.credit_bytes, { ...number, sort: "credit_bytes", hint: "Of what this driver may have on its way to devices", meter: (row) => part(row.credit_bytes, limits.credit) }),
      column("stalls", "Stalls", "minmax(4.4rem,.5fr)", 1, (row) => count(stallsOf(row)), stallsOf, { ...number, hint: "Times that it was waited for, or had to wait", tone: (row) => (row.troubles.length ? "warn" : null) }),
    ],
  },
  devices: {
    title: "Devices",
    one: "device",
    key: (row) => `${row.transport}/${row.port}/${row.id}`,
    text: searched((row) => `${endpoint(row)} ${row.id} ${row.transport} ${row.port} ${row.transport}:${row.port}`),
    // The longest silent first.
    order: { shown: "seen", sort: "last_seen", by: [(row) => row.last_seen, (row) => row.port, (row) => row.id] },
    empty: "No TCP device is connected. Datagrams leave none.",
    columns: [
      column("address", "Address", "minmax(8.5rem,1.4fr)", 1, endpoint, addressValue, { sort: "address", code: true, strong: true }),
      column("id", "Id", "minmax(3.6rem,.4fr)", 2, (row) => String(row.id), (row) => row.id, { align: "end" }),
      column("port", "Port", "minmax(6.2rem,.6fr)", 1, portName, (row) => row.port, { sort: "id" }),
      column("since", "Connected for", "minmax(6.4rem,.8fr)", 2, sinceText, (row) => -row.since, { ...number, sort: "-since" }),
      column("seen", "Silent for", "minmax(5.6rem,.8fr)", 1, (row) => span(clock.server() - row.last_seen), (row) => -row.last_seen, { ...number, sort: "-last_seen", hint: "Time since it last sent anything" }),
      inOut("in", "In", "bytes_received", "bytes_received"),
      inOut("out", "Out", "bytes_written", "bytes_written"),
      column("queued", "Queued", "minmax(4.6rem,.7fr)", 2, (row) => bytes(row.backlog_bytes), (row) => row.backlog_bytes, { ...number, sort: "backlog_bytes", hint: "Bytes of drivers that wait for it", tone: (row) => (row.backlog_bytes > 0 ? "warn" : null) }),
    ],
  },
  refused: {
    title: "Refused",
    one: "refusal",
    key: (row) => `${row.shard}/${row.what}/${row.address}/${row.transport}/${row.port}/${row.reason}`,
    text: searched((row) => `${row.what} ${row.address} ${portName(row)} ${reasonText(row)}`),
    order: { shown: "time", sort: "-last_seen", by: [(row) => -row.time] },
    empty: "Nobody was refused.",
    columns: [
      column("time", "Last", "minmax(5.4rem,.6fr)", 1, (row) => `${span(clock.server() - row.time)} ago`, (row) => -row.time, { sort: "-last_seen" }),
      column("what", "What", "minmax(5rem,.5fr)", 1, (row) => row.what, (row) => row.what, { strong: true }),
      column("address", "Address", "minmax(8rem,1.2fr)", 1, (row) => row.address, addressValue, { sort: "address", code: true }),
      column("port", "To", "minmax(6.2rem,.6fr)", 2, portName, (row) => row.port ?? 0),
      column("reason", "Reason", "minmax(6rem,1.2fr)", 1, reasonText, reasonText),
      column("times", "Times", "minmax(4rem,.5fr)", 2, (row) => count(row.times), (row) => row.times, number),
    ],
  },
};
const TABS = Object.keys(KINDS);

/** Rows in an order: the chosen column's, then the list's usual one, then that of keys. */
function sortRows(kind, rows, chosen) {
  const { columns, order } = KINDS[kind];
  const sign = chosen?.falls ? -1 : 1;
  const value = chosen && columns.find((other) => other.name === chosen.name).value;
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return rows.sort((one, other) => {
    let difference = value ? sign * compare(value(one), value(other)) : 0;
    for (let at = 0; difference === 0 && at < order.by.length; at += 1) {
      difference = compare(order.by[at](one), order.by[at](other));
    }
    return difference || compare(one.key, other.key);
  });
}

/** The daemon's name for an order: it decides which rows are left out where there are more than the page takes. */
function serverSort(kind, chosen) {
  const found = chosen && KINDS[kind].columns.find((other) => other.name === chosen.name);
  if (!found?.sort) return KINDS[kind].order.sort;
  // A span falls as its beginning rises.
  const [name, isInverse] = found.sort.startsWith("-") ? [found.sort.slice(1), true] : [found.sort, false];
  return chosen.falls === isInverse ? name : `-${name}`;
}
