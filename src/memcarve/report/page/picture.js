// The address space as a picture. Only what is in view is drawn; what is narrower than two pixels is summed by column.

const GUTTER = 62;
const NARROW_GUTTER = 14;
const LANES = { flags: 18, change: 16, segments: 56, read: 9, write: 9, execute: 9, regions: 20, modules: 20, axis: 40 };
const RAILS = { read: 1, write: 2, execute: 4 };
const LANE_TITLES = {
  flags: "flags", change: "change", segments: "segments", read: "r", write: "w", execute: "x",
  regions: "regions", modules: "modules", axis: "",
};
const LANE_GAP = 4;
const RAIL_GAP = 1;
const REMOVED = Object.keys(CHANGES).indexOf("removed") + 1; // as in Picture.changes
const NARROWEST = 2; // pixels; below, segments are summed
const CLOSEST = 64; // bytes: one cannot zoom in further
const OVERVIEW = 22;

class Picture {
  constructor({ host, overview, shown, paint, tip, onSelect, describe }) {
    Object.assign(this, { host, shown, paint, tip, onSelect, describe });
    this.canvas = host.querySelector("canvas");
    this.overviewHost = overview;
    this.overview = overview.querySelector("canvas");
    this.process = null;
    this.selected = null;
    this.fingers = new Map();
    this.scheduled = false;
    new ResizeObserver(() => this.resize()).observe(host);
    this.listen();
  }

  // -- what is shown

  show(process) {
    this.process = process;
    this.selected = null;
    const { scale, segments } = process;
    this.segments = scale.segments;
    this.regions = scale.regions;
    this.missing = scale.missing;
    this.modules = scale.place(process.modules);
    this.marks = Float64Array.from(process.marks, ({ address }) => scale.placeOf(address));
    this.classes = eachValue(segments, (i) => process.protectionOf(i), (text) => CLASSES.indexOf(classOf(text)));
    this.letters = eachValue(segments, (i) => process.protectionOf(i), lettersOf);
    this.changes = process.hasChanges
      ? Uint8Array.from({ length: segments.count }, (_, i) => Object.keys(CHANGES).indexOf(segments.get("change", i)) + 1)
      : null;
    this.differs = new Map(); // by segment: whether the regions in it have several protections
    this.lanes = [];
    const has = {
      flags: this.marks.length, change: process.hasChanges, regions: process.regions.count, modules: process.modules.count,
      read: this.letters.some(Boolean),
    };
    has.write = has.read;
    has.execute = has.read;
    let y = 2;
    for (const [name, height] of Object.entries(LANES)) {
      if (name in has && !has[name]) continue;
      this.lanes.push({ name, y, height });
      y += height + (name in RAILS && name !== "execute" ? RAIL_GAP : LANE_GAP);
    }
    this.height = y;
    this.host.style.height = `${y}px`;
    this.whole = null;
    this.reset();
    this.resize();
  }

  lane(name) {
    return this.lanes.find((lane) => lane.name === name);
  }

  reset() {
    this.from = 0;
    this.span = Math.max(1, this.process.scale.total);
    this.draw();
  }

  resize() {
    if (!this.process) return;
    const ratio = window.devicePixelRatio || 1;
    this.width = this.host.clientWidth;
    this.gutter = this.width < 600 ? NARROW_GUTTER : GUTTER;
    for (const [canvas, height] of [[this.canvas, this.height], [this.overview, OVERVIEW]]) {
      canvas.width = Math.round(this.width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    this.whole = null;
    this.draw();
  }

  get plot() {
    return Math.max(1, this.width - this.gutter - 8);
  }

  xOf(place) {
    return this.gutter + ((place - this.from) / this.span) * this.plot;
  }

  placeAt(x) {
    return this.from + ((x - this.gutter) / this.plot) * this.span;
  }

  setView(from, span) {
    const { total } = this.process.scale;
    this.span = Math.min(Math.max(span, Math.min(CLOSEST, total || 1)), Math.max(total, 1));
    this.from = Math.min(Math.max(0, from), Math.max(0, total - this.span));
    this.draw();
  }

  zoom(factor, x = this.gutter + this.plot / 2) {
    const place = this.placeAt(x);
    const span = Math.min(Math.max(this.span * factor, Math.min(CLOSEST, this.process.scale.total)), this.process.scale.total);
    this.setView(place - ((place - this.from) * span) / this.span, span);
  }

  pan(share) {
    this.setView(this.from + share * this.span, this.span);
  }

  /** Bring places into view, wide enough to be told from what is beside them. */
  bring(from, to) {
    const width = ((to - from) / this.span) * this.plot;
    const isSeen = from >= this.from && to <= this.from + this.span;
    if (width < 14) this.setView((from + to) / 2 - (to - from) * 6, Math.max(to - from, 1) * 12);
    else if (width > this.plot) this.setView(from - (to - from) * 0.1, (to - from) * 1.2);
    else if (!isSeen) this.setView((from + to - this.span) / 2, this.span);
    else this.draw();
  }

  select(address, { follow = true } = {}) {
    this.selected = address;
    if (address === null) return this.draw();
    const { scale, segments, regions } = this.process;
    const place = scale.placeOf(address);
    if (!follow) return this.draw();
    for (const [ranges, placed] of [[segments, this.segments], [regions, this.regions]]) {
      const i = ranges.find(address);
      if (i >= 0) return this.bring(placed.from[i], placed.to[i]);
    }
    return this.bring(place, place + Math.max(1, this.span / 100));
  }

  // -- drawing

  draw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.drawNow();
    });
  }

  drawNow() {
    if (!this.process || !this.width) return;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    context.fillStyle = this.paint.colours.panel;
    context.fillRect(0, 0, this.width, this.height);
    this.drawLanes(context);
    context.save();
    context.beginPath();
    context.rect(this.gutter, 0, this.plot, this.height);
    context.clip();
    this.drawSelection(context, true);
    this.drawSegments(context, this.lane("segments"));
    this.drawMissing(context, this.lane("segments"));
    if (this.lane("regions")) this.drawRegions(context, this.lane("regions"));
    if (this.lane("modules")) this.drawModules(context, this.lane("modules"));
    if (this.lane("flags")) this.drawMarks(context, this.lane("flags"));
    this.drawSelection(context, false);
    context.restore();
    this.drawAxis(context, this.lane("axis"));
    this.drawOverview();
    const { scale, digits } = this.process;
    const last = scale.addressAt(this.from + this.span);
    this.shown.textContent = scale.count ? `${hex(scale.addressAt(this.from), digits)}-${hex(last, digits)}` : "nothing is known to be there";
  }

  drawLanes(context) {
    const { colours } = this.paint;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.font = this.paint.font(11);
    for (const { name, y, height } of this.lanes) {
      if (name !== "axis") {
        context.fillStyle = colours.line;
        context.globalAlpha = name in RAILS ? 0.45 : 0.3;
        context.fillRect(this.gutter, y, this.plot, height);
        context.globalAlpha = 1;
      }
      if (this.gutter < GUTTER) continue;
      context.fillStyle = colours.muted;
      context.font = this.paint.font(name in RAILS ? 10 : 11);
      context.fillText(LANE_TITLES[name], this.gutter - 7, y + height / 2 + 0.5);
    }
    context.textAlign = "left";
  }

  /** The rows of placed ranges that are in view: the first one and the one after the last. */
  inView({ from, reach }) {
    const end = this.from + this.span;
    return [firstOf(reach.length, (i) => reach[i] > this.from), firstOf(from.length, (i) => from[i] >= end)];
  }

  /** What a class of segments takes of each column of pixels, for those that are too narrow to be drawn alone. */
  drawSegments(context, { y, height }) {
    const [first, after] = this.inView(this.segments);
    const { from, to } = this.segments;
    const perPlace = this.plot / this.span;
    const columns = new Columns(Math.ceil(this.plot) + 1);
    const change = this.lane("change");
    for (let i = first; i < after; i += 1) {
      const x = this.gutter + (from[i] - this.from) * perPlace;
      const width = (to[i] - from[i]) * perPlace;
      if (width < NARROWEST) {
        columns.add(x - this.gutter, width, this.classes[i], this.letters[i], this.changes?.[i] ?? 0);
        continue;
      }
      if (this.changes?.[i] === REMOVED) {
        this.drawRemoved(context, { x, width, y, height });
        if (change) this.drawChange(context, REMOVED, { x, width, lane: change });
        continue;
      }
      const isSplit = this.drawSegment(context, { i, x, width, y, height });
      if (!isSplit) this.drawRails(context, this.letters[i], x, width);
      if (change && this.changes[i]) this.drawChange(context, this.changes[i], { x, width, lane: change });
    }
    columns.each((column, protection, letters, changed, cover) => {
      const x = this.gutter + column;
      context.globalAlpha = 0.35 + 0.65 * cover;
      context.fillStyle = this.paint.protection(CLASSES[protection]);
      if (cover) context.fillRect(x, y, 1, height);
      context.globalAlpha = 1;
      this.drawRails(context, letters, x, 1);
      if (change && changed) this.drawChange(context, changed, { x, width: 1, lane: change });
    });
  }

  /** What is there no more: an outline. */
  drawRemoved(context, { x: start, width: whole, y, height }) {
    const x = Math.max(start, this.gutter - 2);
    const width = Math.min(start + whole, this.gutter + this.plot + 2) - x;
    context.strokeStyle = this.paint.colours["change-removed"];
    context.lineWidth = 1;
    context.setLineDash([3, 2]);
    context.strokeRect(x + 0.5, y + 0.5, Math.max(0, width - 2), height - 1);
    context.setLineDash([]);
  }

  /** Draw a segment; return whether its parts were drawn, with their rails. */
  drawSegment(context, { i, x: start, width: whole, y, height }) {
    const x = Math.max(start, this.gutter - 2);
    const width = Math.min(start + whole, this.gutter + this.plot + 2) - x;
    const protection = CLASSES[this.classes[i]];
    const kind = firstWord(this.process.segments.get("kind", i));
    this.paint.block(context, { x, y, width: Math.max(1, width - (whole > 4 ? 1 : 0)), height, protection, kind });
    const isSplit = protection === "mixed" && this.drawParts(context, { i, y, height });
    if (width < 20) return isSplit;
    const ground = isSplit ? this.paint.colours.panel : this.paint.protection(protection);
    const ink = isSplit ? this.paint.colours.ink : this.paint.inks[protection];
    const letters = `${PROTECTIONS[protection].letters} ${KINDS[kind] ?? ""}`.trim();
    const isWide = width >= 70;
    if (!isSplit) {
      const short = width < 40 ? KINDS[kind] ?? "" : letters;
      this.backed(context, short, x + 5, y + (isWide ? height / 2 - 9 : height / 2), { width: width - 8, ground, ink, weight: "600" });
    }
    if (!isWide) return isSplit;
    const name = baseName(this.process.segments.get("file", i)) || plain(this.process.segments.get("kind", i));
    this.backed(context, name, x + 5, y + height / 2 + 9, { width: width - 8, ground, ink });
    return isSplit;
  }

  /** A segment of several protections, by the regions in it if these tell them apart; return whether they do. */
  drawParts(context, { i, y, height }) {
    const { regions } = this.process;
    const [from, to] = [this.segments.from[i], this.segments.to[i]];
    const { from: starts, to: stops, reach } = this.regions;
    const rows = (low, high) => [firstOf(reach.length, (row) => reach[row] > low), firstOf(starts.length, (row) => starts[row] >= high)];
    if (!this.differs.has(i)) this.differs.set(i, this.areDifferent(...rows(from, to)));
    if (!this.differs.get(i)) return false;
    const [first, after] = rows(Math.max(from, this.from), Math.min(to, this.from + this.span));
    let drawn = -Infinity;
    for (let row = first; row < after; row += 1) {
      const text = regions.get("protection", row);
      const protection = classOf(text);
      const x = Math.max(this.xOf(Math.max(starts[row], from)), this.gutter - 2);
      const end = Math.min(this.xOf(Math.min(stops[row], to)), this.gutter + this.plot + 2);
      if (this.isOther(row) || protection === "unknown" || end - Math.max(drawn, x) < 0.5) continue;
      drawn = end;
      const kind = firstWord(regions.get("kind", row));
      this.paint.block(context, { x, y, width: end - x, height, protection, kind });
      this.drawRails(context, lettersOf(text), x, end - x);
      if (end - x < 40) continue;
      const letters = `${PROTECTIONS[protection].letters} ${KINDS[kind] ?? ""}`.trim();
      const [ground, ink] = [this.paint.protection(protection), this.paint.inks[protection]];
      this.backed(context, letters, x + 5, y + height / 2 - 9, { width: end - x - 8, ground, ink, weight: "600" });
    }
    return true;
  }

  /** Whether some regions have several protections: one for all of a file says less than its pages do. */
  areDifferent(first, after) {
    const { regions } = this.process;
    let seen = null;
    for (let row = first; row < after; row += 1) {
      const protection = this.isOther(row) ? "unknown" : classOf(regions.get("protection", row));
      if (protection === "unknown") continue;
      if (seen !== null && seen !== protection) return true;
      seen = protection;
    }
    return false;
  }

  /** Whether a region is of another source than the first: what several list is drawn once. */
  isOther(row) {
    const source = this.process.regions.columns.source?.codes;
    return Boolean(source) && source[this.process.regions.row(row)] !== 0;
  }

  /** Text on a hatch, on a ground of its own so that it can be read. */
  backed(context, text, x, y, { width, ground, ink, weight = "" }) {
    if (!text) return;
    context.font = this.paint.font(11, weight);
    context.textBaseline = "middle";
    const long = Math.min(width, context.measureText(text.slice(0, 200)).width);
    context.fillStyle = ground;
    context.fillRect(x - 2, y - 7, long + 4, 14);
    this.paint.text(context, text, x, y, width, ink);
  }

  drawRails(context, letters, x, width) {
    if (!letters) return;
    context.fillStyle = this.paint.colours.muted;
    for (const [name, bit] of Object.entries(RAILS)) {
      const lane = this.lane(name);
      const isCopied = name === "write" && (letters & 10) === 8; // written to a copy: half as high
      if (!lane || !(letters & bit || isCopied)) continue;
      const height = isCopied ? 3 : lane.height;
      context.fillRect(x, lane.y + lane.height - height, Math.max(1, width - (width > 4 ? 1 : 0)), height);
    }
  }

  drawChange(context, changed, { x, width, lane }) {
    const change = Object.keys(CHANGES)[changed - 1];
    context.fillStyle = this.paint.colours[`change-${change}`];
    const y = change === "added" ? lane.y : change === "removed" ? lane.y + lane.height - 5 : lane.y + lane.height / 2 - 2.5;
    if (width < 12) return context.fillRect(x, y, Math.max(1, width - (width > 4 ? 1 : 0)), 5);
    context.globalAlpha = 0.25;
    context.fillRect(x, lane.y, width - 1, lane.height);
    context.globalAlpha = 1;
    return this.paint.sign(context, change, clamped(x + width / 2, this.gutter + 8, this.gutter + this.plot - 8), lane.y + lane.height / 2);
  }

  /** Missing memory: hollow and dashed, in the line of the segments. */
  drawMissing(context, { y, height }) {
    const [first, after] = this.inView(this.missing);
    context.strokeStyle = this.paint.colours.muted;
    context.lineWidth = 1;
    let drawn = -Infinity;
    context.setLineDash([2, 3]);
    for (let i = first; i < after; i += 1) {
      const x = Math.max(this.xOf(this.missing.from[i]), this.gutter - 2);
      const end = Math.min(this.xOf(this.missing.to[i]), this.gutter + this.plot + 2);
      if (end - drawn < 1) continue;
      drawn = end;
      if (end - x >= 3) context.strokeRect(x + 0.5, y + 0.5, end - x - 2, height - 1);
      if (end - x >= 60) {
        context.font = this.paint.font(11);
        context.textBaseline = "middle";
        this.paint.text(context, `not there: ${plain(this.process.missing.get("reason", i))}`, x + 5, y + height / 2, end - x - 10, this.paint.colours.muted);
      }
    }
    context.setLineDash([]);
  }

  drawRegions(context, { y, height }) {
    const { regions } = this.process;
    this.eachWide(this.regions, (i, x, width) => {
      const protection = classOf(regions.get("protection", i));
      const kind = firstWord(regions.get("kind", i));
      this.paint.block(context, { x, y: y + height - 6, width: Math.max(1, width - 1), height: 6, protection, kind: "private" });
      context.strokeStyle = this.paint.colours.muted;
      if (width >= 3) context.strokeRect(x + 0.5, y + 0.5, width - 1.5, height - 1);
      if (width < 18) return;
      context.font = this.paint.font(10);
      context.textBaseline = "middle";
      const name = baseName(regions.get("file", i)) || kind;
      this.paint.text(context, width < 50 ? KINDS[kind] ?? "" : name, x + 4, y + 7.5, width - 6, this.paint.colours.ink);
    }, (i) => this.isOther(i));
  }

  drawModules(context, { y, height }) {
    const { modules } = this.process;
    this.eachWide(this.modules, (i, x, width) => {
      context.fillStyle = this.paint.colours.accent;
      context.fillRect(x, y, Math.max(1, width - 1), 3);
      if (width >= 3) context.fillRect(x, y, 1, height);
      if (width < 24) return;
      context.font = this.paint.font(11);
      context.textBaseline = "middle";
      this.paint.text(context, plain(modules.get("name", i)) || baseName(modules.get("path", i)), x + 4, y + height / 2 + 2, width - 6, this.paint.colours.ink);
    });
  }

  /** Call for each range in view; of those that share a column of pixels, for the first. */
  eachWide(placed, act, isLeftOut = () => false) {
    const [first, after] = this.inView(placed);
    let drawn = -Infinity;
    for (let i = first; i < after; i += 1) {
      if (isLeftOut(i)) continue;
      const start = this.xOf(placed.from[i]);
      const end = Math.max(start + 1, this.xOf(placed.to[i]));
      if (end <= drawn + 0.5) continue;
      drawn = end;
      const x = Math.max(start, this.gutter - 2);
      act(i, x, Math.min(end, this.gutter + this.plot + 2) - x);
    }
  }

  /** Flags: those that would overlap are one mark of the most urgent one, with their count. */
  drawMarks(context, { y, height }) {
    this.groups = [];
    const end = this.from + this.span;
    let i = firstOf(this.marks.length, (mark) => this.marks[mark] >= this.from);
    for (; i < this.marks.length && this.marks[i] < end; i += 1) {
      const x = this.xOf(this.marks[i]);
      const last = this.groups.at(-1);
      if (last && x - last.x < 36) last.rows.push(i);
      else this.groups.push({ x, rows: [i] });
    }
    for (const group of this.groups) {
      const severities = group.rows.map((row) => this.process.marks[row].severity);
      const severity = SEVERITIES.find((name) => severities.includes(name));
      const x = clamped(group.x, this.gutter + 6, this.gutter + this.plot - 6);
      this.paint.mark(context, severity, x, y + height / 2);
      if (group.rows.length < 2) continue;
      context.font = this.paint.font(10);
      context.textBaseline = "middle";
      context.fillStyle = this.paint.colours.ink;
      context.fillText(grouped(group.rows.length), x + 7, y + height / 2);
    }
  }

  drawSelection(context, isBelow) {
    if (this.selected === null) return;
    const { segments, regions, scale } = this.process;
    const { colours } = this.paint;
    const x = this.xOf(scale.placeOf(this.selected));
    if (isBelow) {
      context.fillStyle = colours.found;
      context.fillRect(Math.round(x) - 1, 0, 2, this.height);
      return;
    }
    context.strokeStyle = colours.found;
    context.lineWidth = 2;
    for (const [name, ranges, placed] of [["segments", segments, this.segments], ["regions", regions, this.regions]]) {
      const i = this.lane(name) ? ranges.find(this.selected) : -1;
      if (i < 0) continue;
      const { y, height } = this.lane(name);
      const from = Math.max(this.xOf(placed.from[i]), this.gutter - 4);
      const to = Math.min(this.xOf(placed.to[i]), this.gutter + this.plot + 4);
      context.strokeRect(from - 1, y - 1, Math.max(2, to - from), height + 2);
    }
  }

  /** Addresses along the line: what begins near each tick is named, rather than what lies at a round number of pixels. */
  drawAxis(context, { y }) {
    const { scale, digits } = this.process;
    const { colours } = this.paint;
    context.fillStyle = colours.muted;
    context.fillRect(this.gutter, y, this.plot, 1);
    if (!scale.count) return;
    this.drawFolds(context, y);
    context.font = this.paint.mono(11);
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    const width = context.measureText(hex(0n, digits)).width + 18;
    for (let x = this.gutter; x < this.gutter + this.plot - width + 18; ) {
      const begin = firstOf(scale.count, (k) => scale.places[k] >= this.placeAt(x));
      const near = begin < scale.count ? this.xOf(scale.places[begin]) : Infinity;
      const within = scale.addressAt(this.placeAt(x));
      const isNear = near < x + width * 0.6 && near + width - 18 <= this.gutter + this.plot;
      if (!isNear && scale.isFolded(scale.pieceAt(this.placeAt(x)))) {
        x += 12; // what is in a fold is not to scale
        continue;
      }
      const address = isNear ? scale.bounds[begin] : this.round(within, x);
      const at = isNear ? near : Math.max(x, this.xOf(scale.placeOf(address)));
      context.fillStyle = colours.ink;
      context.fillRect(Math.round(at), y, 1, 20);
      context.fillText(hex(address, digits), Math.round(at) + 3, y + 31);
      x = at + width;
    }
  }

  /** The next address that is round at this scale, if it is not far to the right of `x`. */
  round(address, x) {
    const grain = BigInt(2 ** Math.max(0, Math.floor(Math.log2((this.span / this.plot) * 50))));
    const rounded = ((address + grain - 1n) / grain) * grain;
    const at = this.xOf(this.process.scale.placeOf(rounded));
    return rounded < TOP && at >= x - 1 && at < x + 60 ? rounded : address;
  }

  /** Folded stretches: a break in the line, and how long they are. */
  drawFolds(context, y) {
    const { scale } = this.process;
    const { colours } = this.paint;
    const perPlace = this.plot / this.span;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.font = this.paint.font(10);
    // none that is folded is wider than a fold: if that cannot be seen, only what is longer needs to be looked at
    if (Math.min(scale.fold, this.span) * perPlace < 2) return;
    let marked = -Infinity;
    const end = this.from + this.span;
    for (let k = scale.pieceAt(this.from); k < scale.count && scale.places[k] < end; k += 1) {
      const width = scale.width(k) * perPlace;
      if (scale.mapped[k] === 1 || width < 2) continue;
      const x = this.xOf(scale.places[k]);
      const from = Math.max(x, this.gutter);
      const middle = (from + Math.min(x + width, this.gutter + this.plot)) / 2;
      if (scale.isFolded(k) && middle - marked >= 9) {
        this.drawBreak(context, middle, y);
        marked = middle;
      }
      const label = bytes(scale.sizes[k]);
      if (context.measureText(label).width + 6 > Math.min(x + width, this.gutter + this.plot) - from) continue;
      context.fillStyle = colours.muted;
      context.fillText(label, middle, y + 12);
    }
  }

  drawBreak(context, x, y) {
    const { colours } = this.paint;
    context.fillStyle = colours.panel;
    context.fillRect(x - 3, y - 1, 6, 3);
    context.strokeStyle = colours.ink;
    context.lineWidth = 1;
    context.beginPath();
    for (const shift of [-3, 2]) {
      context.moveTo(x + shift - 1.5, y + 4);
      context.lineTo(x + shift + 1.5, y - 3);
    }
    context.stroke();
  }

  drawOverview() {
    const context = this.overview.getContext("2d");
    if (!this.whole) this.drawWhole();
    const { colours } = this.paint;
    context.clearRect(0, 0, this.width, OVERVIEW);
    context.drawImage(this.whole, 0, 0, this.width, OVERVIEW);
    const { total } = this.process.scale;
    const from = this.gutter + (this.from / Math.max(total, 1)) * this.plot;
    const width = Math.max(3, (this.span / Math.max(total, 1)) * this.plot);
    context.globalAlpha = 0.65;
    context.fillStyle = colours.panel;
    context.fillRect(this.gutter, 0, from - this.gutter, OVERVIEW);
    context.fillRect(from + width, 0, this.gutter + this.plot - from - width, OVERVIEW);
    context.globalAlpha = 1;
    context.strokeStyle = colours.ink;
    context.lineWidth = 1.5;
    context.strokeRect(from + 0.75, 0.75, width - 1.5, OVERVIEW - 1.5);
  }

  /** The whole address space once, for the strip above. */
  drawWhole() {
    this.whole = make("canvas", { width: this.overview.width, height: this.overview.height });
    const context = this.whole.getContext("2d");
    const ratio = this.overview.width / this.width;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { colours } = this.paint;
    const { from, to } = this.segments;
    const perPlace = this.plot / Math.max(1, this.process.scale.total);
    context.fillStyle = colours.line;
    context.globalAlpha = 0.3;
    context.fillRect(this.gutter, 0, this.plot, OVERVIEW);
    context.globalAlpha = 1;
    const columns = new Columns(Math.ceil(this.plot) + 1);
    for (let i = 0; i < from.length; i += 1) {
      const width = (to[i] - from[i]) * perPlace;
      if (this.changes?.[i] === REMOVED) continue;
      if (width < 1) columns.add(from[i] * perPlace, width, this.classes[i], 0, 0);
      else {
        context.fillStyle = this.paint.protection(CLASSES[this.classes[i]]);
        context.fillRect(this.gutter + from[i] * perPlace, 7, width, OVERVIEW - 8);
      }
    }
    columns.each((column, protection) => {
      context.fillStyle = this.paint.protection(CLASSES[protection]);
      context.fillRect(this.gutter + column, 7, 1, OVERVIEW - 8);
    });
    this.marks.forEach((place, row) => {
      context.fillStyle = colours[`severity-${this.process.marks[row].severity}`];
      context.fillRect(this.gutter + place * perPlace - 1, 1, 2, 5);
    });
    if (this.gutter < GUTTER) return;
    context.font = this.paint.font(11);
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.fillStyle = colours.muted;
    context.fillText("whole", this.gutter - 7, OVERVIEW / 2);
  }

  // -- what the user does

  listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.release(event));
    canvas.addEventListener("pointerleave", () => this.hideTip());
    canvas.addEventListener("dblclick", (event) => this.zoom(0.25, event.offsetX));
    this.host.addEventListener("keydown", (event) => this.key(event));
    const go = (event) => {
      const place = ((event.offsetX - this.gutter) / this.plot) * this.process.scale.total;
      this.setView(place - this.span / 2, this.span);
    };
    this.overview.addEventListener("pointerdown", (event) => {
      this.overview.setPointerCapture(event.pointerId);
      go(event);
    });
    this.overview.addEventListener("pointermove", (event) => event.buttons && go(event));
    this.overview.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8);
    }, { passive: false });
  }

  wheel(event) {
    event.preventDefault();
    this.hideTip();
    const lines = event.deltaMode === 1 ? 16 : 1;
    const [across, along] = event.shiftKey ? [event.deltaY, 0] : [event.deltaX, event.deltaY];
    if (Math.abs(across) > Math.abs(along)) return this.pan((across * lines) / this.plot);
    return this.zoom(Math.exp(clamped(along * lines, -300, 300) * 0.002), event.offsetX);
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY, began: event.offsetX });
    this.moved = this.fingers.size > 1;
    this.hideTip();
  }

  move(event) {
    const finger = this.fingers.get(event.pointerId);
    if (!finger) return this.hover(event);
    const others = [...this.fingers].filter(([id]) => id !== event.pointerId).map(([, other]) => other);
    if (others.length) {
      const [before, now] = [Math.abs(finger.x - others[0].x), Math.abs(event.offsetX - others[0].x)];
      if (before > 8 && now > 8) this.zoom(before / now, (event.offsetX + others[0].x) / 2);
    } else {
      if (Math.abs(event.offsetX - finger.began) > 4) this.moved = true;
      if (this.moved) this.pan((finger.x - event.offsetX) / this.plot);
    }
    finger.x = event.offsetX;
    finger.y = event.offsetY;
    return undefined;
  }

  release(event) {
    const finger = this.fingers.get(event.pointerId);
    this.fingers.delete(event.pointerId);
    if (!finger || this.moved || event.type === "pointercancel") return;
    const address = this.hit(event.offsetX, event.offsetY);
    if (address !== null) this.onSelect(address, { follow: false });
  }

  /** The address of what is drawn at a place of the canvas. */
  hit(x, y) {
    if (x < this.gutter || x > this.gutter + this.plot || !this.process.scale.count) return null;
    const lane = this.lanes.find((each) => y >= each.y - 2 && y < each.y + each.height + 2)?.name;
    if (lane === "flags") {
      const group = this.groups?.find((each) => Math.abs(each.x - x) < 12);
      if (group) return this.process.marks[group.rows[0]].address;
    }
    const ranges = { regions: this.process.regions, modules: this.process.modules }[lane] ?? this.process.segments;
    const placed = { regions: this.regions, modules: this.modules }[lane] ?? this.segments;
    const i = this.near(placed, x);
    const address = this.process.scale.addressAt(this.placeAt(x));
    if (i < 0 || (lane === "segments" && ranges.find(address) < 0 && this.process.missing.find(address) >= 0)) return address;
    // a click on what is wide means the place, on what is narrow the thing
    if (ranges.find(address) === i && this.xOf(placed.to[i]) - this.xOf(placed.from[i]) > 400) return pageOf(address, ranges.start[i]);
    return ranges.start[i];
  }

  /** The range at a place, or the next one that is within three pixels. */
  near(placed, x) {
    const place = this.placeAt(x);
    const around = (3 * this.span) / this.plot;
    const after = firstOf(placed.from.length, (i) => placed.from[i] > place);
    for (let i = after - 1; i >= 0 && i > after - 64; i -= 1) if (place < placed.to[i]) return i;
    if (after && place - placed.to[after - 1] < around) return after - 1;
    return after < placed.from.length && placed.from[after] - place < around ? after : -1;
  }

  hover(event) {
    const address = this.hit(event.offsetX, event.offsetY);
    if (address === null || event.pointerType === "touch") return this.hideTip();
    const lines = this.describe(address);
    const crowd = this.crowd(event.offsetX);
    if (crowd > 2) lines.push(`${grouped(crowd)} segments within this pixel: zoom in`);
    this.tip.replaceChildren(...lines.map((line, n) => make("div", { className: n ? "" : "tip-title" }, line)));
    this.tip.hidden = false;
    const { width, height } = this.tip.getBoundingClientRect();
    const left = clamped(event.clientX + 14, 4, window.innerWidth - width - 8);
    const above = event.clientY + 18 + height > window.innerHeight;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${above ? Math.max(4, event.clientY - height - 10) : event.clientY + 18}px`;
    return undefined;
  }

  crowd(x) {
    const { from } = this.segments;
    const within = (at) => firstOf(from.length, (i) => from[i] >= this.placeAt(at));
    return within(x + 0.5) - within(x - 0.5);
  }

  hideTip() {
    this.tip.hidden = true;
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const acts = {
      ArrowLeft: () => this.pan(-0.1),
      ArrowRight: () => this.pan(0.1),
      ArrowUp: () => this.zoom(0.8),
      ArrowDown: () => this.zoom(1.25),
      PageUp: () => this.pan(-0.9),
      PageDown: () => this.pan(0.9),
      "+": () => this.zoom(0.5),
      "=": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      _: () => this.zoom(2),
      0: () => this.reset(),
      Home: () => this.setView(0, this.span),
      End: () => this.setView(Infinity, this.span),
      n: () => this.step(1),
      p: () => this.step(-1),
      f: () => this.stepFlag(1),
      F: () => this.stepFlag(-1),
      Escape: () => this.hideTip(),
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    this.hideTip();
    acts[event.key]();
  }

  /** The segment after or before what is selected; what is in view if nothing is. */
  step(direction) {
    const { start, count } = this.process.segments;
    if (!count) return;
    const at = this.selected ?? this.process.scale.addressAt(this.from);
    const after = firstOf(count, (i) => start[i] > at);
    const before = firstOf(count, (i) => start[i] >= at) - 1;
    const isFirst = this.selected === null && direction > 0 && before + 1 < count && start[before + 1] === at;
    const i = isFirst ? before + 1 : direction > 0 ? after : before;
    if (i >= 0 && i < count) this.onSelect(start[i], { follow: true });
  }

  stepFlag(direction) {
    const { marks } = this.process;
    const at = this.selected ?? -1n;
    const [first, last] = [marks[0], marks.at(-1)]; // after the last one comes the first
    const found = direction > 0 ? marks.find(({ address }) => address > at) ?? first : marks.findLast(({ address }) => address < at) ?? last;
    if (found) this.onSelect(found.address, { follow: true });
  }
}

/** What each column of pixels holds of segments that are narrower than a pixel or two. */
class Columns {
  constructor(count) {
    this.count = count;
    this.cover = new Float32Array(count * CLASSES.length);
    this.letters = new Uint8Array(count);
    this.changes = new Uint8Array(count);
    this.hasAny = new Uint8Array(count);
  }

  add(x, width, protection, letters, change) {
    const column = x < 0 ? 0 : x >= this.count ? this.count - 1 : x | 0;
    if (change !== REMOVED) {
      this.cover[column * CLASSES.length + protection] += width + 1e-6;
      this.letters[column] |= letters;
    }
    if (change) this.changes[column] = change;
    this.hasAny[column] = 1;
  }

  each(act) {
    for (let column = 0; column < this.count; column += 1) {
      if (!this.hasAny[column]) continue;
      let [most, sum] = [0, 0];
      for (let each = 0; each < CLASSES.length; each += 1) {
        const cover = this.cover[column * CLASSES.length + each];
        sum += cover;
        if (cover > this.cover[column * CLASSES.length + most]) most = each;
      }
      act(column, most, this.letters[column], this.changes[column], Math.min(1, sum));
    }
  }
}

/** A number for each row; what is worked out of a text is worked out once for each text. */
function eachValue(ranges, textOf, valueOf) {
  const known = new Map();
  const found = new Uint8Array(ranges.count);
  for (let i = 0; i < ranges.count; i += 1) {
    const text = textOf(i);
    if (!known.has(text)) known.set(text, valueOf(text));
    found[i] = known.get(text);
  }
  return found;
}

function clamped(value, low, high) {
  return Math.max(low, Math.min(value, high));
}

/** The page that holds an address, but not below what it is in. */
function pageOf(address, start) {
  const page = address - (address % 4096n);
  return page < start ? start : page;
}
