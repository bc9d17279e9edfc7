// What is known of the place that is chosen: facts, flags, first bytes, header, entropy.

const WIDE = 16; // bytes in a row of a hexdump; half of them where there is little room
const MOST_BYTES = 4096;

class Details {
  constructor({ host, paint, links }) {
    Object.assign(this, { host, paint, links });
  }

  /** Without a place: how much there is of what. */
  summary(process) {
    this.redraw = null;
    const { segments } = process;
    const sums = new Map();
    for (let i = 0; i < segments.count; i += 1) {
      if (process.isRemoved(i)) continue;
      const kind = firstWord(segments.get("kind", i)) || "not known";
      const name = `${classOf(process.protectionOf(i))}/${kind}`;
      const sum = sums.get(name) ?? { protection: classOf(process.protectionOf(i)), kind, count: 0, size: 0 };
      sum.count += 1;
      sum.size += segments.size[i];
      sums.set(name, sum);
    }
    const rows = [...sums.values()].sort((a, b) => b.size - a.size).slice(0, 10);
    const most = Math.max(1, ...rows.map(({ size }) => size));
    const table = make("table", { className: "sums" },
      make("caption", {}, "Bytes by protection and kind"),
      make("thead", {}, make("tr", {}, ["protection", "kind", "segments", "bytes", ""].map((title, n) => {
        const head = make("th", { scope: "col", className: n === 2 || n === 3 ? "right" : "" }, title);
        if (!title) head.setAttribute("aria-label", "share");
        return head;
      }))),
      make("tbody", {}, rows.map(({ protection, kind, count, size }) => {
        const bar = make("span", { className: `bar-of ${protection}` });
        bar.style.width = `${Math.max(1, (size / most) * 100)}%`;
        return make("tr", {}, make("td", { className: "mono" }, PROTECTIONS[protection].letters), make("td", {}, plain(kind)),
          make("td", { className: "right" }, grouped(count)), make("td", { className: "right" }, bytes(size)),
          make("td", { className: "share" }, bar));
      })));
    const hint = make("p", { className: "hint" }, "Choose a segment in the picture, a row of a table or a hit of the search to see what is known of it.");
    this.host.replaceChildren(make("div", { className: "columns" }, make("div", { className: "column wide" }, segments.count ? table : null, hint)));
  }

  show(process, address) {
    const found = process.at(address);
    const { segments, regions, modules, missing } = process;
    const named = process.nameOf(address);
    const link = make("a", { href: this.links(address), className: "mono" }, hex(address, process.digits));
    const copy = make("button", { type: "button", className: "small" }, "Copy link");
    copy.addEventListener("click", () => copyText(`${location.href.split("#")[0]}${this.links(address)}`, copy));
    const title = make("div", { className: "detail-title" }, make("h3", {}, link, named ? make("span", { className: "muted" }, ` ${brief(named)}`) : null), copy);
    const facts = make("div", { className: "column" }, title);
    const i = found.segment;
    if (i >= 0) {
      const file = segments.get("file", i);
      facts.append(this.facts("Segment", [
        ["range", `${hex(segments.start[i], process.digits)}-${hex(segments.end(i), process.digits)}`, "mono"],
        ["size", segments.size[i] < 1024 ? counted(segments.size[i], "byte") : `${bytes(segments.size[i])} (${grouped(segments.size[i])} bytes)`],
        address > segments.start[i] ? ["offset in it", hex(address - segments.start[i]), "mono"] : null,
        ["permissions", segments.get("permissions", i), "mono"],
        ["protection", segments.get("protection", i), "mono"],
        ["kind", segments.get("kind", i)],
        ["file", file],
        ["content", segments.get("content", i)],
        process.flagsOf(i).length ? null : ["flags", segments.get("flagged", i)],
        ["entropy", typeof segments.get("entropy", i) === "number" ? `${segments.get("entropy", i).toFixed(3)} bits per byte` : null],
        ["change", segments.get("change", i)],
        ["SHA-256", segments.get("sha256", i), "mono hash"],
      ]));
    } else {
      facts.append(make("p", { className: "muted" }, found.missing >= 0 || found.region >= 0 ? "No bytes are there." : "A gap: nothing is mapped there, as far as is known."));
    }
    if (found.missing >= 0) {
      facts.append(this.facts("Missing", [
        ["range", `${hex(missing.start[found.missing], process.digits)}-${hex(missing.end(found.missing), process.digits)}`, "mono"],
        ["reason", missing.get("reason", found.missing)],
      ]));
    }
    if (found.region >= 0) facts.append(this.facts("Region", this.rowFacts(process, regions, found.region, ["start", "size"])));
    if (found.module >= 0) facts.append(this.facts("Module", this.rowFacts(process, modules, found.module, ["start", "size"])));
    const header = i >= 0 ? this.header(process, i) : null;
    if (header) facts.append(header);
    const isShown = i >= 0 && typeof process.ofSegment("first_bytes", i) === "string" ? hex(segments.start[i]) : null;
    const more = [this.flags(found.flags, isShown), i >= 0 ? this.entropy(process, i) : null].filter(Boolean);
    const dump = i >= 0 ? this.firstBytes(process, i) : null;
    const beside = make("div", { className: "columns beside" }, more.length ? make("div", { className: "column" }, more) : null,
      dump ? make("div", { className: "column bytes" }, dump) : null);
    if (!beside.childElementCount) facts.classList.add("alone");
    this.host.replaceChildren(make("div", { className: "columns" }, facts, beside.childElementCount ? beside : null));
    this.redraw?.();
  }

  /** A flag of the process itself, or of no place. */
  showFlag(flag) {
    this.redraw = null;
    this.host.replaceChildren(make("div", { className: "columns" }, make("div", { className: "column" }, this.flags([flag], null))));
    say(brief(`${plain(flag.flag)}, ${severityOf(flag)}: ${plain(flag.why)}`));
  }

  rowFacts(process, ranges, row, first) {
    const range = `${hex(ranges.start[row], process.digits)}-${hex(ranges.end(row), process.digits)}`;
    const rest = Object.keys(ranges.columns).filter((key) => !first.includes(key)).map((key) => {
      const value = ranges.get(key, row);
      return [key.replaceAll("_", " "), key === "resident" && typeof value === "number" ? bytes(value) : value];
    });
    return [["range", range, "mono"], ["size", bytes(ranges.size[row])], ...rest];
  }

  facts(title, pairs) {
    const list = make("dl", {});
    for (const pair of pairs) {
      if (!pair || isUnknown(pair[1])) continue;
      list.append(make("dt", {}, visible(pair[0])), make("dd", { className: pair[2] ?? "" }, plain(pair[1]).slice(0, 4000)));
    }
    return make("div", { className: "facts-of" }, make("h4", {}, title), list);
  }

  /** The flags with their evidence, unless its bytes are those at `shown`, which stand beside. */
  flags(flags, shown) {
    if (!flags.length) return null;
    const seen = new Set([shown]);
    return make("div", { className: "facts-of" }, make("h4", {}, "Flags"), flags.slice(0, 20).map((flag) => {
      const severity = severityOf(flag);
      const address = isUnknown(flag.address) ? null : addressOf(flag.address);
      const lines = [["", flag.why], [`${severity} because`, flag.reason], ["harmless if", causesOf(flag)]]
        .filter(([, text]) => !isUnknown(text) && plain(text))
        .map(([label, text]) => make("p", {}, label ? make("span", { className: "muted" }, `${label}: `) : null, plain(text).slice(0, 2000)));
      const evidence = recordOf(flag.evidence);
      if (typeof evidence.bytes === "string" && !seen.has(evidence.address)) {
        const given = (evidence.bytes.slice(0, 2 * MOST_BYTES).match(/[0-9a-f]{2}/gi) ?? []).map((byte) => parseInt(byte, 16));
        lines.push(make("p", {}, make("span", { className: "muted" }, `evidence at ${plain(evidence.address)}${evidence.runs === true ? ", code that runs" : ""}:`)),
          hexdump(given, "Evidence"));
        seen.add(evidence.address);
      } else if (!isUnknown(flag.evidence) && !isRecord(flag.evidence)) lines.push(make("p", {}, plain(flag.evidence).slice(0, 2000)));
      return make("div", { className: "flag" },
        make("p", {}, make("span", { className: `severity ${severity}`, "aria-hidden": "true" }), make("strong", {}, brief(plain(flag.flag))),
          ` ${severity} `, address === null ? null : make("a", { href: this.links(address), className: "mono" }, hex(address))), lines);
    }));
  }

  header(process, i) {
    const header = process.ofSegment("header", i);
    if (isUnknown(header)) return null;
    if (!isRecord(header)) return this.facts("Header", [["header", header]]);
    const pairs = [];
    for (const [key, value] of Object.entries(header).slice(0, 40)) {
      const rows = listOf(value).filter(isRecord);
      if (rows.length) rows.slice(0, 40).forEach((row, n) => pairs.push([n ? " " : key, Object.values(row).map(plain).join("  "), "mono"]));
      else if (key === "timestamp" && Number.isSafeInteger(value)) pairs.push([key, `${rfc3339(value)} (${value})`]);
      else pairs.push([key, value]);
    }
    return this.facts("Header", pairs);
  }

  firstBytes(process, i) {
    const text = process.ofSegment("first_bytes", i);
    if (typeof text !== "string" || !text) return null;
    let given;
    try {
      given = atob(text.slice(0, Math.ceil(MOST_BYTES / 3) * 4));
    } catch {
      return null;
    }
    return make("div", { className: "facts-of" },
      make("h4", {}, `First ${counted(given.length, "byte")}`),
      hexdump(Array.from(given, (letter) => letter.charCodeAt(0)), "First bytes"));
  }

  entropy(process, i) {
    const along = listOf(process.ofSegment("entropy_along", i)).filter((value) => typeof value === "number");
    this.redraw = null;
    if (along.length < 2) return null;
    const [low, high] = [along.reduce((a, b) => Math.min(a, b)), along.reduce((a, b) => Math.max(a, b))];
    const canvas = make("canvas", { role: "img", "aria-label": `Entropy along the segment, from ${low.toFixed(2)} to ${high.toFixed(2)} bits per byte` });
    this.redraw = () => this.drawEntropy(canvas, along);
    return make("div", { className: "facts-of" }, make("h4", {}, `Entropy along it, ${low.toFixed(2)} to ${high.toFixed(2)} bits per byte`), canvas);
  }

  drawEntropy(canvas, along) {
    const [width, height, left, ratio] = [Math.max(120, canvas.parentElement.clientWidth), 84, 18, window.devicePixelRatio || 1];
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    const { colours } = this.paint;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = this.paint.font(10);
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    const yOf = (value) => 6 + (1 - clamped(value, 0, 8) / 8) * (height - 12);
    for (const value of [0, 4, 8]) {
      pen.fillStyle = colours.line;
      pen.fillRect(left, Math.round(yOf(value)), width - left, 1);
      pen.fillStyle = colours.muted;
      pen.fillText(String(value), left - 5, yOf(value));
    }
    const step = (width - left) / along.length;
    pen.fillStyle = colours.accent;
    pen.strokeStyle = colours.accent;
    pen.beginPath();
    along.forEach((value, n) => {
      pen.lineTo(left + n * step, yOf(value));
      pen.lineTo(left + (n + 1) * step, yOf(value));
    });
    pen.lineWidth = 1.5;
    pen.stroke();
    pen.lineTo(width, yOf(0));
    pen.lineTo(left, yOf(0));
    pen.globalAlpha = 0.15;
    pen.fill();
  }
}

/** Bytes as hexadecimal digits and letters, sixteen in a row. */
function hexdump(given, label) {
  const lines = [];
  const wide = window.innerWidth < 560 ? WIDE / 2 : WIDE;
  for (let at = 0; at < Math.min(given.length, MOST_BYTES); at += wide) {
    const row = given.slice(at, at + wide);
    const digits = row.map((byte, n) => `${n === 8 ? " " : ""}${byte.toString(16).padStart(2, "0")}`).join(" ").padEnd(wide * 3);
    const letters = row.map((byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${digits}  ${letters}`);
  }
  return make("pre", { className: "hexdump", tabIndex: 0, role: "region", "aria-label": label }, lines.join("\n"));
}

/** Seconds since 1970 as UTC; nothing if no date is that far. */
function rfc3339(seconds) {
  const time = new Date(seconds * 1000);
  return Number.isNaN(time.getTime()) ? "no date" : time.toISOString().replace(".000", "");
}
