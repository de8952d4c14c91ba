// Plays chunks at their rate from a small jitter buffer, and remembers what it has played.

import { dotsOf, JPEG } from "./connection.js";
import { Decoder } from "./decoder.js";

/** @typedef {import("./connection.js").Chunk} Chunk @typedef {import("./connection.js").Dot} Dot */
/** @typedef {{index: number, picture: ImageBitmap, dots: Dot[], fps: number, sent: number | null}} Frame */

const JITTER = 40; // milliseconds that the first frame after a pause or a gap waits, so that the rest flow
const AHEAD = 1.2; // seconds of frames beyond which the player hurries
const HURRY = 1.15;
const MEMORY = 96 * 2 ** 20; // bytes of encoded frames to scrub back to

export class Player {
  /** @type {Frame[]} */ #frames = [];
  /** @type {Chunk[]} */ #kept = [];
  #bytes = 0; // of those kept
  #due = 0; // when the next frame is to be shown
  #starved = true;
  #generation = 0; // counts `clear`s: what was being decoded before one is not played after it
  #decoding = Promise.resolve();
  #decoder = new Decoder();
  paused = false;
  latest = -1; // index of the latest frame shown

  /**
   * @param {(frame: Frame) => void} show gets each frame, and closes its picture in the end
   * @param {() => void} undecodable is told that H.264 could not be decoded
   */
  constructor(show, undecodable) {
    this.show = show;
    this.undecodable = undecodable;
    const tick = (/** @type {number} */ now) => {
      this.#tick(now);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  /** How many frames wait to be shown. */
  get waiting() {
    return this.#frames.length;
  }

  /** Index of the oldest frame that can be looked at again. */
  get oldest() {
    return this.#kept.find(({ kind, keyframes }) => kind === JPEG || keyframes?.includes(0))?.first ?? 0;
  }

  /** The chunk that a frame belongs to, of those kept. @param {number} index */
  chunkOf(index) {
    return this.#kept.find(({ first, frames }) => index >= first && index < first + frames);
  }

  /** The latest chunk that has come, if it is kept. */
  get last() {
    return this.#kept.at(-1);
  }

  /** Take a chunk; chunks play in the order in which they are pushed. @param {Chunk} chunk */
  push(chunk) {
    this.#keep(chunk);
    const generation = this.#generation;
    const pictures = this.#decoder.decode(chunk);
    pictures.catch(() => {}); // looked at below, in its turn
    this.#decoding = this.#decoding.then(async () => {
      const decoded = await pictures;
      if (generation !== this.#generation) return decoded.forEach((picture) => picture.close());
      decoded.forEach((picture, i) => {
        const last = i === decoded.length - 1; // by then the whole gesture has been shown
        this.#frames.push({
          index: chunk.first + i, picture, dots: dotsOf(chunk, i), fps: chunk.fps, sent: last ? chunk.sent : null,
        });
      });
      if (this.#starved) {
        this.#starved = false;
        this.#due = performance.now() + JITTER;
      }
    }).catch((error) => {
      if (generation !== this.#generation) return;
      console.warn("a chunk could not be decoded", error);
      if (chunk.kind !== JPEG) this.undecodable();
    });
  }

  /** Show a chunk's one frame at once, paused or not: where the stream stands. @param {Chunk} chunk */
  async still(chunk) {
    const generation = this.#generation;
    const [picture] = await new Decoder().decode(chunk);
    if (generation !== this.#generation || chunk.first < this.latest) return picture.close();
    this.latest = chunk.first;
    this.show({ index: chunk.first, picture, dots: dotsOf(chunk, 0), fps: chunk.fps, sent: null });
  }

  /** A frame shown before, or null where it is forgotten. @param {number} index @returns {Promise<Frame | null>} */
  async recall(index) {
    const chunk = this.chunkOf(index);
    if (!chunk) return null;
    const [place, begin] = [this.#kept.indexOf(chunk), this.#before(chunk)];
    if (begin < 0) return null;
    const decoder = new Decoder();
    /** @type {ImageBitmap[]} */ let pictures = [];
    for (const each of this.#kept.slice(begin, place + 1)) {
      pictures.forEach((picture) => picture.close());
      pictures = await decoder.decode(each);
    }
    decoder.reset();
    const i = index - chunk.first;
    pictures.forEach((picture, other) => other !== i && picture.close());
    return { index, picture: pictures[i], dots: dotsOf(chunk, i), fps: chunk.fps, sent: null };
  }

  /** Forget everything, shown or not; with `from`, what comes from that frame on. @param {number} [from] */
  clear(from = 0) {
    this.#generation++;
    this.#decoder.reset();
    this.#frames.forEach((frame) => frame.picture.close());
    this.#frames = [];
    this.#kept = this.#kept.filter(({ first }) => first < from);
    this.#bytes = this.#kept.reduce((sum, chunk) => sum + size(chunk), 0);
    this.#starved = true;
    this.paused = false;
    this.latest = Math.min(this.latest, from - 1);
  }

  pause() {
    this.paused = true;
  }

  /** No more will come. What has come is still played, unless that stands still: then it can be looked at. */
  end() {
    if (this.paused) this.finish();
  }

  /** Play no more of what has come; it can be looked at. */
  finish() {
    this.#generation++;
    this.#decoder.reset();
    this.#frames.forEach((frame) => frame.picture.close());
    this.#frames = [];
    if (this.last) this.latest = this.last.first + this.last.frames - 1;
  }

  /** What is kept, from a frame on and then round and round, each frame decoded when its turn comes. @param {number} index */
  async *round(index) {
    const decoder = new Decoder();
    try {
      for (let from = index; this.#kept.length; from = this.oldest) {
        const chunk = this.chunkOf(from);
        const begin = chunk ? this.#before(chunk) : -1;
        if (begin < 0) return;
        for (const each of this.#kept.slice(begin)) {
          for (const [i, picture] of (await decoder.decode(each)).entries()) {
            if (each.first + i < from) picture.close();
            else yield { index: each.first + i, picture, dots: dotsOf(each, i), fps: each.fps, sent: null };
          }
        }
      }
    } finally {
      decoder.reset();
    }
  }

  /** Where decoding begins for a kept chunk, -1 where that is forgotten. @param {Chunk} chunk */
  #before(chunk) {
    const place = this.#kept.indexOf(chunk);
    return chunk.kind === JPEG ? place : this.#kept.findLastIndex(({ keyframes }, i) => i <= place && keyframes?.includes(0));
  }

  resume() {
    this.paused = false;
    this.#due = performance.now();
  }

  /** @param {Chunk} chunk */
  #keep(chunk) {
    this.#kept.push(chunk);
    this.#bytes += size(chunk);
    while (this.#bytes > MEMORY) this.#bytes -= size(/** @type {Chunk} */ (this.#kept.shift()));
  }

  /** @param {number} now */
  #tick(now) {
    if (this.paused || now < this.#due) return;
    if (now - this.#due > 250) this.#due = now; // the page slept: go on from here, at the same pace
    /** @type {Frame | undefined} */ let latest;
    while (this.#frames.length && now >= this.#due) {
      const next = /** @type {Frame} */ (this.#frames.shift());
      latest?.picture.close();
      latest = { ...next, sent: next.sent ?? latest?.sent ?? null }; // a frame shows what those skipped would have
      const hurry = this.#frames.length > AHEAD * latest.fps ? HURRY : 1;
      this.#due += 1000 / latest.fps / hurry;
    }
    if (latest) {
      this.latest = latest.index;
      this.show(latest);
    }
    if (!this.#frames.length && now >= this.#due) this.#starved = true;
  }
}

/** @param {Chunk} chunk */
const size = ({ parts }) => parts.reduce((sum, part) => sum + part.byteLength, 0);
