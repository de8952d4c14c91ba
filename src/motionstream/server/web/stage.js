// The picture on the page: frames scaled up smoothly, what is drawn over them, and pointers as gestures.

import { gridAround } from "./gestures.js";
import { drawOverlay } from "./overlay.js";

/** @typedef {import("./connection.js").Dot} Dot @typedef {import("./gestures.js").Point} Point */
/** @typedef {import("./gestures.js").Gesture} Gesture @typedef {import("./settings.js").Tool} Tool */
/** @typedef {{tool: Tool, x: number, y: number, gesture: Gesture | null, away: Point, line: Point[]}} Pointer
 *  `away`: from the pointer to the anchor of what it drags; `line`: the path it draws */

const REACH = 26; // CSS pixels within which a press finds a point
const SAMPLES = 256; // of one message, the protocol's limit
const CORNERS = 200; // of a drawn path

export class Stage {
  /** @type {Map<number, Pointer>} */ pointers = new Map();
  /** @type {Dot[]} */ dots = [];
  /** @type {CanvasImageSource | null} what is shown */ picture = null;
  /** @type {Point | null} the keyboard's pointer, where it is in use */ crosshair = null;
  /** @type {{object: number, outline: Point[]} | null} what the next gesture takes hold of */ selection = null;
  #request = 1;
  height = 1;
  width = 1;

  /** Asks for the object at a place or in a box. @type {(fields: object) => void} */
  select = () => {};

  /**
   * @param {HTMLElement} element @param {HTMLCanvasElement} video @param {HTMLCanvasElement} overlay
   * @param {import("./settings.js").Settings} settings @param {import("./gestures.js").Gestures} gestures
   * @param {(moves: boolean) => boolean} ready makes sure that a gesture is for what is shown, and that a stream runs
   *   where it `moves`; false where none can
   */
  constructor(element, video, overlay, settings, gestures, ready) {
    this.element = element;
    this.video = video;
    this.overlay = overlay;
    this.settings = settings;
    this.gestures = gestures;
    this.ready = ready;
    new ResizeObserver(() => this.#resize()).observe(element);
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      element.addEventListener(end, (event) => this.#up(/** @type {PointerEvent} */ (event)));
    }
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    for (const source of [settings, gestures]) source.addEventListener("change", () => this.draw());
    gestures.addEventListener("change", () => { // what is undone while it is held is not held any more
      for (const [id, { gesture }] of this.pointers) if (gesture && !gestures.list.includes(gesture)) this.pointers.delete(id);
      this.#pressed();
    });
    settings.addEventListener("change", () => (element.dataset.tool = settings.tool));
  }

  /** The size of the model's frames. @param {number} height @param {number} width */
  resize(height, width) {
    [this.height, this.width] = [height, width];
    this.element.style.setProperty("--ratio", String(width / height));
    this.#resize();
  }

  /** Show a picture, and no points of frames. @param {CanvasImageSource} picture */
  still(picture) {
    this.show(picture, []);
  }

  /**
   * Show a frame; it may be closed when it is not shown any more.
   * @param {CanvasImageSource} picture @param {Dot[]} dots @param {number} [index] of the frame
   */
  show(picture, dots, index = -1) {
    if (this.picture instanceof ImageBitmap && this.picture !== picture) this.picture.close();
    this.picture = picture;
    this.dots = dots;
    if (this.gestures.streaming) this.gestures.shown(new Set(dots.map((dot) => dot.gesture)), index);
    this.#paint();
    this.draw();
  }

  /** Let all pointers go, without telling anyone, and forget the frame's points. */
  forget() {
    this.pointers.clear();
    this.dots = [];
    this.draw();
  }

  /** Let what the pointers are about be: boxes and paths are not drawn, drags are let go, nothing is selected. @param {boolean} [holds] drags are held */
  cancel(holds = false) {
    const [held, at] = [[...this.pointers.values()], performance.now() / 1000];
    this.pointers.clear();
    for (const { gesture } of held) if (gesture && !holds) this.gestures.release(gesture, at);
    this.selection = null;
    this.#pressed();
  }

  draw() {
    drawOverlay(this);
  }

  #resize() {
    const { width, height } = this.element.getBoundingClientRect();
    for (const canvas of [this.video, this.overlay]) {
      const [w, h] = [width, height].map((length) => Math.max(1, Math.round(length * devicePixelRatio)));
      if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    }
    this.#paint(); // a canvas forgets its content when its size is set
    this.draw();
  }

  #paint() {
    if (!this.picture) return;
    const pen = /** @type {CanvasRenderingContext2D} */ (this.video.getContext("2d"));
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.picture, 0, 0, this.video.width, this.video.height);
  }

  /** Where an event is, in picture pixels. @param {MouseEvent} event @returns {Point} */
  #place(event) {
    const box = this.element.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.width - 0.5,
      ((event.clientY - box.top) / box.height) * this.height - 0.5,
    ];
  }

  /** @param {Point} place */
  #inside([x, y]) {
    return x >= -0.5 && y >= -0.5 && x < this.width - 0.5 && y < this.height - 0.5;
  }

  /** The grid of a gesture that begins at a place: around it, or all over the object that is selected there. @param {Point} place */
  #grid(place) {
    const { radius, spacing } = this.settings;
    const selection = this.selection;
    if (!selection || !encloses(selection.outline, place)) return { radius, spacing };
    this.selection = null; // it moves on; its outline does not
    return { radius, spacing, object: selection.object };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0 || this.element.hasAttribute("aria-disabled")) return;
    const place = this.#place(event);
    if (!this.#inside(place)) return;
    const { tool } = this.settings;
    if (tool !== "erase" && !this.ready(tool === "press" || tool === "select")) return;
    if (event.isTrusted) this.element.setPointerCapture(event.pointerId); // the keyboard has none
    const at = event.timeStamp / 1000;
    /** @type {Pointer} */ const pointer = { tool, x: place[0], y: place[1], gesture: null, away: [0, 0], line: [place] };
    if (tool === "pin") {
      this.gestures.add("pin", [place], this.#grid(place), at);
    } else if (tool === "press") {
      pointer.gesture = this.#held(place);
      if (pointer.gesture) pointer.away = [pointer.gesture.x - place[0], pointer.gesture.y - place[1]];
      else pointer.gesture = this.gestures.add("press", [place], this.#grid(place), at);
    } else if (tool === "erase") {
      this.#eraseAt(place);
    }
    if (tool !== "pin") this.pointers.set(event.pointerId, pointer);
    this.#pressed();
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const pointer = this.pointers.get(event.pointerId);
    if (!pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    const places = (events.length ? events : [event]).map((each) => /** @type {const} */ ([this.#place(each), each.timeStamp / 1000]));
    const [place] = places[places.length - 1];
    [pointer.x, pointer.y] = place;
    if (pointer.tool === "erase") return this.#eraseAt(place);
    if (pointer.tool === "path") {
      const near = 2 * (this.width / this.element.clientWidth); // a corner every other CSS pixel at most
      for (const [each] of places) {
        const last = pointer.line[pointer.line.length - 1];
        if (Math.hypot(each[0] - last[0], each[1] - last[1]) >= near) pointer.line.push(each);
      }
    } else if (pointer.gesture) {
      const [dx, dy] = pointer.away;
      const samples = places.slice(-SAMPLES).map(([[x, y], at]) => /** @type {[number, number, number]} */ ([x + dx, y + dy, at]));
      this.gestures.move(pointer.gesture, samples);
    }
    this.draw();
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const pointer = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (pointer?.tool === "select" && event.type === "pointerup") this.#selectAt(pointer);
    if (pointer?.tool === "path" && event.type === "pointerup") this.#addPath(pointer.line);
    if (pointer?.gesture && !this.settings.hold) this.gestures.release(pointer.gesture, event.timeStamp / 1000);
    this.#pressed();
  }

  #pressed() {
    this.element.classList.toggle("pressed", this.pointers.size > 0);
    this.draw();
  }

  /** @param {Pointer} pointer where it was pressed and let go */
  #selectAt({ line: [[left, top]], x, y }) {
    const dragged = Math.hypot(x - left, y - top) * this.element.clientWidth / this.width > 8; // CSS pixels
    const request = this.#request++;
    if (dragged) this.select({ request, box: [Math.min(left, x), Math.min(top, y), Math.max(left, x), Math.max(top, y)] });
    else this.select({ request, x, y });
  }

  /** @param {Point[]} line */
  #addPath(line) {
    if (line.length < 2) return;
    const { pace, delay, smooth, letGo } = this.settings;
    const fields = { ...this.#grid(line[0]), [pace]: this.settings[pace], delay, ease: smooth ? "smooth" : "linear", release: letGo };
    this.gestures.add("path", thin(line, CORNERS), fields);
  }

  /** A drag that was left in place and can be taken up at this point. @param {Point} place */
  #held(place) {
    const drags = this.gestures.list.filter(({ kind, free }) => kind === "press" && !free);
    const taken = new Set([...this.pointers.values()].map(({ gesture }) => gesture));
    return this.#nearest(place, drags.filter((gesture) => !taken.has(gesture)));
  }

  /** @param {Point} place */
  #eraseAt(place) {
    const gesture = this.#nearest(place, this.gestures.list);
    if (gesture && this.ready(false)) this.gestures.erase(gesture);
  }

  /** The gesture with a point, or a stretch of its path, within reach. @param {Point} place @param {Gesture[]} among */
  #nearest([x, y], among) {
    let [nearest, best] = [/** @type {Gesture | null} */ (null), (REACH / this.element.clientWidth) * this.width];
    for (const gesture of among) {
      const shown = this.dots.filter((dot) => dot.gesture === gesture.gesture).map((dot) => /** @type {Point} */ ([dot.x, dot.y]));
      const points = [...(shown.length ? shown : gridAround([gesture.x, gesture.y], /** @type {any} */ (gesture.fields), this)), ...gesture.points.slice(1)];
      const distance = Math.min(...points.map((point) => Math.hypot(point[0] - x, point[1] - y)));
      if (distance <= best) [nearest, best] = [gesture, distance];
    }
    return nearest;
  }
}

/** Is a point inside a closed line? @param {Point[]} outline @param {Point} point */
function encloses(outline, [x, y]) {
  let inside = false;
  outline.forEach(([x0, y0], i) => {
    const [x1, y1] = outline[(i + 1) % outline.length];
    if ((y0 > y) !== (y1 > y) && x < x0 + ((y - y0) * (x1 - x0)) / (y1 - y0)) inside = !inside;
  });
  return inside;
}

/** At most `most` corners of a line, evenly chosen, both ends included. @param {Point[]} line @param {number} most */
function thin(line, most) {
  if (line.length <= most) return line;
  return Array.from({ length: most }, (_, i) => line[Math.round((i * (line.length - 1)) / (most - 1))]);
}
