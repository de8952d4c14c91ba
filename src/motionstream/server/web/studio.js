// What goes on between page and server: which stream runs, and what may be done with it.

import { VERSION } from "./connection.js";
import { complain } from "./page.js";

/** @typedef {"offline" | "idle" | "running" | "paused"} State */
/** @typedef {{model: string, size: [number, number], fps: number, trained: boolean, capabilities: string[]}} Hello */

/** Announces "state" when anything of it has changed, "hello" on every connection, and "begin", "chunk", "over". */
export class Studio extends EventTarget {
  /** @type {State} */ state = "offline";
  /** @type {Hello | null} */ hello = null;
  picture = ""; // the name of the chosen one
  prompt = "";
  /** @type {number | null} null: another one each time */ seed = null;
  /** @type {number | null} null: the model's own */ steps = null;
  /** @type {number | null} of the stream that runs, or ran last */ usedSeed = null;
  /** @type {number | null} of the stream that runs, or ran last */ usedSteps = null;
  problem = ""; // why there is no connection
  #starting = false; // asked for a stream that has not begun: what still comes belongs to the one before

  /** @param {import("./connection.js").Connection} connection @param {import("./gestures.js").Gestures} gestures */
  constructor(connection, gestures) {
    super();
    this.connection = connection;
    this.gestures = gestures;
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ act) =>
      connection.addEventListener(type, (event) => act(/** @type {CustomEvent} */ (event).detail));
    on("hello", (hello) => this.#greeted(hello));
    on("closed", () => this.#closed());
    on("started", (started) => this.#started(started));
    on("chunk", (chunk) => this.live && !this.#starting && this.#tell("chunk", chunk));
    on("accepted", (accepted) => this.#tell("accepted", accepted));
    on("failed", (failed) => this.#failed(failed));
    on("ended", () => !this.#starting && this.live && this.#over());
  }

  /** Is there a stream, playing or paused? */
  get live() {
    return this.state === "running" || this.state === "paused";
  }

  /** May the server be asked for this? @param {string} capability */
  can(capability) {
    return this.hello?.capabilities.includes(capability) ?? false;
  }

  /** Begin a stream unless one is there. Returns whether one is. */
  begin() {
    if (!this.live) this.start();
    return this.live;
  }

  start() {
    if (this.state === "offline" || !this.picture) return complain("Choose a picture and wait for the connection");
    this.#starting = true;
    const seed = this.seed ?? Math.floor(Math.random() * 2 ** 31);
    this.connection.send("start", {
      protocol: VERSION, picture: this.picture, prompt: this.prompt, seed, ...(this.steps && { steps: this.steps }),
    });
    this.#become("running");
    this.#tell("begin");
    this.gestures.began();
  }

  stop() {
    if (!this.live) return;
    this.connection.send("stop");
    this.#over();
  }

  pause() {
    if (this.state !== "running") return;
    this.connection.send("pause");
    this.#become("paused");
  }

  resume() {
    if (this.state !== "paused") return;
    this.connection.send("resume");
    this.#become("running");
  }

  toggleStart() {
    if (this.live) this.stop();
    else this.start();
  }

  togglePause() {
    if (this.state === "paused") this.resume();
    else this.pause();
  }

  /** Another picture; a stream of the one before ends. @param {string} name */
  choose(name) {
    this.stop();
    this.gestures.clear();
    this.picture = name;
    this.#become(this.state);
  }

  /** Tell the stream something that it takes while it runs. @param {string} type @param {object} fields */
  change(type, fields) {
    if (this.live) this.connection.send(type, fields);
  }

  /** @param {any} hello */
  #greeted(hello) {
    if (hello.protocol !== VERSION) return complain("The server was updated; reload the page");
    this.hello = { capabilities: [], ...hello };
    this.problem = "";
    this.#become("idle");
    this.#tell("hello", this.hello);
  }

  #closed() {
    this.#starting = false;
    const wasLive = this.live;
    this.#become("offline");
    if (wasLive) this.#over("offline");
  }

  /** @param {{seed: number, steps?: number}} started */
  #started(started) {
    this.#starting = false;
    this.usedSeed = started.seed;
    this.usedSteps = started.steps ?? null;
    this.#become(this.state);
  }

  /** @param {{message: string, gesture: number | null, command: string | null, fatal: boolean}} failed */
  #failed(failed) {
    if (this.state === "offline") { // while the model loads, or is broken
      this.problem = failed.message;
      return this.#become("offline");
    }
    complain(failed.message);
    if (failed.gesture !== null && failed.command !== "erase") this.gestures.refused(failed.gesture);
    if (!failed.fatal) return;
    this.#starting = false;
    if (this.live) this.#over();
  }

  /** @param {State} [state] */
  #over(state = "idle") {
    this.#become(state);
    this.gestures.ended();
    this.#tell("over");
  }

  /** @param {State} state */
  #become(state) {
    this.state = state;
    this.#tell("state");
  }

  /** @param {string} type @param {unknown} [detail] */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
