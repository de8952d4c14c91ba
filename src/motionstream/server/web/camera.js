// The camera: a pad and keys that set its velocities; it rests when they are let go.

import { field, find } from "./page.js";

const PACE = 0.7; // of a held key; the pad's rim is 1
const KEYS = /** @type {Record<string, [string, number, number]>} */ ({ // key: which, axis, sign
  ArrowLeft: ["pan", 0, -1], ArrowRight: ["pan", 0, 1], ArrowUp: ["pan", 1, -1], ArrowDown: ["pan", 1, 1],
  PageUp: ["dolly", 0, 1], PageDown: ["dolly", 0, -1], "+": ["zoom", 0, 1], "=": ["zoom", 0, 1], "-": ["zoom", 0, -1],
});
const OTHERS = "input, textarea, dialog, [role=toolbar], [role=listbox]"; // where these keys have another use

export class Camera {
  /** @type {Record<string, number[]>} */ #velocity = { pan: [0, 0], orbit: [0, 0], dolly: [0], zoom: [0] };
  #said = ""; // what the stream was told last

  /** @param {import("./studio.js").Studio} studio */
  constructor(studio) {
    this.studio = studio;
    this.pad = find("pad");
    this.knob = find("knob");
    this.pad.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.pad.setPointerCapture(event.pointerId);
      this.#steer(event);
    });
    this.pad.addEventListener("pointermove", (event) => this.pad.hasPointerCapture(event.pointerId) && this.#steer(event));
    for (const end of ["pointerup", "pointercancel"]) this.pad.addEventListener(end, () => this.#rest("pan", "orbit"));
    for (const name of ["dolly", "zoom"]) {
      field(name).addEventListener("input", () => this.#set(name, 0, Number(field(name).value)));
      // A finger that scrolls the page has touched it first, and is taken away.
      for (const end of ["pointerup", "pointercancel", "lostpointercapture", "keyup", "blur"]) field(name).addEventListener(end, () => this.#rest(name));
    }
    document.addEventListener("keydown", (event) => this.#key(event, true));
    document.addEventListener("keyup", (event) => this.#key(event, false));
    addEventListener("blur", () => this.#rest("pan", "orbit", "dolly", "zoom"));
    studio.addEventListener("state", () => studio.state === "running" && this.#tell()); // what waited for a stream to go on
    studio.addEventListener("over", () => {
      this.#said = "";
      this.#rest("pan", "orbit", "dolly", "zoom");
    });
  }

  /** @param {PointerEvent} event */
  #steer(event) {
    const box = this.pad.getBoundingClientRect();
    let [x, y] = [2 * (event.clientX - box.left) / box.width - 1, 2 * (event.clientY - box.top) / box.height - 1];
    const length = Math.max(1, Math.hypot(x, y));
    [x, y] = [x / length, y / length];
    this.#velocity[this.#turning] = [x, y].map((value) => Math.abs(value) < 0.08 ? 0 : value); // the middle is rest
    this.#tell();
  }

  /** What the pad does: pan or orbit. */
  get #turning() {
    return /** @type {HTMLInputElement} */ (document.querySelector("input[name=pad]:checked")).value;
  }

  /** @param {KeyboardEvent} event @param {boolean} down */
  #key(event, down) {
    const found = KEYS[event.key];
    const target = /** @type {HTMLElement} */ (event.target);
    if (!found || !this.studio.can("camera")) return;
    const [which, axis, sign] = found;
    const onPad = this.pad.contains(target); // which begins a stream, as a press on it does
    if (down && (event.ctrlKey || event.metaKey || event.altKey || target.closest(OTHERS) || !(this.studio.live || onPad))) return;
    if (down) {
      event.preventDefault();
      if (event.repeat) return;
      const turns = event.shiftKey || (onPad && this.#turning === "orbit");
      this.#set(which === "pan" && turns ? "orbit" : which, axis, sign * PACE);
    } else {
      // Whichever of the two the key was pressed for: Shift may have been let go first.
      for (const name of which === "pan" ? ["pan", "orbit"] : [which]) {
        if (Math.sign(this.#velocity[name][axis]) === sign) this.#set(name, axis, 0);
      }
    }
  }

  /** @param {string} name @param {number} axis @param {number} value */
  #set(name, axis, value) {
    this.#velocity[name][axis] = value;
    this.#tell();
  }

  /** @param {string[]} names */
  #rest(...names) {
    for (const name of names) this.#velocity[name].fill(0);
    this.#tell();
  }

  #tell() {
    const { pan, orbit, dolly: [dolly], zoom: [zoom] } = this.#velocity;
    const [x, y] = orbit.some(Boolean) ? orbit : pan;
    this.knob.style.transform = `translate(calc(${x} * var(--reach)), calc(${y} * var(--reach)))`;
    [field("dolly").value, field("zoom").value] = [String(dolly), String(zoom)];
    const now = { pan, orbit, dolly, zoom };
    const text = JSON.stringify(now);
    const moving = [...pan, ...orbit, dolly, zoom].some(Boolean);
    if (text === this.#said || (!moving && !this.#said)) return;
    if (moving && !this.studio.begin()) return;
    this.#said = text;
    this.studio.change("camera", now);
  }
}
