// The time of a stream: where it is, looking back at what was shown, and going on from there.

import { complain, field, find } from "./page.js";

/** @typedef {import("./player.js").Frame} Frame */

export class Timeline {
  #fps = 24;
  #looking = 0; // counts looks: only the latest is shown
  /** @type {Promise<unknown>} the look that is being decoded */ #recalling = Promise.resolve();

  /**
   * @param {import("./studio.js").Studio} studio @param {import("./player.js").Player} player
   * @param {import("./stage.js").Stage} stage
   */
  constructor(studio, player, stage) {
    this.studio = studio;
    this.player = player;
    this.stage = stage;
    this.line.addEventListener("input", () => this.look(Number(this.line.value)));
    find("branch").addEventListener("click", () => this.branch());
    find("now").addEventListener("click", () => this.look(player.latest));
  }

  get line() {
    return field("timeline");
  }

  /** A frame is on the stage. @param {{index: number, fps: number}} frame */
  show({ index, fps }) {
    this.#fps = fps;
    this.line.disabled = false;
    this.line.min = String(this.player.oldest);
    this.line.max = String(Math.max(this.player.latest, index));
    this.line.value = String(index);
    const time = index / fps;
    find("clock").textContent = `${Math.floor(time / 60)}:${(time % 60).toFixed(1).padStart(4, "0")}`;
    this.update();
  }

  /** Look at a frame that was shown before; a stream that plays is paused. @param {number} index */
  async look(index) {
    this.studio.pause();
    const turn = ++this.#looking;
    await this.#recalling;
    if (turn !== this.#looking) return; // a hand that scrubs asks for many: they are not all decoded
    const recalled = this.player.recall(index);
    this.#recalling = recalled.catch(() => null);
    const frame = await recalled;
    if (!frame) return;
    if (turn !== this.#looking || this.studio.state === "running") return frame.picture.close();
    this.stage.show(frame.picture, frame.dots, frame.index);
    this.show(frame);
  }

  /** @param {number} by frames */
  step(by) {
    if (!this.line.disabled) this.look(Math.min(Number(this.line.max), Math.max(Number(this.line.min), Number(this.line.value) + by)));
  }

  /** Go on from the chunk that the frame looked at belongs to, in another way. */
  branch() {
    const chunk = this.player.chunkOf(Number(this.line.value));
    if (!find("past").hidden && chunk?.chunk !== undefined) this.studio.branch(chunk.chunk);
  }

  /** Go back to before a frame, to take back what was done from it on; where that is not known, it has not come yet. @param {number} [frame] */
  goBack(frame = Infinity) {
    const [chunk, last] = [this.player.chunkOf(frame)?.chunk, this.player.last];
    if (chunk !== undefined) this.studio.branch(chunk);
    else if (last?.chunk !== undefined && frame >= last.first) this.studio.branch(last.chunk + 1);
    else complain("That cannot be undone any more: it is too long ago");
  }

  reset() {
    this.#looking++;
    Object.assign(this.line, { min: "0", max: "0", value: "0", disabled: true });
    find("clock").textContent = "0:00.0";
    this.update();
  }

  /** Offer to go on from the past, where it is the past that is shown. */
  update() {
    const { state, stream, watching } = this.studio;
    const back = this.player.latest - Number(this.line.value);
    const over = state === "idle" && this.player.latest >= 0; // after its end a stream can go on, too
    const offered = !this.line.disabled && ((state === "paused" && back > 0) || over) && Boolean(stream.recording) && !watching;
    find("past").hidden = !offered;
    find("past-text").textContent = back > 0 ? `${(back / this.#fps).toFixed(1)} s back` : "The end";
    find("now").hidden = back <= 0;
  }
}
