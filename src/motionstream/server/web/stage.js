// The picture on the page: frames scaled up smoothly, the points over them, and pointers as gestures.

import { seconds } from "./connection.js";

/** @typedef {import("./connection.js").Dot} Dot */
/** @typedef {{radius: number, spacing: number}} Grid */

const REACH = 28; // CSS pixels within which erasing finds a point
const SAMPLES = 256; // of one message, the protocol's limit

export class Stage extends EventTarget {
  /** @type {"press" | "pin" | "erase"} */ mode = "press";
  /** @type {Grid} */ grid = { radius: 16, spacing: 8 };
  showPoints = true;
  /** @type {Dot[]} */ #dots = [];
  /** @type {CanvasImageSource | null} */ #still = null;
  /** @type {Map<number, {gesture: number, x: number, y: number, mode: string}>} */ #pointers = new Map();
  #next = 1; // the number of the next gesture
  #height = 1;
  #width = 1;

  /** @param {HTMLElement} element @param {HTMLCanvasElement} video @param {HTMLCanvasElement} overlay */
  constructor(element, video, overlay) {
    super();
    this.element = element;
    this.video = video;
    this.overlay = overlay;
    new ResizeObserver(() => this.#resize()).observe(element);
    element.addEventListener("pointerdown", (event) => this.#down(event));
    element.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      element.addEventListener(end, (event) => this.#up(/** @type {PointerEvent} */ (event)));
    }
    element.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** The size of the model's frames. @param {number} height @param {number} width */
  resize(height, width) {
    [this.#height, this.#width] = [height, width];
    this.element.style.aspectRatio = `${width} / ${height}`;
    this.#resize();
  }

  /** Show a picture and forget all points. @param {CanvasImageSource} picture */
  still(picture) {
    this.#still = picture;
    this.#dots = [];
    this.#paint(picture);
    this.draw();
  }

  /** Show a frame. @param {ImageBitmap} picture @param {Dot[]} dots */
  frame(picture, dots) {
    this.#still = null;
    this.#dots = dots;
    this.#paint(picture);
    this.draw();
  }

  /** Let all pointers go, without telling anyone. */
  forget() {
    this.#pointers.clear();
    this.#dots = [];
    this.draw();
  }

  /** Draw the points of the present frame, and rings where pointers are. */
  draw() {
    const pen = /** @type {CanvasRenderingContext2D} */ (this.overlay.getContext("2d"));
    const scale = this.overlay.width / this.#width;
    const style = getComputedStyle(this.element);
    pen.clearRect(0, 0, this.overlay.width, this.overlay.height);
    const size = 4 * devicePixelRatio;
    const circle = (/** @type {number} */ x, /** @type {number} */ y, /** @type {number} */ r) => {
      pen.beginPath();
      pen.arc((x + 0.5) * scale, (y + 0.5) * scale, r, 0, 2 * Math.PI);
    };
    for (const dot of this.showPoints ? this.#dots : []) {
      circle(dot.x, dot.y, size);
      pen.fillStyle = style.getPropertyValue(dot.kind === "pin" ? "--pin" : "--drag");
      pen.strokeStyle = "#000a";
      pen.lineWidth = devicePixelRatio;
      pen.fill();
      pen.stroke();
    }
    for (const pointer of this.#pointers.values()) {
      if (pointer.mode !== "press") continue;
      circle(pointer.x, pointer.y, Math.max(this.grid.radius * scale, 2 * size));
      pen.strokeStyle = style.getPropertyValue("--drag");
      pen.lineWidth = 2 * devicePixelRatio;
      pen.stroke();
    }
  }

  #resize() {
    const { width, height } = this.element.getBoundingClientRect();
    for (const canvas of [this.video, this.overlay]) {
      // A canvas forgets its content when its size is set; the frame is kept through a copy.
      const [w, h] = [Math.max(1, Math.round(width * devicePixelRatio)), Math.max(1, Math.round(height * devicePixelRatio))];
      if (canvas.width === w && canvas.height === h) continue;
      const copy = canvas === this.video && canvas.width > 1 ? new OffscreenCanvas(canvas.width, canvas.height) : null;
      copy?.getContext("2d")?.drawImage(canvas, 0, 0);
      [canvas.width, canvas.height] = [w, h];
      if (copy && canvas === this.video) this.#paint(this.#still ?? copy);
    }
    this.draw();
  }

  /** @param {CanvasImageSource} picture */
  #paint(picture) {
    const pen = /** @type {CanvasRenderingContext2D} */ (this.video.getContext("2d"));
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, this.video.width, this.video.height);
  }

  /** Where an event is, in picture pixels: (0, 0) is the centre of the top-left pixel. @param {MouseEvent} event */
  #place(event) {
    const box = this.element.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.#width - 0.5,
      y: ((event.clientY - box.top) / box.height) * this.#height - 0.5,
    };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0) return;
    const { x, y } = this.#place(event);
    if (x < -0.5 || y < -0.5 || x >= this.#width - 0.5 || y >= this.#height - 0.5) return;
    this.element.setPointerCapture(event.pointerId);
    if (this.mode === "erase") {
      this.#pointers.set(event.pointerId, { gesture: -1, x, y, mode: "erase" });
      this.#eraseAt(x, y);
      return;
    }
    const gesture = this.#next++;
    this.#tell("gesture", { kind: this.mode, gesture, x, y, ...this.grid, at: event.timeStamp / 1000 });
    // A pin stays; only a drag follows its pointer.
    if (this.mode === "press") this.#pointers.set(event.pointerId, { gesture, x, y, mode: "press" });
    this.draw();
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const pointer = this.#pointers.get(event.pointerId);
    if (!pointer) return;
    Object.assign(pointer, this.#place(event));
    if (pointer.mode === "erase") return this.#eraseAt(pointer.x, pointer.y);
    const events = event.getCoalescedEvents?.() ?? [];
    const samples = (events.length ? events : [event]).slice(-SAMPLES).map((each) => {
      const { x, y } = this.#place(each);
      return [x, y, each.timeStamp / 1000];
    });
    this.#tell("moved", { gesture: pointer.gesture, samples });
    this.draw();
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const pointer = this.#pointers.get(event.pointerId);
    this.#pointers.delete(event.pointerId);
    if (pointer?.mode === "press") this.#tell("released", { gesture: pointer.gesture, at: event.timeStamp / 1000 });
    this.draw();
  }

  /** @param {number} x @param {number} y */
  #eraseAt(x, y) {
    const reach = (REACH / this.element.getBoundingClientRect().width) * this.#width;
    let [nearest, best] = [/** @type {Dot | null} */ (null), reach];
    for (const dot of this.#dots) {
      const distance = Math.hypot(dot.x - x, dot.y - y);
      if (distance <= best) [nearest, best] = [dot, distance];
    }
    if (!nearest) return;
    const { gesture } = nearest;
    this.#dots = this.#dots.filter((dot) => dot.gesture !== gesture);
    this.#tell("erased", { gesture, at: seconds() });
    this.draw();
  }

  /** @param {string} type @param {unknown} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
