// The gestures of the visitor: those in the stream, those that wait for it to begin, and how to take them back.
//
// Pins and paths outlast a stream: the next one begins with them. A drag lives while it is held; let go, it is over
// and cannot be undone, for the picture has moved on.

import { dotsOf } from "./connection.js";

/** @typedef {[number, number]} Point x, y in picture pixels; (0, 0) is the centre of the top-left one */
/** @typedef {{gesture: number, kind: "press" | "pin" | "path", x: number, y: number, fields: Record<string, any>,
 *             points: Point[], known: boolean, done: boolean}} Gesture
 *  `fields` go with it to the server; `x`, `y`: where its anchor is; `known`: the server has said that it has it; `done`:
 *  the server has no use for it any more */
/** @typedef {{what: "add" | "erase", gesture: Gesture}} Step */

export class Gestures extends EventTarget {
  /** @type {Gesture[]} in the order they were made */ list = [];
  streaming = false;
  /** @type {Step[]} */ #past = [];
  /** @type {Step[]} */ #future = [];
  /** @type {Set<number>} */ #erased = new Set();
  /** @type {Set<number>} that the server has shown */ #seen = new Set();
  /** @type {Map<number, "release" | "erase">} over here, and the server has not said so */ #ending = new Map();
  #next = (Date.now() >> 7) & 0x3fffffff; // also after a reload, none is used twice in a stream

  /** @param {(type: string, fields: object, at?: number) => void} send */
  constructor(send) {
    super();
    this.send = send;
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /**
   * A new gesture: told to the server now, or when a stream begins.
   * @param {Gesture["kind"]} kind @param {Point[]} points its place; a path's corners
   * @param {Record<string, any>} fields @param {number} [at] when, in the page's seconds
   */
  add(kind, points, fields, at) {
    const [[x, y]] = points;
    /** @type {Gesture} */ const gesture = { gesture: 0, kind, x, y, fields, points, known: false, done: false };
    this.#past.push({ what: "add", gesture });
    this.#future = [];
    this.#insert(gesture, at);
    return gesture;
  }

  /** @param {Gesture} gesture @param {[number, number, number][]} samples x, y, seconds */
  move(gesture, samples) {
    [gesture.x, gesture.y] = samples[samples.length - 1];
    if (this.streaming) this.send("move", { gesture: gesture.gesture, samples });
    this.#changed();
  }

  /** Let a drag go. @param {Gesture} gesture @param {number} at */
  release(gesture, at) {
    this.#end("release", gesture, at);
    this.#forget(gesture);
    this.#changed();
  }

  /** @param {Gesture} gesture */
  erase(gesture) {
    this.#past.push({ what: "erase", gesture });
    this.#future = [];
    this.#remove(gesture);
  }

  undo() {
    const step = this.#past.pop();
    if (!step) return;
    if (step.what === "add") this.#remove(step.gesture);
    else this.#insert(step.gesture);
    this.#future.push(step);
    this.#changed();
  }

  redo() {
    const step = this.#future.pop();
    if (!step) return;
    if (step.what === "add") this.#insert(step.gesture);
    else this.#remove(step.gesture);
    this.#past.push(step);
    this.#changed();
  }

  /** A stream has begun: it gets what waited for it. */
  began() {
    this.streaming = true;
    this.#seen.clear();
    this.#ending.clear();
    for (const gesture of this.list) {
      gesture.known = gesture.done = false;
      this.#tell(gesture);
    }
  }

  /** The stream can be steered again, after a lost connection perhaps: it is told what it has not heard. */
  rejoined() {
    this.streaming = true;
    for (const [gesture, what] of this.#ending) this.send(what, { gesture });
    for (const gesture of this.list.filter(({ known }) => !known)) this.#tell(gesture);
  }

  /** The server has heard of a gesture. @param {string} command @param {number} number */
  answered(command, number) {
    if (this.#ending.get(number) === command) this.#ending.delete(number);
    for (const gesture of this.list) gesture.known ||= gesture.gesture === number;
  }

  /** The stream is over. Drags end with it. */
  ended() {
    this.streaming = false;
    for (const gesture of this.list.filter(({ kind }) => kind === "press")) this.#forget(gesture);
    for (const gesture of this.list) gesture.known = gesture.done = false;
    this.#ending.clear();
    this.#changed();
  }

  /**
   * The stream goes on from an earlier moment, with these that hold.
   * @param {[number, string][]} gestures number and kind
   */
  continued(gestures) {
    const numbers = new Set(gestures.map(([number]) => number));
    for (const gesture of this.list.filter((each) => !numbers.has(each.gesture))) this.#forget(gesture);
    [this.#past, this.#future] = [[], []];
    this.#erased.clear();
    this.#ending.clear();
    for (const gesture of this.list) gesture.known = true;
    this.streaming = true;
    this.#changed();
  }

  /** Take on what a chunk shows and this page has not made: it was reloaded. @param {import("./connection.js").Chunk} chunk */
  adopt(chunk) {
    const dots = dotsOf(chunk, chunk.frames - 1);
    for (const [number, kind] of chunk.groups) {
      const own = dots.filter(({ gesture }) => gesture === number);
      if (number < 0 || !own.length || this.#erased.has(number) || this.#ending.has(number)) continue;
      if (this.list.some(({ gesture }) => gesture === number)) continue;
      const [x, y] = [own.reduce((sum, dot) => sum + dot.x, 0) / own.length, own.reduce((sum, dot) => sum + dot.y, 0) / own.length];
      const fields = { radius: 0, spacing: 1 };
      this.list.push({ gesture: number, kind: /** @type {Gesture["kind"]} */ (kind), x, y, fields, points: [[x, y]], known: true, done: false });
      this.#seen.add(number);
    }
    this.#changed();
  }

  /** Forget all of them, without telling the server. */
  clear() {
    [this.list, this.#past, this.#future] = [[], [], []];
    this.#changed();
  }

  /** The server refused a gesture. @param {number} number */
  refused(number) {
    const gesture = this.list.find((each) => each.gesture === number);
    if (gesture) this.#forget(gesture);
    this.#changed();
  }

  /** Was it erased here, even if frames on the way still show it? @param {number} number */
  isErased(number) {
    return this.#erased.has(number);
  }

  /** These gestures are in the frame shown now. @param {Set<number>} numbers */
  shown(numbers) {
    for (const gesture of this.list) {
      if (numbers.has(gesture.gesture)) this.#seen.add(gesture.gesture);
      else if (gesture.kind === "path" && gesture.fields.release && this.#seen.has(gesture.gesture)) gesture.done = true;
    }
  }

  /** Has any frame shown it yet? @param {Gesture} gesture */
  isSeen(gesture) {
    return this.#seen.has(gesture.gesture);
  }

  /** @param {Gesture} gesture @param {number} [at] */
  #insert(gesture, at) {
    gesture.gesture = this.#next++; // a number is never used twice
    gesture.known = gesture.done = false;
    this.list.push(gesture);
    if (this.streaming) this.#tell(gesture, at);
    this.#changed();
  }

  /** @param {Gesture} gesture */
  #remove(gesture) {
    this.list = this.list.filter((each) => each !== gesture);
    this.#erased.add(gesture.gesture);
    if (!gesture.done) this.#end("erase", gesture);
    this.#changed();
  }

  /**
   * Have it end in the stream, too: now, or when that can be reached again.
   * @param {"release" | "erase"} what @param {Gesture} gesture @param {number} [at]
   */
  #end(what, { gesture, known }, at) {
    if (known || this.streaming) this.#ending.set(gesture, what);
    if (this.streaming) this.send(what, { gesture }, at);
  }

  /** Nothing can bring it back. @param {Gesture} gesture */
  #forget(gesture) {
    this.list = this.list.filter((each) => each !== gesture);
    this.#past = this.#past.filter((step) => step.gesture !== gesture);
    this.#future = this.#future.filter((step) => step.gesture !== gesture);
  }

  /** @param {Gesture} gesture @param {number} [at] */
  #tell({ gesture, kind, x, y, fields, points }, at) {
    this.send(kind, { gesture, ...(kind === "path" ? { points } : { x, y }), ...fields }, at);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * The points of a grid `spacing` apart within `radius` of a place, those in the picture: as the server lays them.
 * @param {Point} centre @param {{radius: number, spacing: number}} grid @param {{width: number, height: number}} size
 * @returns {Point[]}
 */
export function gridAround([x, y], { radius, spacing }, { width, height }) {
  const steps = Math.floor(radius / spacing);
  /** @type {Point[]} */ const points = [];
  for (let row = -steps; row <= steps; row++) {
    for (let column = -steps; column <= steps; column++) {
      const [px, py] = [x + column * spacing, y + row * spacing];
      const inside = px >= -0.5 && py >= -0.5 && px < width - 0.5 && py < height - 0.5;
      if (inside && Math.hypot(px - x, py - y) <= radius * (1 + 1e-9)) points.push([px, py]);
    }
  }
  return points;
}
