// One box for addresses, names and flags; a hit is a place to go to.

const MOST_HITS = 60;
/** Segments of processes that were not opened yet, which a search reads: more would take seconds. */
const MOST_READ = 500000;

/** Hits of what was typed: { title, note, process, address }, address null if a process is meant. */
function hitsOf(text, processes, current) {
  const word = text.trim().toLowerCase();
  if (!word) return [];
  const found = [];
  const add = (title, note, process, address) => found.length < MOST_HITS && found.push({
    title: visible(title), note: process === current || address === null ? note : `${note}, ${process.title}`, process, address,
  });
  const offset = /^(.+?)\s*\+\s*((?:0x)?[0-9a-f]+)$/.exec(word);
  if (/^(0x[0-9a-f`_]+|[0-9a-f]+`[0-9a-f]+|[0-9a-f]{6,17})$/.test(word)) {
    const address = addressOf(word);
    if (address !== null && address < TOP) {
      const holder = searchedOf(current, processes).find((process) => holdsAddress(process, address)) ?? current;
      add(hex(address), placeNote(holder, address), holder, address);
    }
  }
  const order = searchedOf(current, processes);
  for (const process of processes) {
    if (processes.length > 1 && (process.name.toLowerCase().includes(word) || String(process.pid) === word)) {
      add(process.title, "process", process, null);
    }
  }
  for (const process of order) {
    if (found.length >= MOST_HITS) break;
    process.read();
    const { modules } = process;
    for (let i = 0; i < modules.count; i += 1) {
      const [name, path] = [plain(modules.get("name", i)), plain(modules.get("path", i))];
      if (offset && name.toLowerCase() === offset[1].trim()) {
        const address = modules.start[i] + (addressOf(offset[2]) ?? 0n);
        if (address < TOP) add(`${name}+${offset[2]}`, hex(address), process, address);
      } else if (name.toLowerCase().includes(word) || path.toLowerCase().includes(word)) {
        add(name || baseName(path), `module ${hex(modules.start[i])}`, process, modules.start[i]);
      }
    }
    for (const { flag, address, severity } of process.marks) {
      if (`${plain(flag.flag)} ${plain(flag.why)}`.toLowerCase().includes(word)) {
        add(plain(flag.flag), `flag, ${severity}, ${hex(address)}`, process, address);
      }
    }
    for (const [what, ranges, keys] of [
      ["segment", process.segments, ["file", "kind", "content", "flagged", "sha256"]], ["region", process.regions, ["file", "kind"]],
    ]) {
      for (const key of keys) searchColumn({ what, ranges, key, word, add, process, isFull: () => found.length >= MOST_HITS });
    }
  }
  return found;
}

/** The processes that are searched, the one that is shown first: all, but of very large ones those that were opened. */
function searchedOf(current, processes) {
  let left = MOST_READ;
  return [current, ...processes.filter((process) => process !== current)].filter((process) => {
    if (!process || process.segments) return Boolean(process);
    left -= process.segmentCount;
    return left >= 0;
  });
}

function searchColumn({ what, ranges, key, word, add, process, isFull }) {
  const column = ranges.columns[key];
  if (!column || isFull()) return;
  if (key === "sha256" && !/^[0-9a-f]{8,64}$/.test(word)) return;
  const codes = column.values?.map((value) => plain(value).toLowerCase().includes(word));
  if (codes && !codes.some(Boolean)) return;
  for (let i = 0; i < ranges.count && !isFull(); i += 1) {
    const isHit = codes ? codes[column.codes[ranges.row(i)]] : plain(ranges.get(key, i)).toLowerCase().includes(word);
    if (isHit) add(baseName(ranges.get(key, i)), `${what} ${hex(ranges.start[i])}`, process, ranges.start[i]);
  }
}

function holdsAddress(process, address) {
  const { segment, region, module } = process.read().at(address);
  return segment >= 0 || region >= 0 || module >= 0;
}

function placeNote(process, address) {
  const { segment, region, missing } = process.read().at(address);
  if (segment >= 0) return `in the segment ${hex(process.segments.start[segment])}`;
  if (missing >= 0) return "missing memory";
  return region >= 0 ? `in the region ${hex(process.regions.start[region])}` : "in a gap";
}

class Search {
  constructor({ input, list, find, onHit }) {
    Object.assign(this, { input, list, find, onHit, hits: [], active: -1 });
    input.addEventListener("input", () => {
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => this.update(), 80);
    });
    input.addEventListener("keydown", (event) => this.key(event));
    input.addEventListener("blur", () => this.close());
    list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the box keeps the focus
      const item = event.target.closest("[role=option]");
      if (item) this.take(Number(item.dataset.hit));
    });
  }

  update() {
    this.asked = this.input.value;
    this.hits = this.find(this.asked);
    this.active = this.hits.length ? 0 : -1;
    const isAsked = this.input.value.trim() !== "";
    this.list.replaceChildren(...this.hits.map(({ title, note }, n) => {
      const item = make("li", { role: "option", id: `hit-${n}` }, make("span", { className: "hit" }, title.slice(0, 200)), make("span", { className: "muted" }, note));
      item.dataset.hit = n;
      return item;
    }));
    if (isAsked && !this.hits.length) this.list.replaceChildren(make("li", { role: "option", "aria-disabled": "true", className: "muted" }, "nothing found"));
    this.list.hidden = !isAsked;
    this.input.setAttribute("aria-expanded", String(isAsked));
    if (isAsked) say(this.hits.length >= MOST_HITS ? `The first ${MOST_HITS} hits.` : counted(this.hits.length, "hit"));
    this.mark();
  }

  mark() {
    [...this.list.children].forEach((item, n) => item.setAttribute("aria-selected", String(n === this.active)));
    if (this.active >= 0) {
      this.input.setAttribute("aria-activedescendant", `hit-${this.active}`);
      this.list.children[this.active].scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  key(event) {
    if (event.key === "Escape") return this.close();
    if (event.key === "Enter") {
      if (this.list.hidden || this.asked !== this.input.value) this.update();
      return this.take(Math.max(0, this.active));
    }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return undefined;
    event.preventDefault();
    if (this.list.hidden) return this.update();
    if (this.hits.length) this.active = (this.active + (event.key === "ArrowDown" ? 1 : -1) + this.hits.length) % this.hits.length;
    return this.mark();
  }

  take(n) {
    const hit = this.hits[n];
    if (!hit) return;
    this.close();
    this.onHit(hit);
  }

  close() {
    clearTimeout(this.waiting);
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}
