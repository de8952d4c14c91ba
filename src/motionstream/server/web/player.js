// Plays chunks at their rate from a small jitter buffer.

/** @typedef {import("./connection.js").Chunk} Chunk @typedef {import("./connection.js").Dot} Dot */
/** @typedef {{index: number, picture: ImageBitmap, dots: Dot[], fps: number, sent: number | null}} Frame */

const JITTER = 40; // milliseconds that the first frame after a pause or a gap waits, so that the rest flow
const AHEAD = 1.2; // seconds of frames beyond which the player hurries
const HURRY = 1.15;

export class Player {
  /** @type {Frame[]} */ #frames = [];
  #due = 0; // when the next frame is to be shown
  #starved = true;
  #generation = 0; // counts `clear`s: what was being decoded before one is not played after it
  #decoding = Promise.resolve();
  paused = false;

  /** @param {(frame: Frame) => void} show */
  constructor(show) {
    this.show = show;
    const tick = (/** @type {number} */ now) => {
      this.#tick(now);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  /** Take a chunk; chunks play in the order in which they are pushed. @param {Chunk} chunk */
  push(chunk) {
    const generation = this.#generation;
    const pictures = Promise.all(chunk.pictures.map((picture) => createImageBitmap(picture)));
    this.#decoding = this.#decoding.then(async () => {
      const decoded = await pictures;
      if (generation !== this.#generation) return decoded.forEach((picture) => picture.close());
      decoded.forEach((picture, i) => {
        const last = i === decoded.length - 1; // by then the whole gesture has been shown
        this.#frames.push({
          index: chunk.first + i, picture, dots: chunk.dots[i], fps: chunk.fps, sent: last ? chunk.sent : null,
        });
      });
      if (this.#starved) {
        this.#starved = false;
        this.#due = performance.now() + JITTER;
      }
    }).catch((error) => console.error("a chunk could not be decoded", error));
  }

  /** Forget everything not shown yet. */
  clear() {
    this.#generation++;
    this.#frames.forEach((frame) => frame.picture.close());
    this.#frames = [];
    this.#starved = true;
    this.paused = false;
  }

  pause() {
    this.paused = true;
  }

  resume() {
    this.paused = false;
    this.#due = performance.now();
  }

  /** @param {number} now */
  #tick(now) {
    if (this.paused || now < this.#due) return;
    if (now - this.#due > 250) this.#due = now; // the page slept: go on from here, at the same pace
    /** @type {Frame | undefined} */ let latest;
    while (this.#frames.length && now >= this.#due) {
      latest?.picture.close();
      latest = /** @type {Frame} */ (this.#frames.shift());
      const hurry = this.#frames.length > AHEAD * latest.fps ? HURRY : 1;
      this.#due += 1000 / latest.fps / hurry;
    }
    if (latest) {
      this.show(latest);
      latest.picture.close();
    }
    if (!this.#frames.length && now >= this.#due) this.#starved = true;
  }
}
