// Pairs of points that lie on one another: one end on the source's preview, the other on the picture.

/** @typedef {import("./gestures.js").Point} Point */
/** @typedef {{element: HTMLElement, size: () => {width: number, height: number}}} Sheet what is shown, and its size in pixels */
/** @typedef {{source: Mark, picture: Mark}} Pair */

const MOST = 2;
const STEPS = /** @type {Record<string, Point>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] });
const FAR = 8; // pixels of a step with Shift

/** A handle on a sheet: dragged by pointers, moved by arrow keys, in the sheet's pixels. */
class Mark {
  /**
   * @param {Sheet} sheet @param {number} number @param {string} name of the sheet @param {Point} place
   * @param {() => void} remove is called for the Delete key
   */
  constructor(sheet, number, name, place, remove) {
    this.sheet = sheet;
    const handle = this.handle = document.createElement("button");
    Object.assign(handle, { type: "button", className: "aligner", textContent: String(number) });
    handle.setAttribute("aria-label", `Point ${number} of the ${name}: drag it, or move it by arrow keys; Delete removes it`);
    handle.addEventListener("pointerdown", (event) => {
      event.stopPropagation(); // it is no gesture on the picture
      handle.setPointerCapture(event.pointerId);
    });
    handle.addEventListener("pointermove", (event) => {
      event.stopPropagation();
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = sheet.element.getBoundingClientRect();
      const { width, height } = sheet.size();
      this.move([((event.clientX - box.left) / box.width) * width - 0.5, ((event.clientY - box.top) / box.height) * height - 0.5]);
    });
    handle.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (step) this.move([this.place[0] + step[0] * (event.shiftKey ? FAR : 1), this.place[1] + step[1] * (event.shiftKey ? FAR : 1)]);
      else if (event.key === "Delete" || event.key === "Backspace") remove();
      else return;
      event.preventDefault();
      event.stopPropagation(); // nor does it move the camera
    });
    sheet.element.append(handle);
    this.move(place);
  }

  /** @param {Point} place what is beside the sheet comes back to its border */
  move([x, y]) {
    const { width, height } = this.sheet.size();
    /** @type {Point} */ this.place = [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
    this.handle.style.left = `${(100 * (this.place[0] + 0.5)) / width}%`;
    this.handle.style.top = `${(100 * (this.place[1] + 0.5)) / height}%`;
  }
}

/** Up to two pairs. New ones lie on one another already, as the source covers the picture; "change" tells of any. */
export class Alignment extends EventTarget {
  /** @type {Pair[]} */ #pairs = [];

  /** @param {Sheet} source @param {Sheet} picture */
  constructor(source, picture) {
    super();
    this.source = source;
    this.picture = picture;
  }

  /** May there be one more? */
  get room() {
    return this.#pairs.length < MOST;
  }

  get count() {
    return this.#pairs.length;
  }

  /** As the protocol has them: x, y of the source, x, y of the picture. */
  get rows() {
    return this.#pairs.map(({ source, picture }) => [...source.place, ...picture.place]);
  }

  /** One pair more: the first a third from the left, the second from the right. */
  add() {
    if (!this.room) return;
    const number = this.#pairs.length + 1;
    const { width, height } = this.picture.size();
    /** @type {Point} */ const place = [(number * width) / (MOST + 1) - 0.5, height / 2 - 0.5];
    /** @type {Pair} */ const pair = {
      source: new Mark(this.source, number, "source", this.#under(place), () => this.clear(number - 1)),
      picture: new Mark(this.picture, number, "picture", place, () => this.clear(number - 1)),
    };
    this.#pairs.push(pair);
    this.dispatchEvent(new Event("change"));
  }

  /** Take pairs away. @param {number} [from] the first of them */
  clear(from = 0) {
    for (const { source, picture } of this.#pairs.splice(from)) for (const mark of [source, picture]) mark.handle.remove();
    this.dispatchEvent(new Event("change"));
  }

  /** Show the handles or hide them. @param {boolean} shown */
  show(shown) {
    for (const { source, picture } of this.#pairs) for (const mark of [source, picture]) mark.handle.hidden = !shown;
  }

  /** Where the source has what lies at a place of the picture, without any pairs: it covers it, middle on middle. @param {Point} place @returns {Point} */
  #under([x, y]) {
    const [source, picture] = [this.source.size(), this.picture.size()];
    const scale = Math.max(picture.width / source.width, picture.height / source.height);
    const back = (/** @type {number} */ at, /** @type {"width" | "height"} */ side) => (at + 0.5 - picture[side] / 2) / scale + source[side] / 2 - 0.5;
    return [back(x, "width"), back(y, "height")];
  }
}
