// How numbers, sizes and times read, and how elements are made.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SIZES = ["B", "kB", "MB", "GB", "TB", "PB"];
const NONE = "–";

/** Three digits that matter: 1.24, 12.4, 124. */
function threeDigits(value) {
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

function count(value) {
  return WHOLE.format(value);
}

function bytes(value) {
  let size = 0;
  while (value >= 999.5 && size < SIZES.length - 1) {
    value /= 1000;
    size += 1;
  }
  return `${size === 0 ? count(value) : threeDigits(value)} ${SIZES[size]}`;
}

/** Something each second; below ten with a tenth, so that one in a while is not none. */
function perSecond(value) {
  return value === 0 ? "0/s" : `${value < 10 ? value.toFixed(1) : count(value)}/s`;
}

function bytesPerSecond(value) {
  return value === 0 ? "0 B/s" : `${bytes(value)}/s`;
}

function percent(part) {
  return `${Math.round(part * 100)} %`;
}

/** A time of seconds that is itself short. */
function shortTime(seconds) {
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  return seconds < 1 ? `${threeDigits(seconds * 1000)} ms` : `${threeDigits(seconds)} s`;
}

/** How long something has been going on: 42 s, 7 min, 3 h 20 min, 5 d 4 h. */
function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  const [unit, large, part, small] = s < 86400 ? [3600, "h", 60, "min"] : [86400, "d", 3600, "h"];
  const rest = Math.floor((s % unit) / part);
  return `${Math.floor(s / unit)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

/** A moment, for tooltips and details: the local time, to the second. */
function moment(secondsSince1970) {
  const at = new Date(secondsSince1970 * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

function byId(id) {
  return document.getElementById(id);
}

/** An element with attributes and children; a child is an element or text, and nothing is read as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Sets a text only where it is another, so that nothing is laid out anew for nothing. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
