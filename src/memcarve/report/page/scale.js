// From addresses to places on a line and back. What has bytes is to scale; what has none is folded if it is long.

/** The share of the line that what has no bytes may take. */
const EMPTY_SHARE = 0.35;
/** If nothing has bytes, what is longer than this many times the usual is folded. */
const UNUSUAL = 64;

class Scale {
  /** Cut the addresses into pieces at each boundary of a segment, a region and missing memory, and lay them in a row. */
  constructor({ segments, regions, missing }) {
    const kinds = [segments, regions, missing];
    const all = new BigUint64Array(2 * kinds.reduce((sum, { count }) => sum + count, 0));
    let used = 0;
    for (const ranges of kinds) {
      for (let i = 0; i < ranges.count; i += 1) {
        all[used] = ranges.start[i];
        all[used + 1] = saturated(ranges.end(i));
        used += 2;
      }
    }
    all.sort();
    let kept = 0;
    for (let i = 0; i < used; i += 1) if (!i || all[i] !== all[i - 1]) all[kept++] = all[i];
    this.bounds = all.slice(0, kept);
    this.count = Math.max(0, kept - 1);
    this.sizes = new Float64Array(this.count);
    for (let k = 0; k < this.count; k += 1) this.sizes[k] = Number(this.bounds[k + 1] - this.bounds[k]);
    this.mapped = new Uint8Array(this.count); // 1: bytes are there; 2: a region or missing memory
    this.pieces = kinds.map((ranges, n) => this.piecesOf(ranges, n ? 2 : 1));
    this.fold = this.longest();
    this.places = new Float64Array(kept + 1);
    for (let k = 0; k < this.count; k += 1) this.places[k + 1] = this.places[k] + this.width(k);
    this.total = this.places[this.count];
    [this.segments, this.regions, this.missing] = this.pieces.map((pieces) => this.placed(pieces));
  }

  isFolded(k) {
    return this.mapped[k] !== 1 && this.sizes[k] > this.fold;
  }

  width(k) {
    return this.isFolded(k) ? this.fold : this.sizes[k];
  }

  /** Return the first piece of each range and the one after its last, and mark them. */
  piecesOf(ranges, mark) {
    const first = new Uint32Array(ranges.count);
    const after = new Uint32Array(ranges.count);
    const begun = new Int32Array(this.count + 1); // how many ranges begin at a piece, less those that end before it
    let k = 0;
    for (let i = 0; i < ranges.count; i += 1) {
      while (this.bounds[k] < ranges.start[i]) k += 1;
      first[i] = k;
      const end = saturated(ranges.end(i));
      // most are one piece; those that overlap many others are looked up, not walked through
      after[i] = this.bounds[k + 1] === end ? k + 1 : firstOf(this.bounds.length, (each) => this.bounds[each] >= end);
      begun[first[i]] += 1;
      begun[after[i]] -= 1;
    }
    for (let [piece, open] = [0, 0]; piece < this.count; piece += 1) {
      open += begun[piece];
      if (open && !this.mapped[piece]) this.mapped[piece] = mark;
    }
    return { first, after };
  }

  placed({ first, after }) {
    const from = Float64Array.from(first, (k) => this.places[k]);
    const to = Float64Array.from(after, (k) => this.places[k]);
    return ends(from, to);
  }

  /** The length from which on what has no bytes is folded: all of it together takes its share of the line. */
  longest() {
    const empty = this.sizes.filter((_, k) => this.mapped[k] !== 1).sort();
    let sum = 0;
    let withBytes = 0;
    for (let k = 0; k < this.count; k += 1) if (this.mapped[k] === 1) withBytes += this.sizes[k];
    if (!withBytes) {
      const regions = this.sizes.filter((_, k) => this.mapped[k]).sort();
      return regions.length ? regions[regions.length >> 1] * UNUSUAL : 1;
    }
    const share = (withBytes * EMPTY_SHARE) / (1 - EMPTY_SHARE);
    for (let i = 0; i < empty.length; i += 1) {
      if (sum + empty[i] * (empty.length - i) > share) return Math.max(1, (share - sum) / (empty.length - i));
      sum += empty[i];
    }
    return Infinity;
  }

  /** The piece that holds an address; the first or last one if none does. */
  pieceOf(address) {
    const after = firstOf(this.bounds.length, (k) => this.bounds[k] > address);
    return Math.max(0, Math.min(this.count - 1, after - 1));
  }

  pieceAt(place) {
    return Math.max(0, Math.min(this.count - 1, firstOf(this.count, (k) => this.places[k] > place) - 1));
  }

  placeOf(address) {
    if (!this.count) return 0;
    const k = this.pieceOf(address);
    if (address <= this.bounds[k]) return this.places[k];
    const within = Math.min(this.sizes[k], Number(address - this.bounds[k]));
    return this.places[k] + (this.isFolded(k) ? (within / this.sizes[k]) * this.fold : within);
  }

  addressAt(place) {
    if (!this.count) return 0n;
    const k = this.pieceAt(place);
    const within = Math.max(0, Math.min(this.width(k), place - this.places[k]));
    const size = this.isFolded(k) ? (within / this.fold) * this.sizes[k] : within;
    return this.bounds[k] + BigInt(Math.min(Math.floor(size), this.sizes[k] - 1));
  }

  /** Where ranges lie that the pieces were not cut at. */
  place(ranges) {
    const from = new Float64Array(ranges.count);
    const to = new Float64Array(ranges.count);
    for (let i = 0; i < ranges.count; i += 1) {
      from[i] = this.placeOf(ranges.start[i]);
      to[i] = this.placeOf(ranges.end(i));
    }
    return ends(from, to);
  }
}

/** 2^64 is a legal end, and one more than fits: the byte below it is not told apart in a picture. */
function saturated(end) {
  return end < TOP ? end : TOP - 1n;
}

/** Places with `reach`, how far any range up to each one goes: it never falls, so that it can be searched. */
function ends(from, to) {
  const reach = new Float64Array(to.length);
  let furthest = -Infinity;
  for (let i = 0; i < to.length; i += 1) {
    furthest = Math.max(furthest, to[i]);
    reach[i] = furthest;
  }
  return { from, to, reach };
}
