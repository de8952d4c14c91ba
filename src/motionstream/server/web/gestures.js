// The gestures of the visitor: those in the stream, those that wait for it to begin, and how to take them back.
//
// Pins and paths outlast a stream: the next one begins with them. A drag lives while it is held; once frames have shown
// that it was let go, it is taken back by going back in time, for the picture has moved on.

import { dotsOf, seconds } from "./connection.js";

/** @typedef {[number, number]} Point x, y in picture pixels; (0, 0) is the centre of the top-left one */
/** @typedef {{gesture: number, kind: "press" | "pin" | "path", x: number, y: number, fields: Record<string, any>,
 *             points: Point[], trail: [number, number, number][], known: boolean, done: boolean, free: boolean,
 *             frame?: number, freed?: number}} Gesture
 *  `fields` go with it to the server; `x`, `y`: where its anchor is; `trail`: x, y, seconds of where a drag went that no
 *  frame has shown yet; `known`: the server has said that it has it; `done`: the server has no use for it any more; `free`:
 *  it was let go; `frame`, `freed`: from which frame on it counts, and is let go */
/** @typedef {{what: "add" | "erase" | "clear", gestures: Gesture[]}} Step */

/** @typedef {{list: Gesture[], ending: [number, "release" | "erase"][], made: [number, {fields: Gesture["fields"], points: Point[]}][]}} Kept
 *  what a reload must not lose */

const MADE = 200; // gestures at most that a reload remembers
const TRAIL = 600; // samples of a drag at most that are kept for later

export class Gestures extends EventTarget {
  /** @type {Gesture[]} in the order they were made */ list = [];
  streaming = false; // hears the server of what is done?
  still = false; // is the stream paused? What is done then is not shown before it goes on
  recorded = false; // can one go back in streams?
  /** @type {Step[]} */ #past = [];
  /** @type {Step[]} */ #future = [];
  /** @type {Set<number>} */ #erased = new Set();
  /** @type {Set<number>} that the server has shown */ #seen = new Set();
  /** @type {Map<number, "release" | "erase">} over here, and the server has not said so */ #ending = new Map();
  /** @type {Set<number>} erased while no stream could be told */ #meanwhile = new Set();
  /** @type {Map<number, {fields: Gesture["fields"], points: Point[]}>} by number, what going back can bring back */ #made = new Map();
  #left = 0; // the first number of those made since the stream was left or ended
  #next = (Date.now() >> 7) & 0x3fffffff; // also after a reload, none is used twice in a stream

  /** @param {(type: string, fields: object, at?: number) => void} send */
  constructor(send) {
    super();
    this.send = send;
  }

  /** What a reload must not lose. @returns {Kept} */
  get kept() {
    return { list: this.list, ending: [...this.#ending], made: [...this.#made].slice(-MADE) };
  }

  /** Take up what was kept. @param {Kept} kept @param {boolean} streams is there a stream that knows them? */
  takeUp({ list, ending, made }, streams) {
    this.list = list.filter(({ kind }) => streams || kind !== "press");
    this.#past = this.list.map((gesture) => ({ what: "add", gestures: [gesture] }));
    if (streams) this.#ending = new Map(ending);
    this.#made = new Map(made);
    this.#changed();
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
    /** @type {Gesture} */ const gesture = { gesture: 0, kind, x, y, fields, points, trail: [], known: false, done: false, free: false };
    this.#did({ what: "add", gestures: [gesture] });
    this.#insert(gesture, at);
    return gesture;
  }

  /** @param {Gesture} gesture @param {[number, number, number][]} samples x, y, seconds */
  move(gesture, samples) {
    [gesture.x, gesture.y] = samples[samples.length - 1];
    if (this.still || !this.streaming) gesture.trail = [...gesture.trail, ...samples].slice(-TRAIL);
    if (this.streaming) this.send("move", { gesture: gesture.gesture, samples });
    this.#changed();
  }

  /** Let a drag go. What no frame can have shown yet stays to be seen, and to be undone. @param {Gesture} gesture @param {number} at */
  release(gesture, at) {
    gesture.free = true;
    this.#end("release", gesture, at);
    if (this.streaming && !this.still) this.#leave(gesture);
    this.#changed();
  }

  /** @param {Gesture} gesture */
  erase(gesture) {
    this.#did({ what: "erase", gestures: [gesture] });
    this.#remove(gesture);
  }

  /** Take the last step back; "back" asks to go back in time for a drag that is over, and is cancelled where that must wait. */
  undo() {
    const step = this.#past.pop();
    if (!step) return;
    const [gesture] = step.gestures;
    const over = step.what === "add" && !this.list.includes(gesture);
    if (step.what !== "add") step.gestures.forEach((each) => this.#insert(each));
    else if (!over) this.#remove(gesture);
    if (!over) this.#future.push(step);
    this.#changed();
    if (over && !this.dispatchEvent(new CustomEvent("back", { detail: gesture.frame, cancelable: true }))) this.#past.push(step);
  }

  redo() {
    const step = this.#future.pop();
    if (!step) return;
    if (step.what === "add") step.gestures.forEach((each) => this.#insert(each));
    else step.gestures.forEach((each) => this.#remove(each));
    this.#past.push(step);
    this.#changed();
  }

  /** A stream has begun: it gets what waited for it. */
  began() {
    this.streaming = true;
    for (const numbers of [this.#seen, this.#ending, this.#meanwhile]) numbers.clear();
    this.#past = this.#past.filter(({ what, gestures: [gesture] }) => what !== "add" || this.list.includes(gesture));
    for (const gesture of this.list) {
      gesture.known = gesture.done = false;
      this.#tell(gesture);
    }
  }

  /** The stream can be steered again, after a lost connection perhaps: it is told what it has not heard. */
  rejoined() {
    this.streaming = true;
    for (const { gesture, x, y, trail, known } of this.list) {
      if (known && trail.length) this.send("move", { gesture, samples: [[x, y, seconds()]] });
    }
    for (const [gesture, what] of this.#ending) this.send(what, { gesture });
    for (const gesture of this.list.filter(({ known }) => !known)) this.#tell(gesture);
    this.#meanwhile.clear();
  }

  /** The server has heard of a gesture. @param {string} command @param {number} number @param {number} [frame] from which it counts */
  answered(command, number, frame) {
    if (this.#ending.get(number) === command) this.#ending.delete(number);
    for (const gesture of [...this.list, ...this.#past.flatMap(({ gestures }) => gestures)]) {
      if (gesture.gesture !== number) continue;
      gesture.known = true;
      if (command === gesture.kind) gesture.frame = frame;
      if (command === "release") gesture.freed = frame;
    }
  }

  /** The stream is over. Drags end with it. */
  ended() {
    this.leave();
    for (const gesture of this.list) gesture.known = gesture.done = false;
    this.#changed();
  }

  /** The stream is left, to go on from an earlier moment of it: what is done from now on is for then. */
  leave() {
    if (this.streaming) {
      this.#meanwhile.clear();
      this.#left = this.#next;
    }
    this.streaming = false;
    this.#ending.clear();
    for (const gesture of this.list.filter(({ kind }) => kind === "press")) this.#forget(gesture);
    this.#changed();
  }

  /**
   * The stream goes on from an earlier moment, with these that hold.
   * @param {[number, string][]} gestures number and kind @param {number} frame the first that will be different
   */
  continued(gestures, frame) {
    const numbers = new Set(gestures.map(([number]) => number));
    const isNew = (/** @type {Gesture} */ { gesture, known }) => !known && gesture >= this.#left && !numbers.has(gesture);
    for (const gesture of this.list.filter((each) => !numbers.has(each.gesture) && !isNew(each))) this.#forget(gesture);
    this.#future = [];
    this.#past = this.#past.filter(({ what, gestures: [gesture] }) =>
      what === "add" && (this.list.includes(gesture) || (gesture.kind === "press" && (gesture.frame ?? frame) < frame)));
    this.#erased = new Set(this.#meanwhile);
    this.#ending.clear();
    this.streaming = true;
    for (const gesture of this.#meanwhile) if (numbers.has(gesture)) this.#end("erase", { gesture });
    this.#meanwhile.clear();
    for (const gesture of this.list) {
      gesture.known = numbers.has(gesture.gesture);
      gesture.done = false;
      if (!gesture.known) this.#tell(gesture);
    }
    this.#changed();
  }

  /** Take on what a chunk shows and this page has not made: it was reloaded. @param {import("./connection.js").Chunk} chunk */
  adopt(chunk) {
    const dots = dotsOf(chunk, chunk.frames - 1);
    for (const [number, kind] of chunk.groups) {
      const own = dots.filter(({ gesture }) => gesture === number);
      if (number < 0 || !own.length || this.#erased.has(number) || this.#ending.has(number)) continue;
      if (this.list.some(({ gesture }) => gesture === number) || (kind === "press" && this.#made.has(number))) continue;
      const [x, y] = [own.reduce((sum, dot) => sum + dot.x, 0) / own.length, own.reduce((sum, dot) => sum + dot.y, 0) / own.length];
      const { fields, points } = this.#made.get(number) ?? { fields: gridOf([x, y], own), points: [/** @type {Point} */ ([x, y])] };
      const place = kind === "press" ? { x, y } : { x: points[0][0], y: points[0][1] };
      this.list.push({
        gesture: number, kind: /** @type {Gesture["kind"]} */ (kind), ...place, fields, points, trail: [], known: true, done: false, free: false,
      });
      this.#seen.add(number);
    }
    this.#changed();
  }

  /** Take all of them away, to be had back by undo. */
  clear() {
    if (this.list.length) this.#did({ what: "clear", gestures: this.list });
    this.list = [];
    this.#changed();
  }

  /** Forget all of them, without telling the server. */
  forget() {
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

  /** These gestures are in the frame shown now. @param {Set<number>} numbers @param {number} frame its index */
  shown(numbers, frame) {
    for (const gesture of this.list) {
      const { gesture: number, free, freed } = gesture;
      const gone = this.#seen.has(number) && !numbers.has(number);
      if (numbers.has(number)) this.#seen.add(number);
      if (numbers.has(number) && !this.still && !free) gesture.trail = [];
      if (gone && gesture.kind === "path" && gesture.fields.release) gesture.done = true;
      if (free && !this.still && (gone || (freed !== undefined && frame >= freed))) {
        this.#leave(gesture);
        this.#changed();
      }
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
    gesture.frame = gesture.freed = undefined;
    this.list.push(gesture);
    this.#made.set(gesture.gesture, { fields: gesture.fields, points: gesture.points });
    if (this.streaming) this.#tell(gesture, at);
    this.#changed();
  }

  /** @param {Gesture} gesture */
  #remove(gesture) {
    this.list = this.list.filter((each) => each !== gesture);
    this.#erased.add(gesture.gesture);
    if (!this.streaming) this.#meanwhile.add(gesture.gesture);
    if (!gesture.done) this.#end("erase", gesture);
    this.#changed();
  }

  /**
   * Have it end in the stream, too: now, or when that can be reached again.
   * @param {"release" | "erase"} what @param {{gesture: number, known?: boolean}} gesture @param {number} [at]
   */
  #end(what, { gesture, known }, at) {
    if (known || this.streaming) this.#ending.set(gesture, what);
    if (this.streaming) this.send(what, { gesture }, at);
  }

  /** @param {Step} step */
  #did(step) {
    this.#past.push(step);
    this.#future = [];
  }

  /** A drag is over; only going back in time undoes it. @param {Gesture} gesture */
  #leave(gesture) {
    if (!this.recorded) return this.#forget(gesture);
    this.list = this.list.filter((each) => each !== gesture);
  }

  /** Nothing can bring it back. @param {Gesture} gesture */
  #forget(gesture) {
    this.list = this.list.filter((each) => each !== gesture);
    const keeps = (/** @type {Step} */ { gestures }) => !gestures.includes(gesture);
    [this.#past, this.#future] = [this.#past.filter(keeps), this.#future.filter(keeps)];
  }

  /** @param {Gesture} gesture @param {number} [at] */
  #tell(gesture, at) {
    const { kind, x, y, fields, points, trail, free } = gesture;
    const [[x0, y0]] = points;
    this.send(kind, { gesture: gesture.gesture, ...(kind === "path" ? { points } : { x: x0, y: y0 }), ...fields }, at);
    if (kind !== "press") return;
    if (free && !this.still && trail.length) return this.#perform(gesture);
    if (x !== x0 || y !== y0) this.send("move", { gesture: gesture.gesture, samples: [[x, y, seconds()]] });
    if (free) this.#end("release", gesture);
  }

  /** A drag that was made and let go before it could be told goes its way once more, as fast as then. @param {Gesture} gesture */
  async #perform(gesture) {
    const { gesture: number, trail } = gesture;
    const begun = seconds();
    for (const [x, y, at] of trail) {
      const wait = begun + at - trail[0][2] - seconds();
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, 1000 * wait));
      if (!this.streaming || gesture.gesture !== number || !this.list.includes(gesture)) return;
      this.send("move", { gesture: number, samples: [[x, y, seconds()]] });
    }
    this.#end("release", gesture);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** A grid that has about these points. @param {Point} centre @param {{x: number, y: number}[]} dots */
function gridOf([x, y], dots) {
  const apart = dots.slice(1).map((dot, i) => Math.hypot(dot.x - dots[i].x, dot.y - dots[i].y));
  return { radius: Math.max(0, ...dots.map((dot) => Math.hypot(dot.x - x, dot.y - y))), spacing: Math.max(1, Math.min(8, ...apart)) };
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
