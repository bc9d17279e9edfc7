// Tables of any length: sorted, filtered, copied as CSV. Only the rows in view are elements.

const ROW = 24; // pixels, as in the style
const TALLEST = 8e6; // pixels; browsers bound how tall an element is. Longer tables scroll in larger steps
const WIDTHS = { address: 150, size: 84, count: 72, number: 72, text: 150, long: 280, hash: 150, severity: 92, word: 104, id: 72, time: 226, words: 190 };
const RIGHT = new Set(["size", "count", "number", "id"]);

/**
 * A column of a table: `value(i)` of row `i` is what it is sorted by and what CSV has, `show(value, i)` what is seen.
 * `source` is the document's column, if it is one: words are then looked for in each of its values once.
 */
class Field {
  constructor(key, title, kind, value, source = null) {
    Object.assign(this, { key, title, kind, value, source, width: Math.max(WIDTHS[kind], 30 + title.length * 7.5) });
  }

  /** Whether any row has a value: a column without is not shown. */
  isKnown(count) {
    if (this.source?.values?.every(isUnknown)) return false;
    for (let i = 0; i < count; i += 1) if (!isUnknown(this.value(i)) && this.text(i)) return true;
    return false;
  }

  text(i) {
    const value = this.value(i);
    if (isUnknown(value)) return "";
    if (this.kind === "number") return typeof value === "number" ? value.toFixed(3) : plain(value);
    return plain(value);
  }

  /** What is read on the page: sizes in units. */
  shown(i) {
    const value = this.value(i);
    if (this.kind === "size" && typeof value === "number") return bytes(value);
    if (this.kind === "count" && typeof value === "number") return grouped(value);
    if (this.kind === "number" && typeof value === "number") return value.toFixed(2);
    return this.text(i);
  }

  finder(word, rows) {
    const holds = (i) => this.text(i).toLowerCase().includes(word);
    if (!this.source?.values) return holds;
    const found = this.source.values.map((value) => plain(value).toLowerCase().includes(word));
    return (i) => found[this.source.codes[rows.row(i)]] ?? false;
  }

  /** Numbers or BigInts to sort rows by; what is not known comes last either way. */
  keys(count, isDescending) {
    const last = isDescending ? -Infinity : Infinity;
    if (this.kind === "address") {
      const lastAddress = isDescending ? 0n : TOP - 1n;
      return BigUint64Array.from({ length: count }, (_, i) => saturated(this.value(i) ?? lastAddress));
    }
    if (this.kind === "severity") return Float64Array.from({ length: count }, (_, i) => SEVERITIES.indexOf(this.value(i)));
    const values = Array.from({ length: count }, (_, i) => this.value(i));
    if (values.every((value) => isUnknown(value) || typeof value === "number")) {
      return Float64Array.from(values, (value) => (isUnknown(value) ? last : value));
    }
    const texts = values.map(plain);
    const ranks = new Map([...new Set(texts)].sort(compared).map((text, rank) => [text, rank]));
    return Float64Array.from(texts, (text) => (text ? ranks.get(text) : last));
  }
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function compared(a, b) {
  return collator.compare(a, b) || (a < b ? -1 : Number(a > b));
}

class Table {
  constructor({ name, title, count, rows = null, fields, onSelect = null, addressOfRow = null, links = null }) {
    Object.assign(this, { name, title, count, rows, fields, onSelect, addressOfRow, links });
    this.order = null; // rows in the order shown, null if it is theirs
    this.active = 0;
    this.words = "";
    this.sorted = null;
  }

  get shownCount() {
    return this.order ? this.order.length : this.count;
  }

  rowAt(place) {
    return this.order ? this.order[place] : place;
  }

  build() {
    if (this.element) return this.element;
    this.filter = make("input", {
      type: "search", className: "filter", placeholder: "Filter", spellcheck: false, autocomplete: "off",
      "aria-label": `Filter ${this.title.toLowerCase()}`,
    });
    let waiting = 0;
    this.filter.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.arrange(), this.count > 20000 ? 150 : 0);
    });
    this.number = make("span", { className: "number", role: "status" });
    const copy = make("button", { type: "button" }, "Copy CSV");
    copy.addEventListener("click", () => copyText(this.csv(), copy));
    const save = make("button", { type: "button" }, "Save CSV");
    save.addEventListener("click", () => saveText(this.csv(), `${this.name}.csv`));
    this.head = make("tr", { "aria-rowindex": "1" });
    for (const field of this.fields) {
      const button = make("button", { type: "button" }, field.title);
      button.addEventListener("click", () => this.sort(field));
      field.head = make("th", { scope: "col", "aria-sort": "none", className: RIGHT.has(field.kind) ? "right" : "" }, button);
      this.head.append(field.head);
    }
    this.body = make("tbody", {});
    this.grid = make("table", { role: "grid", "aria-label": this.title, "aria-rowcount": String(this.count + 1) });
    const columns = make("colgroup", {}, this.fields.map((field) => make("col", {})));
    [...columns.children].forEach((column, n) => {
      column.style.width = `${this.fields[n].width}px`;
    });
    this.grid.style.minWidth = `${this.fields.reduce((sum, { width }) => sum + width, 0)}px`;
    this.grid.append(columns, make("thead", {}, this.head), this.body);
    this.scroller = make("div", { className: "scroller", tabIndex: -1 }, this.grid);
    this.scroller.style.height = `${Math.max(3, this.count) * ROW + 46}px`; // the style bounds it
    this.scroller.addEventListener("scroll", () => this.draw());
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.draw()).observe(this.scroller);
    this.element = make("div", { className: "table" },
      make("div", { className: "bar" }, this.filter, this.number, make("span", { className: "grow" }), copy, save), this.scroller);
    this.arrange();
    return this.element;
  }

  // -- which rows, in which order

  sort(field) {
    const isDescending = this.sorted?.field === field && !this.sorted.isDescending;
    this.sorted = { field, isDescending };
    for (const each of this.fields) {
      each.head.setAttribute("aria-sort", each !== field ? "none" : isDescending ? "descending" : "ascending");
    }
    this.arrange();
  }

  arrange() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const finders = words.map((word) => this.fields.map((field) => field.finder(word, this.rows)));
    let order = null;
    if (words.length) {
      const found = [];
      for (let i = 0; i < this.count; i += 1) if (finders.every((each) => each.some((holds) => holds(i)))) found.push(i);
      order = Uint32Array.from(found);
    }
    if (this.sorted) {
      const { field, isDescending } = this.sorted;
      const keys = field.keys(this.count, isDescending);
      const sign = isDescending ? -1 : 1;
      order ??= Uint32Array.from({ length: this.count }, (_, i) => i);
      order.sort((a, b) => (keys[a] < keys[b] ? -sign : keys[a] > keys[b] ? sign : a - b));
    }
    this.order = order;
    this.arranged = (this.arranged ?? 0) + 1;
    this.active = 0;
    const all = counted(this.count, "row");
    this.number.textContent = words.length ? `${grouped(this.shownCount)} of ${all}` : all;
    this.grid.setAttribute("aria-rowcount", String(this.shownCount + 1));
    this.scroller.scrollTop = 0;
    this.draw();
  }

  // -- drawing

  /** The heights of all rows and of what is scrolled; equal unless there are very many. */
  get tall() {
    return Math.min(this.shownCount * ROW, TALLEST);
  }

  get visibleCount() {
    return Math.max(1, Math.ceil((this.scroller.clientHeight - ROW - 2) / ROW));
  }

  get firstShown() {
    const whole = Math.max(1, this.tall - this.visibleCount * ROW);
    const last = Math.max(0, this.shownCount - this.visibleCount);
    return Math.min(last, Math.max(0, Math.round((this.scroller.scrollTop / whole) * last)));
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.drawNow();
    });
  }

  drawNow() {
    const first = Math.max(0, this.firstShown - 2);
    const after = Math.min(this.shownCount, first + this.visibleCount + 5);
    const isWhole = this.tall === this.shownCount * ROW;
    const above = isWhole ? first * ROW : Math.max(0, Math.min(this.scroller.scrollTop - 2 * ROW, this.tall - (after - first) * ROW));
    // rows that stay as they are are not made anew: a click begins and ends on the same one
    const drawn = [first, after, above, this.active, this.chosen, this.arranged].join();
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const hadFocus = this.body.contains(document.activeElement);
    const rows = [];
    for (let place = first; place < after; place += 1) rows.push(this.drawRow(place));
    if (!this.shownCount) rows.push(make("tr", {}, make("td", { colSpan: this.fields.length, className: "empty" }, "no rows")));
    this.body.replaceChildren(this.space(above), ...rows, this.space(Math.max(0, this.tall - above - (after - first) * ROW)));
    if (hadFocus) this.body.querySelector("tr[tabindex='0']")?.focus({ preventScroll: true });
  }

  space(height) {
    const row = make("tr", { className: "space", "aria-hidden": "true" }, make("td", { colSpan: this.fields.length }));
    row.style.height = `${height}px`;
    return row;
  }

  drawRow(place) {
    const i = this.rowAt(place);
    const cells = this.fields.map((field) => this.drawCell(field, i));
    const isActive = place === this.active;
    const row = make("tr", { "aria-rowindex": String(place + 2), tabIndex: isActive ? 0 : -1, className: place % 2 ? "odd" : "" }, cells);
    if (this.onSelect) row.setAttribute("aria-selected", String(this.chosen === i));
    row.dataset.place = place;
    return row;
  }

  drawCell(field, i) {
    const value = field.value(i);
    const shown = field.shown(i);
    const cell = make("td", { className: `${RIGHT.has(field.kind) ? "right" : ""} ${isCode(field) ? "mono" : ""}`.trim() });
    if (shown.length > 14) cell.title = shown.slice(0, 2000);
    if (field.kind === "size" && typeof value === "number" && value >= 1024) cell.title = `${grouped(value)} bytes`;
    if (field.kind === "address" && typeof value === "bigint") {
      cell.append(this.links ? make("a", { href: this.links(value), tabIndex: -1 }, field.padded(value)) : field.padded(value));
    } else if (field.kind === "severity") {
      cell.append(make("span", { className: `severity ${value}`, "aria-hidden": "true" }), shown);
    } else if (field.key === "change" && CHANGES[value]) {
      cell.append(make("span", { className: `change ${value}` }, `${CHANGES[value].sign} ${shown}`));
    } else cell.append(shown.slice(0, 2000));
    return cell;
  }

  // -- what the user does

  click(event) {
    const row = event.target.closest("tr[data-place]");
    if (!row || event.target.closest("a")) return;
    this.active = Number(row.dataset.place);
    this.choose();
  }

  choose() {
    if (!this.onSelect || !this.shownCount) return this.draw();
    this.chosen = this.rowAt(this.active);
    this.draw();
    return this.onSelect(this.chosen);
  }

  key(event) {
    const steps = {
      ArrowDown: 1, ArrowUp: -1, PageDown: this.visibleCount - 1, PageUp: 1 - this.visibleCount, Home: -Infinity, End: Infinity,
    };
    if (event.key === "Enter" && !event.target.closest("a")) this.choose();
    else if (Object.hasOwn(steps, event.key)) this.moveTo(this.active + steps[event.key]);
    else return;
    event.preventDefault();
  }

  moveTo(place) {
    this.active = clamped(place, 0, this.shownCount - 1);
    const { firstShown: first, visibleCount: visible } = this;
    if (this.active < first) this.scrollTo(this.active);
    else if (this.active >= first + visible - 1) this.scrollTo(this.active - visible + 2);
    this.drawNow();
    this.body.querySelector("tr[tabindex='0']")?.focus({ preventScroll: true });
  }

  scrollTo(first) {
    const last = Math.max(1, this.shownCount - this.visibleCount);
    this.scroller.scrollTop = (first / last) * (this.tall - this.visibleCount * ROW);
  }

  csv(limit = Infinity) {
    const lines = [this.fields.map((field) => csvCell(field.key, true)).join(",")];
    for (let place = 0; place < Math.min(this.shownCount, limit); place += 1) {
      const i = this.rowAt(place);
      lines.push(this.fields.map((field) => csvCell(field.text(i), typeof field.value(i) !== "number")).join(","));
    }
    return `${lines.join("\r\n")}\r\n`;
  }

  /** The first rows as a plain table, for paper. */
  printed(limit) {
    const { shownCount } = this;
    const above = new Map();
    const rows = Array.from({ length: Math.min(shownCount, limit) }, (_, place) => {
      const i = this.rowAt(place);
      return make("tr", {}, this.fields.map((field) => {
        const text = field.shown(i).slice(0, 300);
        const isSame = field.kind === "long" && text.length > 40 && above.get(field) === text;
        above.set(field, text);
        return make("td", { className: printedClass(field) }, isSame ? "as above" : text);
      }));
    });
    const rest = shownCount - rows.length;
    return make("section", {},
      make("h3", {}, `${this.title} (${grouped(shownCount)})`),
      make("table", {}, make("thead", {}, make("tr", {}, this.fields.map((field) => make("th", {}, field.title)))), make("tbody", {}, rows)),
      rest > 0 ? make("p", {}, `${counted(rest, "more row")} in the report itself.`) : null);
  }
}

async function copyText(text, button) {
  let isDone = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text, className: "unseen" });
    document.body.append(area);
    area.select();
    isDone = document.execCommand("copy"); // where the clipboard is not given to files
    area.remove();
  }
  const label = button.textContent;
  button.textContent = isDone ? "Copied" : "Not allowed";
  say(isDone ? "Copied." : "The browser does not let this page copy.");
  setTimeout(() => {
    button.textContent = label;
  }, 1200);
}

function saveText(text, name) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Tell those who cannot see the picture. */
function say(text) {
  byId("said").textContent = text;
}

/** On paper: what may be broken anywhere, and what must not be broken at all. */
function printedClass({ kind }) {
  if (kind === "address") return "mono";
  return RIGHT.has(kind) ? "right" : kind === "long" || kind === "hash" ? "long" : "";
}

function isCode(field) {
  return field.kind === "address" || field.kind === "hash" || field.key === "protection" || field.key === "permissions";
}

/** The columns of a part of the document: those that are known first, in order, then whatever else there is. */
function fieldsOf(rows, known, hidden = []) {
  const fields = known.filter(([key]) => rows.columns[key] || key === "end").map(([key, title, kind]) => {
    if (key === "start") return new Field(key, title, kind, (i) => rows.start[i]);
    if (key === "end") return new Field(key, title, kind, (i) => rows.end(i));
    if (key === "size" && rows.size) return new Field(key, title, kind, (i) => rows.size[i]);
    if (kind === "address") return new Field(key, title, kind, (i) => (isUnknown(rows.get(key, i)) ? null : addressOf(rows.get(key, i))));
    return new Field(key, title, kind, (i) => rows.get(key, i), rows.columns[key]);
  });
  const named = new Set([...known.map(([key]) => key), ...hidden]);
  for (const [key, column] of Object.entries(rows.columns)) {
    if (!named.has(key)) fields.push(new Field(key, visible(key.replaceAll("_", " ")), kindOf(column), (i) => valueOf(rows.get(key, i)), column));
  }
  return fields;
}

function kindOf(column) {
  const first = (column.values ?? column.codes).find((value) => !isUnknown(value));
  if (typeof first === "string" && /^0x[0-9a-f]+$/i.test(first)) return "address";
  return typeof first === "number" ? "count" : "text";
}

function valueOf(value) {
  return typeof value === "string" && /^0x[0-9a-f]{1,17}$/i.test(value) ? addressOf(value) : value;
}

/** All tables of a process, those with rows. */
function tablesOf(process, { report, onSelect, onFlag, onProcess, links, processes }) {
  const { segments, regions, modules, threads, missing, flags } = process;
  const go = (ranges) => (i) => onSelect(ranges.start[i]);
  const list = [
    {
      name: "flags", title: "Flags", count: flags.length,
      fields: [
        new Field("severity", "severity", "severity", (i) => severityOf(flags[i])),
        new Field("flag", "flag", "text", (i) => flags[i].flag),
        new Field("address", "address", "address", (i) => (isUnknown(flags[i].address) ? null : addressOf(flags[i].address))),
        new Field("size", "size", "size", (i) => (isUnknown(flags[i].size) ? null : sizeOf(flags[i].size))),
        new Field("why", "found", "long", (i) => flags[i].why),
        new Field("reason", "severity because", "long", (i) => flags[i].reason),
        new Field("benign", "harmless if", "long", (i) => causesOf(flags[i])),
        new Field("evidence", "evidence", "long", (i) => evidenceOf(flags[i])),
      ],
      onSelect: (i) => {
        const address = isUnknown(flags[i].address) ? null : addressOf(flags[i].address);
        if (address === null) onFlag(flags[i]);
        else onSelect(address);
      },
    },
    {
      name: "segments", title: "Segments", count: segments.count, rows: segments, onSelect: go(segments),
      fields: fieldsOf(segments, [
        ["start", "start", "address"], ["end", "end", "address"], ["size", "size", "size"], ["change", "change", "word"],
        ["permissions", "permissions", "word"], ["protection", "protection", "word"], ["kind", "kind", "word"],
        ["file", "file", "long"], ["content", "content", "word"], ["entropy", "entropy", "number"], ["flagged", "flags", "long"],
        ["sha256", "SHA-256", "hash"],
      ], ["flags"]),
    },
    {
      name: "regions", title: "Regions", count: regions.count, rows: regions, onSelect: go(regions),
      fields: fieldsOf(regions, [
        ["start", "start", "address"], ["end", "end", "address"], ["size", "size", "size"], ["resident", "resident", "size"],
        ["protection", "protection", "words"], ["kind", "kind", "word"], ["file", "file", "long"],
      ]),
    },
    {
      name: "modules", title: "Modules", count: modules.count, rows: modules, onSelect: go(modules),
      fields: fieldsOf(modules, [
        ["start", "start", "address"], ["end", "end", "address"], ["size", "size", "size"], ["name", "name", "text"],
        ["path", "path", "long"],
      ]),
    },
    { name: "threads", title: "Threads", count: threads.count, rows: threads, fields: fieldsOf(threads, [["tid", "thread", "id"]]) },
    {
      name: "missing", title: "Missing", count: missing.count, rows: missing, onSelect: go(missing),
      fields: fieldsOf(missing, [["start", "start", "address"], ["end", "end", "address"], ["size", "size", "size"], ["reason", "reason", "long"]]),
    },
  ];
  if (processes.length > 1) {
    const value = (key) => (i) => processes[i].raw[key];
    list.push({
      name: "processes", title: "Processes", count: processes.length, onSelect: onProcess,
      fields: [
        new Field("pid", "process", "id", value("pid")), new Field("ppid", "parent", "id", value("ppid")),
        new Field("name", "name", "text", (i) => processes[i].name),
        new Field("segments", "segments", "count", (i) => processes[i].segmentCount),
        new Field("flags", "flags", "count", (i) => processes[i].flagCount),
        new Field("started", "started", "time", value("started")), new Field("exited", "exited", "time", value("exited")),
        new Field("path", "path", "long", value("path")), new Field("command_line", "command line", "long", value("command_line")),
        new Field("error", "error", "long", value("error")),
      ],
    });
  }
  const { looked_at, notes, flags_looked_for, flags_not_looked_for, flags_counted, missing_not_listed, totals } = process.raw;
  const facts = flattened({
    title: report.title, created: report.created, tool: report.tool, bytes: report.bytes, ...recordOf(report.provenance),
    compared_with: report.compared_with,
    process: { looked_at, totals, notes, flags_looked_for, flags_not_looked_for, flags_counted, missing_not_listed },
  });
  list.push({
    name: "provenance", title: "Provenance", count: facts.length,
    fields: [new Field("fact", "fact", "long", (i) => facts[i][0]), new Field("value", "value", "long", (i) => facts[i][1])],
  });
  return list.filter(({ name, count }) => count || name === "provenance").map((given) => {
    const each = { ...given, fields: given.fields.filter((field) => field.isKnown(given.count)) };
    for (const field of each.fields.filter(({ kind }) => kind === "address")) {
      field.padded = (address) => hex(address, process.digits);
      field.width = 38 + process.digits * 7.3;
    }
    return new Table({ ...each, links });
  });
}

/** Members of members by their path, at most some thousands: [["inputs dump path", "mem.raw"], ...]. */
function flattened(value, path = "", found = [], depth = 0) {
  if (found.length > 5000) return found;
  if (depth < 8 && typeof value === "object" && value !== null) {
    const entries = Object.entries(value);
    const isShort = Array.isArray(value) && value.every((each) => typeof each !== "object" || each === null);
    if (isShort) found.push([path, value.map(plain).join(" ")]);
    else for (const [key, each] of entries) flattened(each, `${path} ${visible(key.replaceAll("_", " "))}`.trim(), found, depth + 1);
  } else if (!isUnknown(value)) found.push([path, value]);
  return found;
}

/** The bytes that a flag was raised for, in words. */
function evidenceOf({ evidence }) {
  if (!isRecord(evidence)) return evidence;
  const runs = evidence.runs === true ? ", code that runs" : "";
  return isUnknown(evidence.bytes) ? evidence : `${plain(evidence.address)}: ${plain(evidence.bytes)}${runs}`;
}
