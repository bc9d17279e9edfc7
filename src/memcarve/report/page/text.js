// How values become text, and text becomes elements. Nothing here takes text for markup.

const TOP = 1n << 64n;
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
// what would hide, turn or overlay the text around it: controls, directions, zero widths, byte order marks, separators
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
// a spreadsheet takes text that begins like this for a formula
const FORMULA = /^[=+\-@]/;

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const listOf = (value) => (Array.isArray(value) ? value : []);
const recordOf = (value) => (isRecord(value) ? value : {});
const isUnknown = (value) => value === null || value === undefined || value === "";

/** Text from evidence, with what cannot be seen written as an escape. */
function visible(text) {
  return text.replace(UNSEEN, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Any value of the document as one line of text. */
function plain(value) {
  if (isUnknown(value)) return "";
  if (typeof value === "string") return visible(value);
  if (typeof value === "bigint") return hex(value);
  if (typeof value === "object") return Array.isArray(value) ? value.map(plain).join(", ") : visible(JSON.stringify(value));
  return String(value);
}

/** A text that stands where nothing scrolls: its beginning, if it is long. */
function brief(text, most = 300) {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

function hex(address, digits = 1) {
  return `0x${address.toString(16).padStart(digits, "0")}`;
}

/** An address as the document or a person writes it, or null: 0x7ff6..., 00007ff6`73400000, 7ff673400000. */
function addressOf(text) {
  if (typeof text === "number") return Number.isSafeInteger(text) && text >= 0 ? BigInt(text) : null;
  const found = /^(?:0x)?([0-9a-f]+)$/i.exec(String(text).trim().replace(/[`_]/g, ""));
  if (!found || found[1].length > 17) return null;
  const address = BigInt(`0x${found[1]}`);
  return address <= TOP ? address : null;
}

/** A count of bytes, 0 if it is none; past 2^53 it is as exact as JSON's numbers are. */
function sizeOf(value) {
  const size = typeof value === "string" ? Number(value) : value;
  return Number.isFinite(size) && size > 0 ? Math.min(Math.floor(size), 2 ** 64) : 0;
}

function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

function bytes(size) {
  let unit = 0;
  let shown = size;
  while (shown >= 1024 && unit < UNITS.length - 1) {
    shown /= 1024;
    unit += 1;
  }
  if (unit && shown < 999.95) return `${shown.toFixed(shown < 99.95 ? 1 : 0)} ${UNITS[unit]}`;
  return `${Math.round(shown)} ${UNITS[unit]}`;
}

function counted(count, one, many = `${one}s`) {
  return `${grouped(count)} ${count === 1 ? one : many}`;
}

function csvCell(value, isText) {
  const guarded = isText && FORMULA.test(value) ? `'${value}` : value;
  return /[",;\t\r\n]/.test(guarded) ? `"${guarded.replaceAll('"', '""')}"` : guarded;
}

/** A new element: properties are set as such, what has a hyphen or is a role as an attribute; strings are text. */
function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name.includes("-") || name === "role" || name === "scope") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);

/** The first index of 0..count for which `holds` is true; it must stay true from there on. */
function firstOf(count, holds) {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}
