// The time of a stream: where it is, looking back at what was shown, and going on from there.

import { complain, field, find, relabel } from "./page.js";

/** @typedef {import("./player.js").Frame} Frame */

const PAST = "This is the past: Go on from here, or Latest";

export class Timeline {
  #fps = 24;
  #looking = 0; // counts looks: only the latest is shown
  #playing = false; // goes round through what is kept
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
    studio.whence = () => this.whence;
    find("branch").addEventListener("click", () => this.branch());
    find("replay").addEventListener("click", () => this.togglePlay());
    find("restart").addEventListener("click", () => this.restart());
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
    const turn = ++this.#looking;
    this.#standStill();
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

  /** Is what is shown not the newest of a stream that has stopped, for now or for good? */
  get past() {
    const { state } = this.studio;
    return !this.line.disabled && (state === "paused" || state === "idle") && (this.#playing || Number(this.line.value) < this.player.latest);
  }

  /** The chunk to go on from: the one whose beginning is nearest to what is shown, where that is the past or the end; else null. */
  get whence() {
    const { studio, player } = this;
    const { chunk, first = 0, frames = 0 } = player.chunkOf(Number(this.line.value)) ?? {};
    const over = studio.state === "idle" && player.latest >= 0;
    if (chunk === undefined || !studio.stream.recording || studio.watching || !(this.past || over)) return null;
    if (!this.past) return /** @type {number} */ (player.last?.chunk) + 1;
    const [before, after] = [Number(this.line.value) - (first - 1), first + frames - 1 - Number(this.line.value)];
    return before <= after || (!over && player.last?.first === first) ? chunk : chunk + 1;
  }

  /** Go on from the frame looked at, in another way. */
  branch() {
    const { whence } = this;
    if (whence !== null) this.studio.branch(whence);
  }

  /** Go back to before a frame, to take back what was done from it on; where that is not known, it has not come yet. @param {number} [frame] */
  goBack(frame = Infinity) {
    const { studio, player } = this;
    const [chunk, last] = [player.chunkOf(frame)?.chunk, player.last];
    if (chunk !== undefined) studio.branch(chunk, { rests: studio.state === "paused" });
    else if (last?.chunk !== undefined && frame >= last.first) studio.branch(last.chunk + 1, { rests: studio.state === "paused" });
    else complain("That cannot be undone any more: it is too long ago");
  }

  /** Let the frame shown become the picture. */
  restart() {
    if (this.past) complain(PAST);
    else this.studio.change("restart", {});
  }

  /** Play what is kept from the frame shown on, round and round, or stop that. Returns whether there is anything to. */
  togglePlay() {
    const over = this.studio.state === "idle" && this.player.latest >= 0;
    if (!this.past && !over) return false;
    if (this.#playing) this.#looking++;
    else this.#play();
    return true;
  }

  async #play() {
    const turn = ++this.#looking;
    this.#standStill();
    await this.#recalling;
    this.#playing = true;
    const { player, stage } = this;
    const here = Number(this.line.value);
    let due = performance.now();
    try {
      for await (const frame of player.round(here < player.latest ? here : player.oldest)) {
        const wait = due - performance.now();
        if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
        if (turn !== this.#looking || this.studio.live !== (this.studio.state === "paused")) {
          frame.picture.close();
          break;
        }
        stage.show(frame.picture, frame.dots, frame.index);
        this.show(frame);
        due = Math.max(due, performance.now() - 250) + 1000 / frame.fps;
      }
    } catch (error) {
      console.warn("what is kept could not be decoded", error);
    }
    this.#playing = false;
    this.update();
  }

  /** While something earlier is looked at, nothing newer comes over it. */
  #standStill() {
    this.studio.pause();
    if (!this.studio.live) this.player.finish();
  }

  reset() {
    this.#looking++;
    Object.assign(this.line, { min: "0", max: "0", value: "0", disabled: true });
    find("clock").textContent = "0:00.0";
    this.update();
  }

  /** Offer to play the past and to go on from it, where it is the past that is shown. */
  update() {
    const { state, stream, watching, live } = this.studio;
    const back = this.player.latest - Number(this.line.value);
    const over = state === "idle" && this.player.latest >= 0; // after its end a stream can go on, too
    find("past").hidden = this.line.disabled || watching || !(this.past || over);
    find("past-text").textContent = back > 0 ? `${(back / this.#fps).toFixed(1)} s back` : over ? "The end" : "The latest";
    find("branch").hidden = !stream.recording;
    find("now").hidden = back <= 0 && !this.#playing;
    relabel("replay", this.#playing ? "pause" : "play", this.#playing ? "Pause" : "Play");
    field("restart").disabled = !live || this.past;
  }
}
