// The page: what is shown of which process, and where one is (the address after # in the link).

const PRINTED_ROWS = 150;
const MOST_ITEMS = 5000;

class Page {
  constructor(report) {
    this.report = recordOf(report);
    this.processes = listOf(this.report.processes).filter(isRecord).map((raw, number) => new Process(raw, number));
    if (!this.processes.length) this.processes = [new Process({}, 0)];
    this.paint = new Paint();
    this.links = (address) => this.link(this.current, address);
    this.details = new Details({ host: byId("details"), paint: this.paint, links: this.links });
    this.picture = new Picture({
      host: byId("picture"), overview: byId("overview"), shown: byId("shown"), paint: this.paint, tip: byId("tip"),
      onSelect: (address, options) => this.select(address, options),
      describe: (address) => this.describe(address),
    });
    this.search = new Search({
      input: byId("search"), list: byId("hits"), find: (text) => hitsOf(text, this.processes, this.current),
      onHit: ({ process, address }) => {
        this.go(process, address);
        byId("picture").focus({ preventScroll: true });
      },
    });
    this.head();
    if (this.processes.length > 1) this.tree();
    byId("skip").addEventListener("click", () => byId("tables").focus());
    byId("theme").addEventListener("click", () => this.setTheme(this.theme === "dark" ? "light" : "dark"));
    byId("in").addEventListener("click", () => this.picture.zoom(0.5));
    byId("out").addEventListener("click", () => this.picture.zoom(2));
    byId("all").addEventListener("click", () => this.picture.reset());
    window.addEventListener("hashchange", () => this.follow());
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[href^='#']");
      if (link?.getAttribute("href") === location.hash) this.follow(); // back to where one is: nothing else tells
    });
    const paper = window.matchMedia("print");
    paper.addEventListener("change", () => this.print(paper.matches));
    window.addEventListener("beforeprint", () => this.print(true));
    window.addEventListener("afterprint", () => this.print(false));
    if (!this.follow()) this.show(this.worst());
  }

  /** The process to begin with: the first of those with the most urgent flag, else the first with memory. */
  worst() {
    const urgency = (process) => SEVERITIES.indexOf(process.severities[0]?.[0] ?? "") + 1 || SEVERITIES.length + 1;
    const withMemory = this.processes.filter(({ segmentCount }) => segmentCount);
    return withMemory.reduce((best, each) => (urgency(each) < urgency(best) ? each : best), withMemory[0]) ?? this.processes[0];
  }

  // -- what stands above

  head() {
    const { report } = this;
    document.title = brief(plain(report.title)) || "memcarve report";
    byId("title").textContent = document.title;
    const tool = recordOf(report.tool);
    const inputs = inputsOf(recordOf(report.provenance));
    const embedded = sizeOf(recordOf(report.bytes).embedded);
    const limit = recordOf(report.bytes).limit;
    byId("subtitle").replaceChildren(...separated([
      ...inputs.slice(0, 3).map(({ path, size, sha256 }) => make("span", { title: plain(sha256) ? `SHA-256 ${plain(sha256)}` : "" },
        brief(plain(path)), size ? ` (${bytes(size)})` : "", plain(sha256) ? `, SHA-256 ${plain(sha256).slice(0, 12)}…` : "")),
      inputs.length > 3 ? counted(inputs.length - 3, "more input") : null,
      [plain(tool.name), plain(tool.version)].filter(Boolean).join(" "),
      plain(report.created),
      isUnknown(recordOf(report.compared_with).title) ? null : `compared with ${plain(report.compared_with.title)}`,
      embedded ? `holds ${bytes(embedded)} of memory${isUnknown(limit) ? "" : `, at most ${bytes(sizeOf(limit))}`}` : "holds no bytes of memory",
    ]));
  }

  heading(process) {
    const { raw } = process;
    byId("process-name").textContent = process.title;
    const totals = recordOf(raw.totals);
    const { count, size, removed } = process.sums;
    const lacking = "missing_bytes" in totals ? 0 : process.missing.size.reduce((sum, each) => sum + each, 0);
    byId("process-facts").replaceChildren(...separated([
      `${counted(count, "segment")}, ${bytes(size)}`,
      removed ? `${grouped(removed)} removed` : null,
      lacking ? `${bytes(lacking)} not there` : null,
      ...process.severities.map(([severity, count]) => make("span", { className: "of-severity" },
        make("span", { className: `severity ${severity}`, "aria-hidden": "true" }), `${counted(count, "flag")} ${severity}`)),
      [plain(raw.system), plain(raw.architecture), raw.bits ? `${plain(raw.bits)} bits` : ""].filter(Boolean).join(" "),
      isUnknown(raw.ppid) ? null : `parent ${plain(raw.ppid)}`,
      isUnknown(raw.started) ? null : `started ${plain(raw.started)}`,
      isUnknown(raw.exited) ? null : `ended ${plain(raw.exited)}`,
      ...Object.entries(totals).filter(([key, value]) => !/segments|^bytes$|flags/.test(key) && value > 0)
        .map(([key, value]) => {
          const what = visible(key.replace(/_?bytes$/, "").replaceAll("_", " "));
          return typeof value === "number" ? `${/bytes|size/.test(key) ? bytes(value) : grouped(value)} ${value === 1 ? what.replace(/s$/, "") : what}` : null;
        }),
      plain(raw.command_line) || plain(raw.path) || null,
    ]));
    byId("process-notes").replaceChildren(...notesOf(raw).slice(0, 50).map((note) => make("li", {}, note)));
    const error = byId("process-error");
    error.hidden = isUnknown(raw.error);
    error.textContent = error.hidden ? "" : `Not read whole: ${brief(plain(raw.error), 1000)}`;
  }

  /** Processes below those that started them, by pid; what forms a circle stands at the top. */
  tree() {
    const byPid = new Map();
    for (const process of this.processes) if (process.pid !== null && !byPid.has(process.pid)) byPid.set(process.pid, process);
    const children = new Map();
    const roots = [];
    for (const process of this.processes) {
      const parent = byPid.get(process.raw.ppid);
      if (!parent || parent === process) roots.push(process);
      else if (children.has(parent)) children.get(parent).push(process);
      else children.set(parent, [process]);
    }
    const list = make("ul", { role: "tree", "aria-label": "Processes" });
    const seen = new Set();
    const add = (process, depth) => {
      const waiting = [[process, depth]];
      while (waiting.length) {
        const [next, level] = waiting.pop();
        if (seen.has(next) || seen.size >= MOST_ITEMS) continue;
        seen.add(next);
        list.append(this.item(next, level));
        for (const child of [...(children.get(next) ?? [])].reverse()) waiting.push([child, level + 1]);
      }
    };
    for (const root of roots) add(root, 0);
    for (const process of this.processes) add(process, 0);
    list.addEventListener("keydown", (event) => this.treeKey(event));
    this.items = [...list.children];
    const nav = byId("processes");
    nav.append(make("h2", {}, counted(this.processes.length, "process", "processes")), list);
    nav.hidden = false;
    document.body.classList.add("several");
  }

  item(process, depth) {
    const severity = process.severities[0]?.[0];
    const item = make("li", { role: "treeitem", "aria-level": String(depth + 1), "aria-selected": "false", tabIndex: -1 },
      make("span", { className: "item-name" }, process.label || "no name"), make("span", { className: "item-pid" }, brief(plain(process.pid))),
      severity ? make("span", { className: `severity ${severity}`, role: "img", "aria-label": `${counted(process.flagCount, "flag")}, ${severity}` }) : null,
      isUnknown(process.raw.error) ? null : make("span", { className: "item-error", role: "img", "aria-label": "not read whole" }, "!"));
    item.style.paddingLeft = `${8 + Math.min(depth, 8) * 12}px`;
    item.title = process.title;
    item.addEventListener("click", () => this.go(process, null));
    process.item = item;
    item.process = process;
    return item;
  }

  treeKey(event) {
    const at = this.items.indexOf(event.target);
    const level = (n) => Number(this.items[n]?.getAttribute("aria-level") ?? 0);
    const moves = {
      ArrowDown: () => at + 1,
      ArrowUp: () => at - 1,
      Home: () => 0,
      End: () => this.items.length - 1,
      ArrowRight: () => (level(at + 1) > level(at) ? at + 1 : at),
      ArrowLeft: () => this.items.findLastIndex((_, n) => n < at && level(n) < level(at)),
    };
    if (event.key === "Enter" || event.key === " ") this.go(event.target.process, null);
    else if (moves[event.key]) this.items[moves[event.key]()]?.focus();
    else return;
    event.preventDefault();
  }

  // -- where one is

  link(process, address) {
    return `#${this.processes.length > 1 ? `${encodeURIComponent(plain(process.pid ?? `n${process.number}`))}${address === null ? "" : "/"}` : ""}${address === null ? "" : hex(address)}`;
  }

  /** Go where the link leads; false if it leads nowhere. */
  follow() {
    const text = decoded(location.hash.slice(1));
    const parts = /^(?:([^/]*)\/)?(0x[0-9a-f`_]+)$/i.exec(text);
    const pid = parts ? parts[1] : text;
    let process = this.processes.find((each) => pid && (String(each.pid) === pid || `n${each.number}` === pid));
    if (!parts) {
      if (process) this.show(process);
      return Boolean(process);
    }
    const address = addressOf(parts[2]);
    if (address === null || address >= TOP) return false;
    process ??= searchedOf(this.current, this.processes).find((each) => holdsAddress(each, address)) ?? this.current ?? this.processes[0];
    this.show(process);
    this.select(address, { follow: true, isLinked: true });
    return true;
  }

  go(process, address) {
    this.show(process);
    if (address !== null) this.select(address, { follow: true });
    else this.remember(null);
  }

  remember(address) {
    const link = this.link(this.current, address);
    try {
      history.replaceState(null, "", link || location.pathname);
    } catch {
      // a browser that does not let files do this: the link beside the address does it
    }
  }

  show(process) {
    if (process === this.current) return;
    this.current = process.read();
    for (const item of this.items ?? []) {
      item.setAttribute("aria-selected", String(item === process.item));
      item.tabIndex = item === process.item ? 0 : -1;
    }
    process.item?.scrollIntoView({ block: "nearest" });
    this.heading(process);
    this.legend(process);
    const name = `Address space of ${process.title}: ${counted(process.sums.count, "segment")}`;
    byId("picture").setAttribute("aria-label", name);
    this.picture.show(process);
    this.details.summary(process);
    this.tables(process);
  }

  select(address, { follow = false, isLinked = false } = {}) {
    this.picture.select(address, { follow });
    this.details.show(this.current, address);
    if (!isLinked) this.remember(address);
    say(this.describe(address).join(", "));
  }

  describe(address) {
    const process = this.current;
    const { segment, region, module, missing, flags } = process.at(address);
    const lines = [];
    if (segment >= 0) {
      const { segments } = process;
      lines.push(`${hex(segments.start[segment], process.digits)}-${hex(segments.end(segment), process.digits)}`, bytes(segments.size[segment]));
      const about = [plain(process.protectionOf(segment)), plain(segments.get("kind", segment))].filter(Boolean).join(", ");
      if (about) lines.push(about);
      if (!isUnknown(segments.get("file", segment))) lines.push(plain(segments.get("file", segment)));
      if (!isUnknown(segments.get("change", segment))) lines.push(plain(segments.get("change", segment)));
    } else {
      const { scale } = process;
      const k = scale.count ? scale.pieceOf(address) : -1;
      const what = missing >= 0 ? `not there: ${plain(process.missing.get("reason", missing))}` : region >= 0 ? "no bytes" : "gap";
      lines.push(hex(address, process.digits), k >= 0 ? `${what}, ${bytes(scale.sizes[k])}${scale.isFolded(k) ? ", folded" : ""}` : what);
      if (region >= 0) lines.push(`region ${plain(process.regions.get("protection", region))} ${plain(process.regions.get("kind", region))}`.trim());
    }
    if (module >= 0) lines.push(process.nameOf(address) ?? "");
    for (const flag of flags.slice(0, 4)) lines.push(`flag: ${plain(flag.flag)} (${severityOf(flag)})`);
    return lines.filter(Boolean).map((line) => line.slice(0, 300));
  }

  // -- what stands below

  legend(process) {
    const { segments, regions } = process;
    const classes = new Set(eachValue(segments, (i) => process.protectionOf(i), (text) => CLASSES.indexOf(classOf(text))));
    eachValue(regions, (i) => regions.get("protection", i), (text) => classes.add(CLASSES.indexOf(classOf(text))));
    const kinds = new Set(eachValue(segments, (i) => segments.get("kind", i), (text) => 1 + Object.keys(KINDS).indexOf(firstWord(text))));
    const items = [];
    const swatch = (protection, kind, text) => {
      const canvas = make("canvas", { className: "swatch" });
      this.swatch(canvas, (context) => this.paint.block(context, { x: 0, y: 0, width: 22, height: 12, protection, kind }));
      items.push(make("li", {}, canvas, text));
    };
    CLASSES.forEach((name, n) => classes.has(n) && swatch(name, "private", `${PROTECTIONS[name].letters} ${PROTECTIONS[name].name}`));
    Object.entries(KINDS).forEach(([kind, letter], n) => kinds.has(n + 1) && swatch("unknown", kind, `${letter} ${kind}`));
    if (process.missing.count) items.push(make("li", {}, make("span", { className: "swatch missing" }), "not there"));
    for (const [severity] of process.severities) items.push(make("li", {}, make("span", { className: `severity ${severity}` }), `flag, ${severity}`));
    if (process.hasChanges) for (const [change, { sign, name }] of Object.entries(CHANGES)) items.push(make("li", {}, make("span", { className: `change ${change}` }, sign), name));
    items.push(make("li", {}, make("span", { className: "fold", "aria-hidden": "true" }, "//"), "folded: not to scale"));
    byId("legend").replaceChildren(...items);
  }

  swatch(canvas, draw) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = 22 * ratio;
    canvas.height = 12 * ratio;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw(context);
  }

  tables(process) {
    this.shownTables = tablesOf(process, {
      report: this.report, processes: this.processes, links: this.links,
      onSelect: (address) => this.select(address, { follow: true }),
      onFlag: (flag) => this.details.showFlag(flag),
      onProcess: (i) => this.go(this.processes[i], null),
    });
    const before = this.tab;
    this.tabs = this.shownTables.map((table) => {
      const tab = make("button", { type: "button", role: "tab", id: `tab-${table.name}`, "aria-controls": "tabpanel" },
        `${table.title} `, make("span", { className: "number" }, grouped(table.count)));
      tab.addEventListener("click", () => this.open(table));
      return tab;
    });
    const bar = byId("tabs");
    bar.replaceChildren(...this.tabs);
    bar.onkeydown = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (!step) return;
      event.preventDefault();
      const at = clamped(this.tabs.indexOf(document.activeElement) + step, 0, this.tabs.length - 1);
      this.open(this.shownTables[at]);
      this.tabs[at].focus();
    };
    this.open(this.shownTables.find(({ name }) => name === before) ?? this.shownTables[0]);
  }

  open(table) {
    this.tab = table.name;
    this.tabs.forEach((tab, n) => {
      const isOpen = this.shownTables[n] === table;
      tab.setAttribute("aria-selected", String(isOpen));
      tab.tabIndex = isOpen ? 0 : -1;
    });
    const panel = byId("tabpanel");
    panel.setAttribute("aria-labelledby", `tab-${table.name}`);
    panel.replaceChildren(table.build());
    table.draw();
  }

  // -- themes and paper

  setTheme(theme) {
    this.theme = theme;
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = theme === "dark" ? "Switch to light" : "Switch to dark"; // what a click does
    this.repaint();
  }

  repaint() {
    this.paint.renew();
    if (!this.current) return;
    this.picture.whole = null;
    this.picture.drawNow();
    this.legend(this.current);
    this.details.redraw?.();
  }

  /** On paper: the light theme, the picture as it is, and each table's first rows as text. */
  print(isOnPaper) {
    if (isOnPaper === this.isOnPaper) return;
    this.isOnPaper = isOnPaper;
    document.documentElement.dataset.theme = isOnPaper ? "light" : this.theme;
    byId("printed").replaceChildren(...(isOnPaper ? this.shownTables.map((table) => table.printed(PRINTED_ROWS)) : []));
    this.repaint();
  }
}

/** Files with their sizes and hashes, wherever provenance has them. */
function inputsOf(provenance) {
  const found = [];
  const waiting = [provenance.inputs];
  while (waiting.length && found.length < 100) {
    const next = waiting.shift();
    if (isRecord(next) && !isUnknown(next.path)) found.push({ path: next.path, size: sizeOf(next.size), sha256: next.sha256 ?? recordOf(next.hashes).sha256 });
    else if (typeof next === "object" && next !== null) waiting.push(...Object.values(next));
  }
  return found;
}

/** What limits what is told of a process, as sentences. */
function notesOf(raw) {
  const unlisted = recordOf(raw.missing_not_listed);
  return [
    ...listOf(raw.doubts).map((doubt) => `Doubtful: ${plain(doubt)}`),
    raw.incomplete === true ? "Bytes of it are known to be missing." : "",
    ...listOf(raw.flags_counted).filter(isRecord).map(({ flag, severity, number }) => `${[plain(flag), plain(severity)].filter(Boolean).join(", ")}: ${grouped(sizeOf(number))} more, only counted`),
    unlisted.rows > 0 ? `${counted(unlisted.rows, "stretch", "stretches")} of missing memory not listed (${bytes(sizeOf(unlisted.bytes))})` : "",
    ...listOf(raw.notes).map(plain),
  ].filter(Boolean).map((note) => note.slice(0, 500));
}

function separated(parts) {
  return parts.filter((part) => !isUnknown(part))
    .map((part) => make("span", { className: "fact" }, typeof part === "string" ? brief(part, 1000) : part));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function begin() {
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
  document.documentElement.dataset.theme = wantsDark.matches ? "dark" : "light";
  byId("page").hidden = false;
  const report = JSON.parse(byId("document").textContent);
  byId("document").textContent = ""; // what was read need not be kept twice
  const page = new Page(report);
  page.setTheme(wantsDark.matches ? "dark" : "light");
  wantsDark.addEventListener("change", () => page.setTheme(wantsDark.matches ? "dark" : "light"));
  page.picture.drawNow();
  document.documentElement.dataset.interactive = String(Math.round(performance.now()));
}

try {
  begin();
} catch (error) {
  byId("page").hidden = false;
  byId("page").prepend(make("p", { className: "message" }, `This report cannot be shown: ${error.message}. `));
  throw error;
}
