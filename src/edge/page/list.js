// The list: rows of one kind, of which only those in sight are in the document. They keep their places while the
// pointer is on them.

const ROWS_BESIDE = 6;
/** How long after a touch its click may come. */
const CLICK_MS = 500;
/** How much wider than their least the columns of a rank have to be able to stand. */
const ROOM = 1.1;
/** The least width of a column, in rem. */
const leastWidth = (one) => parseFloat(one.width.slice("minmax(".length));

const list = {
  kind: "ports",
  /** In the order of the screen. */
  rows: [],
  /** The column that was chosen to order by, if one was: `{ name, falls }`. */
  chosen: null,
  activeKey: null,
  isHeld: false,
  /** Whether the next rows are another choice, so that places mean nothing. */
  isOther: true,
  onOpen: () => {},
  onOrder: () => {},
  /** Elements of rows, used again for whichever row is in sight. */
  pool: [],
  columns: [],
  rowHeight: 36,

  start() {
    this.root = byId("list");
    this.head = byId("list-head");
    this.body = byId("list-body");
    const draw = () => this.draw();
    this.root.addEventListener("scroll", draw, { passive: true });
    addEventListener("scroll", draw, { passive: true });
    new ResizeObserver(() => this.fit()).observe(this.root);
    const isTouch = (event) => event.pointerType === "touch";
    this.body.addEventListener("pointerenter", (event) => isTouch(event) || this.hold(true));
    // A touch has ended before its click arrives, which has to find the same row.
    this.body.addEventListener("pointerleave", (event) => (isTouch(event) ? setTimeout(() => this.hold(false), CLICK_MS) : this.hold(false)));
    this.body.addEventListener("pointerdown", () => this.hold(true));
    this.body.addEventListener("pointercancel", () => this.hold(false));
    this.body.addEventListener("click", (event) => {
      const element = event.target.closest("[data-key]");
      if (!element || String(getSelection())) return;
      this.activate(element.dataset.key);
      this.onOpen(element.dataset.key);
    });
    this.root.addEventListener("keydown", (event) => event.target.closest("button") || this.key(event));
  },

  /** Shows another kind, from its beginning. */
  show(kind) {
    this.kind = kind;
    this.rows = [];
    this.isOther = true;
    this.chosen = null;
    this.activeKey = null;
    this.columns = [];
    this.root.scrollTop = 0;
    this.root.setAttribute("aria-label", KINDS[kind].title);
    this.fit();
  },

  /** While it is held, rows stay where they are; when it is let go, they are put in order. */
  hold(isHeld) {
    if (this.isHeld === isHeld) return;
    this.isHeld = isHeld;
    byId("held").hidden = !isHeld;
    if (!isHeld) this.arrange();
  },

  /** Takes the rows that there are, in whichever order. */
  put(rows) {
    if (this.isHeld && !this.isOther) {
      const left = new Map(rows.map((row) => [row.key, row]));
      const placed = this.rows.map((old) => {
        const row = left.get(old.key);
        left.delete(old.key);
        return row ?? { ...old, isGone: true };
      });
      this.place([...placed, ...sortRows(this.kind, [...left.values()], this.chosen)]);
    } else {
      this.place(sortRows(this.kind, rows, this.chosen));
      this.isOther = false;
    }
  },

  /** Puts the rows that are there in order. */
  arrange() {
    this.place(sortRows(this.kind, this.rows.filter((row) => !row.isGone), this.chosen));
  },

  /** Shows rows in this order. */
  place(rows) {
    this.rows = rows;
    if (this.activeKey && !this.rows.some((row) => row.key === this.activeKey)) this.activeKey = null;
    this.root.setAttribute("aria-rowcount", this.rows.length + 1);
    this.body.style.height = `${this.rows.length * this.rowHeight}px`;
    this.draw();
  },

  find(key) {
    return this.rows.find((row) => row.key === key);
  },

  /** Chooses the columns that there is room for. */
  fit() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const ofRank = (rank) => KINDS[this.kind].columns.filter((one) => one.rank <= rank);
    const hasRoom = (rank) => sum(ofRank(rank).map(leastWidth)) * ROOM <= this.root.clientWidth / rem;
    const columns = ofRank([3, 2].find(hasRoom) ?? 1);
    const height = Math.round(parseFloat(getComputedStyle(this.root).getPropertyValue("--row")) * rem);
    const isSame = this.columns.length === columns.length && this.columns.every((one, at) => one === columns[at]);
    if (!isSame || this.rowHeight !== height) {
      this.columns = columns;
      this.rowHeight = height;
      this.root.style.setProperty("--row-height", `${height}px`);
      this.root.style.setProperty("--columns", columns.map((one) => one.width).join(" "));
      this.root.setAttribute("aria-colcount", columns.length);
      this.pool = [];
      this.body.replaceChildren();
      this.body.style.height = `${this.rows.length * height}px`;
      this.drawHead();
    }
    this.draw();
  },

  drawHead() {
    const hadFocus = this.head.contains(document.activeElement) && document.activeElement.dataset.column;
    const cells = this.columns.map((one) => {
      const isUsual = !this.chosen && KINDS[this.kind].order.shown === one.name;
      const isChosen = this.chosen?.name === one.name;
      const arrow = isChosen ? (this.chosen.falls ? "▼" : "▲") : isUsual ? "•" : "";
      const order = isChosen ? (this.chosen.falls ? "descending" : "ascending") : isUsual ? "other" : "none";
      const button = make("button", { type: "button", "data-column": one.name, title: one.hint, onclick: () => this.order(one) },
        one.label, make("span", { class: "arrow", "aria-hidden": "true" }, arrow));
      return make("div", { role: "columnheader", class: one.align ?? "start", "aria-sort": order }, button);
    });
    this.head.replaceChildren(...cells);
    if (hadFocus) this.head.querySelector(`[data-column="${hadFocus}"]`)?.focus();
  },

  /** A column's order, then the other way round, then the usual one again. */
  order(one) {
    const first = Boolean(one.falls);
    if (this.chosen?.name !== one.name) this.chosen = { name: one.name, falls: first };
    else this.chosen = this.chosen.falls === first ? { name: one.name, falls: !first } : null;
    this.drawHead();
    this.arrange();
    this.isOther = true;
    this.onOrder();
  },

  /** The rows in sight: where they begin and end. */
  sight() {
    const body = this.body.getBoundingClientRect();
    const root = this.root.getBoundingClientRect();
    const top = Math.max(root.top, 0) - body.top;
    const bottom = Math.min(root.bottom, innerHeight) - body.top;
    const from = Math.max(0, Math.floor(top / this.rowHeight) - ROWS_BESIDE);
    const to = Math.min(this.rows.length, Math.ceil(bottom / this.rowHeight) + ROWS_BESIDE);
    return [from, Math.max(from, to)];
  },

  draw() {
    const [from, to] = this.sight();
    while (this.pool.length < to - from) {
      const cells = this.columns.map((one) => make("div", { role: "gridcell", class: `${one.align ?? "start"}${one.code ? " code" : ""}${one.strong ? " strong" : ""}` }));
      const element = make("div", { role: "row", class: "row" }, ...cells);
      this.pool.push(element);
      this.body.append(element);
    }
    this.pool.forEach((element, at) => {
      const row = this.rows[from + at];
      element.hidden = !row || from + at >= to;
      if (!element.hidden) this.drawRow(element, row, from + at);
    });
    const active = this.pool.find((element) => !element.hidden && element.dataset.key === this.activeKey);
    if (active) this.root.setAttribute("aria-activedescendant", active.id);
    else this.root.removeAttribute("aria-activedescendant");
  },

  drawRow(element, row, at) {
    element.style.transform = `translateY(${at * this.rowHeight}px)`;
    element.id = `row-${at}`;
    element.dataset.key = row.key;
    element.setAttribute("aria-rowindex", at + 2);
    element.setAttribute("aria-selected", row.key === this.activeKey);
    element.classList.toggle("gone", Boolean(row.isGone));
    this.columns.forEach((one, place) => {
      const cell = element.children[place];
      setText(cell, row.isGone && place === 0 ? `left: ${one.text(row)}` : one.text(row));
      if (one.tone) cell.dataset.tone = one.tone(row) ?? "";
      if (one.meter) {
        cell.classList.add("meter");
        cell.style.setProperty("--part", one.meter(row));
        cell.dataset.tone = one.meter(row) >= 0.9 ? "bad" : one.meter(row) >= 0.5 ? "warn" : "";
      }
    });
  },

  activate(key) {
    this.activeKey = key;
    this.draw();
  },

  /** Makes the row at a place the active one, and brings it into sight. */
  go(at) {
    const place = Math.max(0, Math.min(this.rows.length - 1, at));
    if (!this.rows.length) return;
    this.activeKey = this.rows[place].key;
    const rowTop = this.body.getBoundingClientRect().top + place * this.rowHeight;
    const root = this.root.getBoundingClientRect();
    const top = Math.max(root.top, 0) + this.head.offsetHeight;
    const bottom = Math.min(root.bottom, innerHeight) - this.rowHeight;
    const by = rowTop < top ? rowTop - top : rowTop > bottom ? rowTop - bottom : 0;
    const scroller = this.root.scrollHeight > this.root.clientHeight + 1 ? this.root : document.scrollingElement;
    if (by) scroller.scrollBy(0, by);
    this.draw();
  },

  key(event) {
    const at = this.rows.findIndex((row) => row.key === this.activeKey);
    const inSight = Math.max(1, Math.floor(Math.min(this.root.clientHeight, innerHeight) / this.rowHeight) - 2);
    const places = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, PageDown: at + inSight, PageUp: at - inSight, Home: 0, End: this.rows.length };
    if (event.key in places) this.go(places[event.key]);
    else if (event.key === "Enter" && at >= 0) this.onOpen(this.activeKey);
    else return;
    event.preventDefault();
  },
};
