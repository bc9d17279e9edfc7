// Colours, hatches and signs: each thing that a colour tells is told by a shape or a letter, too.

class Paint {
  constructor() {
    this.renew();
  }

  /** Take the colours of the theme anew. */
  renew() {
    const style = getComputedStyle(document.documentElement);
    this.colours = {};
    for (const name of [
      "panel", "ink", "muted", "line", "accent", "hatch", "found",
      ...CLASSES.map((name) => `protection-${name}`),
      ...SEVERITIES.map((name) => `severity-${name}`),
      ...Object.keys(CHANGES).map((name) => `change-${name}`),
    ]) {
      this.colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    this.font = (size, weight = "") => `${weight} ${size}px ${style.getPropertyValue("--sans")}`;
    this.mono = (size) => `${size}px ${style.getPropertyValue("--mono")}`;
    this.inks = {};
    for (const name of CLASSES) this.inks[name] = isDark(this.colours[`protection-${name}`]) ? "#ffffff" : "#10151b";
    this.hatches = {};
  }

  protection(name) {
    return this.colours[`protection-${name}`];
  }

  /** The pattern of a kind of memory, or null: what is private has none. */
  hatch(context, kind) {
    if (!(kind in this.hatches)) this.hatches[kind] = this.drawHatch(context, kind);
    return this.hatches[kind];
  }

  drawHatch(context, kind) {
    if (kind === "private" || !(kind in KINDS)) return null;
    const tile = make("canvas", { width: 16, height: 16 });
    const pen = tile.getContext("2d");
    pen.strokeStyle = this.colours.hatch;
    pen.fillStyle = this.colours.hatch;
    pen.lineWidth = 1.6;
    pen.beginPath();
    const line = (...points) => {
      pen.moveTo(points[0], points[1]);
      pen.lineTo(points[2], points[3]);
    };
    if (kind === "image") for (const x of [-16, 0, 16]) line(x, 16, x + 16, 0);
    else if (kind === "mapped") for (const x of [-16, 0, 16]) line(x, 0, x + 16, 16);
    else if (kind === "stack") for (const y of [4, 12]) line(0, y, 16, y);
    else if (kind === "heap") for (const [x, y] of [[3, 3], [11, 11]]) pen.fillRect(x, y, 3, 3);
    else for (const at of [4, 12]) [line(at, 0, at, 16), kind === "page tables" ? line(0, at, 16, at) : null];
    pen.stroke();
    const pattern = context.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix([0.5, 0, 0, 0.5, 0, 0]));
    return pattern;
  }

  /** A block of memory: its protection's colour, its kind's hatch. */
  block(context, { x, y, width, height, protection, kind }) {
    context.fillStyle = this.protection(protection);
    context.fillRect(x, y, width, height);
    const hatch = width >= 5 ? this.hatch(context, kind) : null;
    if (hatch) {
      context.fillStyle = hatch;
      context.fillRect(x, y, width, height);
    }
  }

  /** The sign of a severity: full triangle, diamond, ring with a dot, ring. */
  mark(context, severity, x, y, size = 5) {
    context.fillStyle = this.colours[`severity-${severity}`];
    context.strokeStyle = context.fillStyle;
    context.lineWidth = 1.5;
    context.beginPath();
    if (severity === "high") {
      context.moveTo(x - size, y - size);
      context.lineTo(x + size, y - size);
      context.lineTo(x, y + size);
      context.closePath();
      context.fill();
    } else if (severity === "medium") {
      context.moveTo(x, y - size);
      context.lineTo(x + size, y);
      context.lineTo(x, y + size);
      context.lineTo(x - size, y);
      context.closePath();
      context.fill();
    } else {
      context.arc(x, y, size - 1, 0, 2 * Math.PI);
      context.stroke();
      if (severity === "low") context.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
  }

  sign(context, change, x, y) {
    context.fillStyle = this.colours[`change-${change}`];
    context.font = this.font(12, "bold");
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(CHANGES[change].sign, x, y);
    context.textAlign = "left";
  }

  /** Text that is cut to a width; nothing if not even a few letters fit. */
  text(context, text, x, y, width, colour) {
    context.fillStyle = colour;
    let shown = text.length > 200 ? text.slice(0, 200) : text;
    const whole = context.measureText(shown).width;
    if (whole > width) {
      shown = shown.slice(0, Math.max(0, Math.floor((shown.length * width) / whole) - 1));
      if (shown.length < 3) return;
      shown += "…";
    }
    context.fillText(shown, x, y);
  }
}

function isDark(colour) {
  const parts = /^#(..)(..)(..)$/.exec(colour);
  if (!parts) return false;
  const [red, green, blue] = parts.slice(1).map((part) => (parseInt(part, 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.3;
}
