// The document's columns as the page uses them: addresses are BigInts, nothing of them is lost beyond 2^53.

const PROTECTIONS = {
  r: { letters: "r--", name: "read only" },
  rw: { letters: "rw-", name: "read, write" },
  rx: { letters: "r-x", name: "executable" },
  rwx: { letters: "rwx", name: "writable and executable" },
  rcx: { letters: "rcx", name: "executable, copied when written" },
  mixed: { letters: "mix", name: "several protections" },
  none: { letters: "---", name: "no access" },
  unknown: { letters: "?", name: "not known" },
};
const CLASSES = Object.keys(PROTECTIONS);
const KINDS = {
  __proto__: null, // words of the document are no names of methods
  private: "P", mapped: "M", image: "I", stack: "S", heap: "H", TEB: "T", PEB: "B", "page tables": "G",
};
const SEVERITIES = ["high", "medium", "low", "info"];
const CHANGES = {
  __proto__: null,
  added: { sign: "+", name: "added" },
  removed: { sign: "−", name: "removed" },
  changed: { sign: "≠", name: "changed" },
};

/** A column: a list, or a list of values and a code for each row. */
class Column {
  constructor(given) {
    this.values = isRecord(given) ? listOf(given.values) : null;
    this.codes = isRecord(given) ? listOf(given.codes) : listOf(given);
    this.length = this.codes.length;
  }

  at(row) {
    const found = this.codes[row];
    return (this.values ? this.values[found] : found) ?? null;
  }
}

/** Rows in columns. */
class Rows {
  constructor(columns) {
    this.columns = {};
    for (const [name, given] of Object.entries(recordOf(columns))) this.columns[name] = new Column(given);
    this.count = Math.max(0, ...Object.values(this.columns).map((column) => column.length));
    this.order = null;
  }

  /** The row of the document that row `i` is. */
  row(i) {
    return this.order ? this.order[i] : i;
  }

  get(name, i) {
    return this.columns[name]?.at(this.row(i)) ?? null;
  }
}

/** Rows with a start and a size, sorted by start. */
class Ranges extends Rows {
  constructor(columns) {
    super(columns);
    const { start, size } = this.columns;
    this.count = start?.length ?? 0;
    let starts = new BigUint64Array(this.count);
    let sizes = new Float64Array(this.count);
    let isSorted = true;
    for (let i = 0; i < this.count; i += 1) {
      starts[i] = addressOf(start.at(i)) ?? 0n;
      sizes[i] = sizeOf(size?.at(i));
      if (i && isSorted && starts[i] < starts[i - 1]) isSorted = false;
    }
    if (!isSorted) {
      this.order = Uint32Array.from(starts.keys()).sort((a, b) => (starts[a] < starts[b] ? -1 : Number(starts[a] > starts[b])));
      starts = BigUint64Array.from(this.order, (row) => starts[row]);
      sizes = Float64Array.from(this.order, (row) => sizes[row]);
    }
    this.start = starts;
    this.size = sizes;
  }

  /** The first address after row `i`. */
  end(i) {
    const end = this.start[i] + BigInt(this.size[i]);
    return end < TOP ? end : TOP;
  }

  /** The row that holds an address, the one that starts last if several do; -1 if none does. */
  find(address) {
    const after = firstOf(this.count, (i) => this.start[i] > address);
    // what overlaps is rare: a few rows before are enough, and bound the search
    for (let i = after - 1; i >= 0 && i >= after - 64; i -= 1) if (address < this.end(i)) return i;
    return -1;
  }
}

// what Windows calls protections, as the letters that others use
const NAMED = {
  __proto__: null,
  PAGE_NOACCESS: "---", PAGE_READONLY: "r--", PAGE_READWRITE: "rw-", PAGE_WRITECOPY: "rc-", PAGE_EXECUTE: "--x",
  PAGE_EXECUTE_READ: "r-x", PAGE_EXECUTE_READWRITE: "rwx", PAGE_EXECUTE_WRITECOPY: "rcx",
};

/** The protections in a text, as letters: "ur-x, urw-" is of pages (u: programs may), "rwc" is copied when written. */
function protectionsOf(text) {
  const words = plain(text).split(/[\s,;|]+/).map((word) => NAMED[word] ?? word);
  return words.filter((word) => /^[-ukrwxcspg]{2,6}$/.test(word));
}

/** Which colour a protection gets; `text` is like "rw-" or, of a segment with several, "r--, r-x". */
function classOf(text) {
  if (!classOf.known.has(text)) {
    if (classOf.known.size > 10000) classOf.known.clear();
    classOf.known.set(text, classOfWords(text));
  }
  return classOf.known.get(text);
}

classOf.known = new Map();

function classOfWords(text) {
  const found = new Set(protectionsOf(text).map((word) => {
    if (word.includes("x")) return word.includes("w") ? "rwx" : word.includes("c") ? "rcx" : "rx";
    return /[wc]/.test(word) ? "rw" : word.includes("r") ? "r" : "none";
  }));
  if (found.size > 1) return "mixed";
  return found.size ? [...found][0] : "unknown";
}

/** Which of r, w, x and c any part of a protection allows: bits 1, 2, 4 and 8. */
function lettersOf(text) {
  const all = protectionsOf(text).join("");
  return Number(all.includes("r")) | (all.includes("w") ? 2 : 0) | (all.includes("x") ? 4 : 0) | (all.includes("c") ? 8 : 0);
}

const firstWord = (text) => plain(text).split(",")[0].trim();
const baseName = (path) => plain(path).split(/[\\/]/).pop();

/** What a process's member of the document says, ready to draw. Nothing is read before it is looked at. */
class Process {
  constructor(raw, number) {
    this.raw = recordOf(raw);
    this.number = number;
    this.pid = this.raw.pid ?? null;
    this.name = isUnknown(this.raw.name) ? "" : plain(this.raw.name);
    this.label = brief(this.name, 200);
    this.flags = listOf(this.raw.flags).filter(isRecord);
  }

  get title() {
    const pid = this.pid === null ? "" : `process ${brief(plain(this.pid))}`;
    return this.label && pid ? `${this.label} · ${pid}` : this.label || pid || "Process";
  }

  get segmentCount() {
    const given = recordOf(this.raw.segments).start;
    return Array.isArray(given) ? Math.max(0, given.length - sizeOf(recordOf(this.raw.totals).removed_segments)) : 0;
  }

  /** Whether segment `i` is there no more: it is told with what changed, and counted apart. */
  isRemoved(i) {
    return this.hasChanges && this.segments.get("change", i) === "removed";
  }

  /** How many segments there are, how many bytes, and how many segments are there no more. */
  get sums() {
    const found = { count: 0, size: 0, removed: 0 };
    for (let i = 0; i < this.segments.count; i += 1) {
      if (this.isRemoved(i)) found.removed += 1;
      else {
        found.count += 1;
        found.size += this.segments.size[i];
      }
    }
    return found;
  }

  /** What was found so often that the rest was only counted. */
  get counted() {
    return listOf(this.raw.flags_counted).filter(isRecord);
  }

  get flagCount() {
    return this.flags.length + this.counted.reduce((sum, { number }) => sum + sizeOf(number), 0);
  }

  /** How many flags there are of each severity, the most urgent first. */
  get severities() {
    const found = new Map(SEVERITIES.map((severity) => [severity, 0]));
    for (const flag of this.flags) found.set(severityOf(flag), found.get(severityOf(flag)) + 1);
    for (const more of this.counted) found.set(severityOf(more), found.get(severityOf(more)) + sizeOf(more.number));
    return [...found].filter(([, count]) => count);
  }

  read() {
    if (this.segments) return this;
    this.segments = new Ranges(this.raw.segments);
    this.regions = new Ranges(this.raw.regions);
    this.modules = new Ranges(this.raw.modules);
    this.missing = new Ranges(this.raw.missing);
    this.threads = new Rows(this.raw.threads);
    this.hasChanges = Boolean(this.segments.columns.change);
    this.marks = [];
    this.flags.forEach((flag, i) => {
      const address = isUnknown(flag.address) ? null : addressOf(flag.address);
      if (address !== null) this.marks.push({ flag, i, address, severity: severityOf(flag) });
    });
    this.marks.sort((a, b) => (a.address < b.address ? -1 : Number(a.address > b.address)));
    let highest = 0n;
    for (const ranges of [this.segments, this.regions, this.modules]) {
      if (ranges.count && ranges.start[ranges.count - 1] > highest) highest = ranges.start[ranges.count - 1];
    }
    this.digits = highest >> 48n ? 16 : highest >> 32n ? 12 : 8;
    return this;
  }

  /** Where its addresses are drawn; made when it is drawn first. */
  get scale() {
    this.made ??= new Scale(this.read());
    return this.made;
  }

  protectionOf(i) {
    const permissions = this.segments.get("permissions", i);
    return isUnknown(permissions) ? this.segments.get("protection", i) : permissions;
  }

  /** What is said of segment `i` of the document's members that are keyed by its row. */
  ofSegment(member, i) {
    return recordOf(this.raw[member])[String(this.segments.row(i))] ?? null;
  }

  /** The flags of segment `i`. */
  flagsOf(i) {
    return listOf(this.segments.get("flags", i)).map((index) => this.flags[index]).filter(Boolean);
  }

  /** Everything that is at an address. */
  at(address) {
    const found = {
      segment: this.segments.find(address),
      region: this.regions.find(address),
      module: this.modules.find(address),
      missing: this.missing.find(address),
    };
    const flags = new Set(found.segment < 0 ? [] : this.flagsOf(found.segment));
    for (const mark of this.marks) {
      if (mark.address > address) break;
      if (mark.address === address || address < mark.address + BigInt(sizeOf(mark.flag.size))) flags.add(mark.flag);
    }
    return { ...found, flags: [...flags] };
  }

  /** The address as debuggers name it, or null: ntdll.dll+0x1234. */
  nameOf(address) {
    const i = this.modules.find(address);
    if (i < 0) return null;
    const name = plain(this.modules.get("name", i)) || baseName(this.modules.get("path", i));
    return name ? `${name}+${hex(address - this.modules.start[i])}` : null;
  }
}

/** What makes a flag harmless, in one text. */
function causesOf({ benign }) {
  return Array.isArray(benign) ? benign.map(plain).join("; ") : benign;
}

function severityOf(flag) {
  return SEVERITIES.includes(flag.severity) ? flag.severity : "info";
}
