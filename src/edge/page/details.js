// The details of one row: what is known of it, commands to copy, where to look next, and disconnecting.

const URL_HERE = new URL(".", document.baseURI).href.replace(/\/$/, "");

/** A word of a command, in quotes where a shell would read more into it. */
function word(text) {
  return /^[\w.:@%+=,/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function tapCommand(row, ...filter) {
  return ["dispatch", "tap", row.transport, row.port, ...filter.map(word), "--url", word(URL_HERE)].join(" ");
}

/** How much in all, and how fast once that is known. */
const amount = (all, rate) => (rate === null ? bytes(all) : `${bytes(all)}, ${bytesPerSecond(rate)}`);

const facts = {
  ports: (row) => [
    ["State", portState(row)],
    ["Drivers", count(row.drivers)],
    ["Devices", row.transport === "udp" ? "datagrams leave none" : count(row.devices)],
    ["From devices", amount(row.bytes_received, row.rateIn)],
    ["To devices", amount(row.bytes_written, row.rateOut)],
    ["Waits for drivers", bytes(row.backlog_bytes)],
    ["Problems", `${plural(row.waits, "stall")}, ${plural(row.dropped, "drop")}, ${plural(row.refused, "refusal")}`],
    ["Open since", `${moment(row.since)}, ${sinceText(row)}`],
    ["Shard", String(row.shard)],
  ],
  drivers: (row) => [
    ["Session", String(row.id)],
    ["Address", endpoint(row)],
    ["Port", portName(row)],
    ["Accepts", row.accept],
    ["Outbox", `${percent(outboxPart(row))}, ${bytes(row.backlog_bytes)} wait${row.outbox_full ? ", and devices wait" : ""}`],
    ["Credit", `${percent(part(row.credit_bytes, limits.credit))}, ${bytes(row.credit_bytes)} on their way to devices`],
    ["Stalls", `${count(row.outbox_waits)} for want of room in its outbox, ${count(row.credit_waits)} for credit`],
    ["Sent to it", bytes(row.bytes_written)],
    ["Came from it", bytes(row.bytes_received)],
    ["Last heard of", `${moment(row.last_seen)}, ${span(clock.server() - row.last_seen)} ago`],
    ["Joined", `${moment(row.since)}, ${sinceText(row)} ago`],
  ],
  devices: (row) => [
    ["Address", endpoint(row)],
    ["Last sent", `${moment(row.last_seen)}, ${span(clock.server() - row.last_seen)} ago`],
    ["Connected", `${moment(row.since)}, ${sinceText(row)} ago`],
    ["In", amount(row.bytes_received, row.rateIn)],
    ["Out", amount(row.bytes_written, row.rateOut)],
    ["Queued", bytes(row.backlog_bytes)],
  ],
  refused: (row) => [
    ["Address", row.address],
    ["To", portName(row)],
    ["Reason", reasonText(row)],
    ["Times", count(row.times)],
    ["Last", `${moment(row.time)}, ${span(clock.server() - row.time)} ago`],
    ["What to do", whatToDo(row)],
  ],
};

function whatToDo(row) {
  if (row.what === "token") return "Give its program the token of this daemon; or shut the address out.";
  if (row.what === "join") return "The log says more: look for “join refused”.";
  if (row.reason.startsWith("proxy_header")) return "Have the balancer send a PROXY header, or do not list it.";
  if (row.reason === "limit") return "The port is full: raise --devices-per-port-max.";
  if (row.reason === "source_limit") return "Its address has as many devices as it may: raise --devices-per-source-max.";
  if (row.reason === "flapping") return "It connects too often: mend that, then forgive it, or wait for --source-refused-ms.";
  if (row.reason === "replaced") return "Nothing: it connected again before it was let in, and that connection was.";
  return `No driver on ${portName(row)} accepts ${row.address}: add it to the accept list of one.`;
}

/** Commands by kind: what each is for, and its text. */
const commands = {
  ports: (row) => taps(row),
  drivers: (row) => (row.module === null ? taps(row) : taps(row, `--driver=${row.module}`)),
  devices: (row) => taps(row, "--device", tapDevice(row)),
  refused: () => [],
};

function taps(row, ...filter) {
  return [["Watch it", tapCommand(row, ...filter)], ["In tshark", `${tapCommand(row, ...filter, "--pcap", "-")} | tshark -r -`]];
}

/** Other rows that belong to one: what they are, the list, and the search. */
const related = {
  ports: (row) => [["Its devices", "devices", portSearch(row)], ["Its drivers", "drivers", portSearch(row)]],
  drivers: (row) => [
    ["Its devices", "devices", `${portSearch(row)}${row.module && !/\s/.test(row.module) ? ` module:${row.module}` : ""}`],
    ["Its port", "ports", portSearch(row)],
  ],
  devices: (row) => [["Its drivers", "drivers", portSearch(row)], ["Its port", "ports", portSearch(row)], ["Same address", "devices", row.address]],
  refused: (row) => (row.port ? [["The port", "ports", portSearch(row)], ["Its drivers", "drivers", portSearch(row)]] : []),
};
const portSearch = (row) => `${row.transport} port:${row.port}`;

/** What can be ended from a row: the button, the question, what it will do, and the request. */
const endings = {
  ports: (row) => [
    {
      label: "Disconnect drivers…", isThere: row.drivers > 0,
      title: `Disconnect ${plural(row.drivers, "driver")} of ${portName(row)}?`,
      text: `${row.drivers === 1 ? "It gets" : "Each gets"} close code 1008. The port closes, and ${devicesOf(row)}. Drivers usually join again within seconds.`,
      button: `Disconnect ${plural(row.drivers, "driver")}`,
      path: `drivers?transport=${row.transport}&port=${row.port}&expected=${row.drivers}`,
    },
    {
      label: "Disconnect devices…", isThere: row.devices > 0,
      title: `Disconnect ${plural(row.devices, "device")} of ${portName(row)}?`,
      text: "What is queued for them still leaves. Their drivers are told CLOSED of each. Devices may connect again at once.",
      button: `Disconnect ${plural(row.devices, "device")}`,
      path: `devices?transport=${row.transport}&port=${row.port}&expected=${row.devices}`,
    },
  ],
  drivers: (row) => [{
    label: "Disconnect this driver…", isThere: true,
    title: `Disconnect driver ${row.module ?? row.id} of ${portName(row)}?`,
    more: async () => {
      const port = await ask(`ports/${row.transport}/${row.port}`);
      if (port.drivers > 1) return `${portName(row)} has ${plural(port.drivers - 1, "other driver")} and stays open; devices that only this one accepts are disconnected.`;
      return `It is the only driver of ${portName(row)}: the port closes, and ${devicesOf(port)}.`;
    },
    text: `The session from ${endpoint(row)} gets close code 1008. It may join again within seconds.`,
    button: `Disconnect ${row.module ?? `driver ${row.id}`}`,
    path: `drivers/${row.id}`,
  }],
  devices: (row) => [{
    label: "Disconnect this device…", isThere: true,
    title: `Disconnect device ${row.id} of ${portName(row)}?`,
    text: `${endpoint(row)}, connected for ${sinceText(row)} and silent for ${span(clock.server() - row.last_seen)}. ${row.backlog_bytes ? `The ${bytes(row.backlog_bytes)} queued for it still leave. ` : ""}Its drivers are told CLOSED. It may connect again at once.`,
    button: `Disconnect device ${row.id}`,
    path: `devices/${row.transport}/${row.port}/${row.id}`,
  }],
  refused: () => [],
};
const devicesOf = (port) => (port.devices ? `its ${plural(port.devices, "device")} ${port.devices === 1 ? "is" : "are"} disconnected` : "it has no device");

const details = {
  key: null,
  kind: null,

  start() {
    this.root = byId("details");
    byId("details-close").addEventListener("click", () => this.close());
    byId("confirm").addEventListener("close", () => this.returnFocus());
    byId("confirm-cancel").addEventListener("click", () => byId("confirm").close());
  },

  get isOpen() {
    return !this.root.hidden;
  },

  open(kind, key) {
    const row = list.find(key);
    if (!row) return;
    Object.assign(this, { kind, key });
    this.root.hidden = false;
    document.body.classList.add("has-details");
    this.fill(row);
    byId("details-title").focus({ preventScroll: true });
  },

  close() {
    if (!this.isOpen) return;
    this.root.hidden = true;
    this.key = null;
    document.body.classList.remove("has-details");
    list.root.focus({ preventScroll: true });
  },

  fill(row) {
    const titles = { ports: portName(row), drivers: row.module ?? "Driver without X-Module-ID", devices: `Device ${row.id} of ${portName(row)}`, refused: `Refused ${row.what}` };
    setText(byId("details-title"), titles[this.kind]);
    const copies = commands[this.kind](row).map(([label, text]) => this.copy(label, text));
    byId("details-commands").replaceChildren(...copies);
    byId("details-tap").hidden = copies.length === 0;
    const links = related[this.kind](row).map(([label, tab, search]) => make("button", { type: "button", class: "link", onclick: () => goTo(tab, search) }, label));
    byId("details-related").replaceChildren(...links);
    const actions = endings[this.kind](row).map((ending, at) => make("button", { type: "button", class: "danger", disabled: !ending.isThere, onclick: () => this.confirm(endings[this.kind](list.find(this.key) ?? row)[at]) }, ending.label));
    byId("details-actions").replaceChildren(...actions);
    this.drawn = null;
    this.refresh();
  },

  /** Shows the numbers anew; what is copied and pressed stays where it is. */
  refresh() {
    if (!this.isOpen) return;
    const row = list.find(this.key);
    byId("details-gone").hidden = Boolean(row) && !row.isGone;
    const isGone = !row || row.isGone;
    for (const button of byId("details-actions").children) {
      if (isGone) button.disabled = true;
    }
    if (isGone) return;
    const own = facts[this.kind](row);
    const dl = byId("details-facts");
    if (this.drawn !== this.key) {
      dl.replaceChildren(...own.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
      this.drawn = this.key;
    } else {
      own.forEach(([, value], at) => setText(dl.children[2 * at + 1], value));
    }
    endings[this.kind](row).forEach((ending, at) => (byId("details-actions").children[at].disabled = !ending.isThere));
  },

  copy(label, text) {
    // A line ends between words, and not at a hyphen.
    const words = text.split(" ").flatMap((one, at) => [at ? " " : null, make("span", {}, one)]);
    const code = make("code", { tabindex: "0" }, ...words);
    const button = make("button", { type: "button", onclick: () => copyText(code, button) }, "Copy");
    button.setAttribute("aria-label", `Copy: ${label}`);
    return make("div", { class: "command" }, make("span", { class: "label" }, label), code, button);
  },

  /** Says what will happen, and asks. */
  confirm(ending) {
    const dialog = byId("confirm");
    const go = byId("confirm-go");
    setText(byId("confirm-title"), ending.title);
    setText(byId("confirm-text"), ending.text);
    setText(byId("confirm-more"), "");
    setText(go, ending.button);
    go.disabled = false;
    ending.more?.().then((text) => setText(byId("confirm-more"), text)).catch(() => {});
    go.onclick = async () => {
      go.disabled = true;
      const said = await disconnect(ending);
      dialog.close();
      say(said);
      refreshSoon();
    };
    dialog.showModal();
    byId("confirm-cancel").focus();
  },

  returnFocus() {
    (byId("details-actions").querySelector("button:not(:disabled)") ?? byId("details-title")).focus();
  },
};

/** Disconnects, and says in a sentence what came of it. */
async function disconnect(ending) {
  try {
    const { disconnected } = await ask(ending.path, "DELETE");
    return disconnected === 1 ? "1 was disconnected." : `${count(disconnected)} were disconnected.`;
  } catch (error) {
    if (error.status === 404) return "It had left already.";
    if (error.status === 409) return `${count(error.body.matching)} match by now: nobody was disconnected. Look again.`;
    if (error.status === 0) return `Whether it was done is not known: ${error.message}.`;
    return `Nobody was disconnected: ${error.message}.`;
  }
}

/** Copies a command; where the browser has no clipboard, as over plain HTTP, by way of a selection. */
async function copyText(code, button) {
  let isCopied = false;
  try {
    await navigator.clipboard.writeText(code.textContent);
    isCopied = true;
  } catch {
    getSelection().selectAllChildren(code);
    isCopied = document.execCommand("copy");
    if (isCopied) getSelection().removeAllRanges();
  }
  setText(button, isCopied ? "Copied" : "Selected");
  say(isCopied ? "The command is copied." : "The command is selected: copy it.");
  setTimeout(() => setText(button, "Copy"), 2000);
}
