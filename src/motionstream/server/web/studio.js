// What goes on between page and server: which stream runs, and what may be done with it.

import { VERSION, seconds } from "./connection.js";
import { complain, sentence } from "./page.js";

/** @typedef {"offline" | "idle" | "waiting" | "starting" | "running" | "paused"} State */
/** @typedef {{model: string, size: [number, number], fps: number, trained: boolean, capabilities: string[], codecs: string[],
 *             limits: Record<string, number>}} Hello */
/** @typedef {{message: string, gesture: number | null, command: string | null, fatal: boolean}} Failed */
/** @typedef {{prompt: string, steps: number | null, adaptive?: boolean}} Told what the stream knows of the settings */
/** @typedef {{seed: number, steps?: number, recording?: string | null, session?: string, share?: string,
 *             frame?: number, paused?: boolean, depth?: boolean}} Started */

const SETTINGS = ["prompt", "steps", "refresh"]; // what a stream is told once, and again where it has not heard it
const GESTURES = ["press", "pin", "path", "move", "release", "erase", "camera"]; // commands that need no answer in line

/**
 * Announces "state" when anything of it has changed, "hello" on every connection, "begin" (from which frame) when
 * frames of a stream will come, "left" and "branched" where a stream is left for an earlier moment and goes on from
 * there, "chunk", "accepted", "refused" and "over".
 */
export class Studio extends EventTarget {
  /** @type {State} */ state = "offline";
  /** @type {Hello | null} */ hello = null;
  picture = ""; // the name of the chosen one
  prompt = "";
  /** @type {number | null} null: another one each time */ seed = null;
  /** @type {number | null} null: the model's own */ steps = null;
  /** @type {Partial<Started>} the stream that runs, or ran last */ stream = {};
  /** @type {string[]} that this browser decodes, best first */ codecs = ["jpeg"];
  /** @type {string | null} name of the picture's depth map; null: a plain guess */ depth = null;
  adaptive = false; // the stream looks at where it is anew, when the first view is left
  /** The chunk to go on from, where what is shown is not the newest of a stream; null: it is. @type {() => number | null} */
  whence = () => null;
  /** Sends a picture again, and says what it is called from now on; null where it cannot. @type {(name: string) => Promise<string | null>} */
  sendAgain = async () => null;
  /** @type {Told} */ told = { prompt: "", steps: null, adaptive: false };
  words = ""; // why there is no picture: no connection, a queue
  #starting = false; // asked for a stream that has not begun: what still comes belongs to the one before
  #branching = ""; // what begins goes on from a recording: what is said of that, "" where it does not
  #from = ""; // the recording that is gone on from
  #rests = false; // what goes on from a recording begins paused
  #deaf = false; // was refused a stream: what was said to it is refused as well, which nobody needs to hear
  #restored = ""; // the picture that was sent again, for a stream that has not begun
  #explained = false; // why there is no connection
  #greeting = false; // has the server said hello on this connection?
  #adopting = false; // the next chunk shows gestures that this page does not know
  #inLine = false; // waits for a free stream, which knows nothing of gestures made before it starts

  /**
   * @param {import("./connection.js").Connection} connection @param {import("./gestures.js").Gestures} gestures
   * @param {boolean} watching is this somebody else's stream, only to be looked at?
   */
  constructor(connection, gestures, watching) {
    super();
    this.connection = connection;
    this.gestures = gestures;
    this.watching = watching;
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ act) =>
      connection.addEventListener(type, (event) => act(/** @type {CustomEvent} */ (event).detail));
    on("hello", (hello) => this.#greeted(hello));
    on("closed", () => this.#closed());
    on("queued", ({ place, of }) => this.#queued(place, of));
    on("replaying", ({ done, of }) => this.#wait(`${this.#branching || "Coming back to the stream"}: ${done} of ${of} chunks`));
    on("started", (started) => this.#started(started));
    on("continued", (continued) => this.#continued(continued));
    on("chunk", (chunk) => this.#came(chunk));
    on("selected", (selected) => this.#tell("selected", selected));
    on("accepted", (accepted) => this.#accepted(accepted));
    on("failed", (failed) => this.#failed(failed));
    on("ended", ({ reason }) => this.#ended(reason));
  }

  /** Is there a stream, playing or paused, or on its way? */
  get live() {
    return this.state !== "offline" && this.state !== "idle";
  }

  /** May the server be asked for this? @param {string} capability */
  can(capability) {
    return this.hello?.capabilities.includes(capability) ?? false;
  }

  /** Begin a stream unless one is there, or go on from what is shown. Returns whether one is there that can be steered. */
  begin() {
    const chunk = this.whence();
    if (chunk !== null) this.branch(chunk);
    else if (!this.live) this.start();
    return this.live && this.state !== "waiting" && !this.watching;
  }

  /**
   * Before a gesture, so that it is for what is shown: where that is the past, the stream goes on from there.
   * @param {boolean} moves does it need a stream? Else it waits for one, or for a paused one to go on
   * @returns {boolean} can it be made?
   */
  ready(moves) {
    if (this.watching) return false;
    if (moves) return this.begin() || this.live;
    const chunk = this.state === "paused" ? this.whence() : null;
    if (chunk !== null) this.branch(chunk, { rests: true });
    return true;
  }

  start() {
    if (this.state === "offline" || !this.picture) return complain("Choose a picture and wait for the connection");
    const seed = this.seed ?? Math.floor(Math.random() * 2 ** 31);
    const { picture, prompt, steps, depth } = this;
    this.told = { prompt, steps, adaptive: false };
    this.#ask("start", { picture, prompt, seed, ...(steps && { steps }), ...(depth && { depth }) });
    this.#become("starting");
    this.#tell("begin", 0);
    this.gestures.began();
  }

  /**
   * Go on from where a chunk of a recorded stream began, in another way.
   * @param {number | undefined} chunk its end when undefined @param {{rests?: boolean, recording?: string | null}} [how] `rests`: paused
   */
  branch(chunk, { rests = false, recording = this.stream.recording } = {}) {
    if (!recording || this.state === "offline") return;
    this.#branching = chunk === undefined ? "Making the take again" : "Going back";
    [this.#rests, this.#from] = [rests, recording];
    this.told = { prompt: this.prompt, steps: this.steps, adaptive: this.adaptive };
    this.gestures.leave();
    this.#ask("start", { recording, chunk });
    this.#wait(this.#branching);
    this.#tell("left");
  }

  stop() {
    if (this.watching) return;
    if (this.state === "offline" && sessionStorage.getItem("stream")) return this.#over("offline"); // it ends by itself
    if (!this.live) return;
    this.connection.send("stop");
    this.#over();
  }

  pause() {
    if (this.state !== "running" && this.state !== "starting") return;
    if (!this.watching) this.connection.send("pause");
    this.#become("paused");
  }

  resume() {
    if (this.state !== "paused") return;
    if (!this.watching) this.connection.send("resume");
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
    this.gestures.forget();
    this.picture = name;
    this.#become(this.state);
  }

  /** Tell the stream something that it takes while it runs. @param {string} type @param {object} fields */
  change(type, fields) {
    if (!this.live || this.state === "waiting") return; // settings are told when it is there
    this.connection.send(type, fields);
    if (SETTINGS.includes(type)) Object.assign(this.told, fields);
  }

  /** The stream is there, perhaps again: it is told the settings that it does not know. */
  #tellSettings() {
    const { prompt, steps, adaptive, told } = this;
    if (prompt !== told.prompt) this.change("prompt", { prompt });
    if (steps && steps !== told.steps) this.change("steps", { steps });
    if (adaptive !== told.adaptive && this.can("refresh")) this.change("refresh", { adaptive });
  }

  /** Tell the server whether this page can be seen: while it cannot, it needs no frames, and where nobody looks none are made. */
  see() {
    this.connection.send("visible", { visible: !document.hidden });
  }

  /** H.264 cannot be decoded here after all: have JPEGs from now on. */
  fallBack() {
    if (this.codecs.length === 1) return complain("The frames cannot be shown in this browser; try another");
    this.codecs = ["jpeg"];
    if (this.watching) this.connection.renew(); // whose address says what is decoded here
    else if (this.live && this.stream.session) this.#rejoin(this.stream.session);
  }

  /** A frame is on the screen that shows what was done at `sent`. @param {number} index @param {number} sent */
  showed(index, sent) {
    if (this.live && this.#acknowledges && !this.watching) this.connection.send("received", { frame: index, delay: Math.max(0, seconds() - sent) });
  }

  /** Does the server want to know what has come? */
  get #acknowledges() {
    return this.hello?.limits.grace !== undefined;
  }

  /** @param {any} hello */
  #greeted(hello) {
    this.#greeting = true;
    if (hello.protocol !== VERSION) return complain("The server was updated; reload the page");
    this.hello = { capabilities: [], ...hello };
    this.gestures.recorded = this.can("recording");
    if (document.hidden) this.see();
    const kept = JSON.parse(sessionStorage.getItem("stream") ?? "null");
    if (kept && !this.watching) {
      this.picture = kept.picture;
      this.#rejoin(kept.session);
    } else {
      this.#become("idle");
    }
    this.#tell("hello");
  }

  /** @param {string} session its secret */
  #rejoin(session) {
    this.#adopting = true;
    this.gestures.streaming = false;
    this.#ask("rejoin", { session });
    this.#wait("Coming back to the stream");
  }

  /** @param {string} type @param {object} fields */
  #ask(type, fields) {
    this.#starting = true;
    this.#deaf = false;
    const choice = (this.hello?.codecs.length ?? 0) > 1 ? { codecs: this.codecs } : {};
    this.connection.send(type, { protocol: VERSION, ...choice, ...fields });
  }

  #closed() {
    this.#starting = false;
    this.gestures.streaming = false; // what is done from now on is told when the stream is there again
    if (!this.#explained) this.words = "Not connected. Trying again…";
    if (!this.#greeting && !this.#explained && !this.watching) this.#askWhy();
    this.#explained = this.#greeting = false;
    // A stream whose secret is known is taken up again; until then everything stays as it is.
    if (this.live && !sessionStorage.getItem("stream")) this.#over("offline");
    else this.#become("offline");
  }

  /** @param {number} place @param {number} of */
  #queued(place, of) {
    this.#inLine = true;
    this.gestures.streaming = false;
    this.#wait(`You are number ${place} of ${of} in line. The stream begins by itself.`);
  }

  /** A browser does not say why a WebSocket was refused, but a request says whether the page may come in at all. */
  async #askWhy() {
    try {
      const answer = await fetch("/api/gallery");
      if (answer.status !== 401 && answer.status !== 403) return;
      this.words = sentence((await answer.json()).detail);
    } catch {
      return; // there is no server: it may come back
    }
    this.connection.giveUp();
    this.#tell("state");
  }

  /** @param {Started} started */
  #started(started) {
    if (this.live && !this.#starting && started.session && started.session === this.stream.session) {
      this.#branching = "The stream was interrupted and is made again"; // its engine was lost; nobody asked for this
      this.gestures.streaming = false;
    }
    this.#starting = false;
    const waited = this.#inLine;
    this.#inLine = false;
    this.stream = started;
    this.#restored = "";
    if (started.session) sessionStorage.setItem("stream", JSON.stringify({ session: started.session, picture: this.picture }));
    if (this.#branching) return this.#wait(this.#branching);
    if (this.#adopting || this.watching) {
      if (!this.watching) this.gestures.rejoined();
      this.#tell("begin", started.frame ?? 0);
    } else if (waited) {
      this.gestures.began();
    }
    if (this.#adopting || this.watching || started.paused) this.#become(started.paused ? "paused" : "running");
    else if (this.state === "waiting") this.#become("starting");
    else this.#tell("state");
    if (!this.watching) this.#tellSettings();
  }

  /** @param {{frame: number, prompt: string, steps: number, gestures: [number, string][], paused: boolean}} continued */
  #continued({ frame, prompt, steps, gestures, paused }) {
    // Its settings are those of then, unless they have been changed since it was asked for.
    if (this.prompt === this.told.prompt) this.prompt = prompt;
    if (this.steps === this.told.steps) this.steps = this.steps && steps;
    this.stream.steps = steps;
    this.told = { prompt, steps, adaptive: this.told.adaptive ? undefined : false };
    if (this.#branching) this.#tell("branched");
    this.#branching = "";
    this.gestures.still = paused || this.#rests;
    this.gestures.continued(gestures, frame);
    if (this.#rests && !paused) this.connection.send("pause");
    this.#adopting = true;
    this.#tell("begin", frame);
    this.#become(paused || this.#rests ? "paused" : "running");
    this.#rests = false;
    this.#tellSettings();
  }

  /** @param {import("./connection.js").Chunk} chunk */
  #came(chunk) {
    if (!this.live || this.#starting) return;
    if (this.#acknowledges) this.connection.send("received", { frame: chunk.first });
    if (this.#adopting && !this.watching) this.gestures.adopt(chunk);
    this.#adopting = false;
    if (this.state === "starting") this.#become("running");
    this.#tell("chunk", chunk);
  }

  /** @param {{command: string, gesture: number | null, frame: number}} accepted */
  #accepted(accepted) {
    if (accepted.gesture !== null) this.gestures.answered(accepted.command, accepted.gesture, accepted.frame);
    this.#tell("accepted", accepted);
  }

  /** @param {Failed} failed */
  #failed(failed) {
    if (this.state === "offline") { // while the model loads, or is broken
      this.words = `${failed.message}. Trying again…`;
      this.#explained = true;
      return this.#become("offline");
    }
    if (!failed.fatal && this.#deaf) return;
    // In line, or before it begins, a stream knows no gestures: it is told them when it does.
    if (!failed.fatal && (this.#inLine || this.#starting) && GESTURES.includes(failed.command ?? "")) return;
    if (failed.fatal && failed.command === "start" && !this.#branching && /picture/.test(failed.message)) return this.#restore(failed);
    this.#refused(failed);
  }

  /** The server has forgotten the picture, as after a restart: it is sent again, if it can be. @param {Failed} failed */
  async #restore(failed) {
    this.#deaf = true;
    this.gestures.streaming = false;
    const { picture } = this;
    const name = picture === this.#restored ? null : await this.sendAgain(picture);
    if (this.state !== "starting" || picture !== this.picture) return;
    if (!name) return this.#refused(failed);
    this.picture = this.#restored = name;
    this.start();
  }

  /** @param {Failed} failed */
  #refused(failed) {
    const lost = this.#branching && failed.fatal && /no session/i.test(failed.message) ? this.#from : null;
    complain(lost ? "The server does not have that stream any more; what you do next begins with the picture" : failed.message);
    this.#tell("refused", { ...failed, lost });
    if (failed.command === "erase" && failed.gesture !== null) this.gestures.answered("erase", failed.gesture);
    else if (failed.gesture !== null) this.gestures.refused(failed.gesture);
    if (!failed.fatal) return; // a command was refused, perhaps while it waits in line: what was asked for still comes
    this.#starting = false;
    this.#deaf = true;
    if (this.#branching) this.stream = {}; // it cannot be gone on from: the next one begins with the picture
    if (this.live) this.#over();
  }

  /** @param {string} reason */
  #ended(reason) {
    if (this.#starting || !this.live) return; // it is the stream before
    if (reason !== "stopped") complain(`The stream has ended: ${reason}`);
    this.#over();
  }

  /** @param {State} [state] */
  #over(state = "idle") {
    sessionStorage.removeItem("stream");
    this.#branching = "";
    this.#adopting = this.#inLine = this.#rests = false;
    this.gestures.ended();
    this.#become(state);
    this.#tell("over");
  }

  /** @param {string} words */
  #wait(words) {
    this.words = words;
    this.#become("waiting");
  }

  /** @param {State} state */
  #become(state) {
    this.state = state;
    this.gestures.still = state === "paused";
    this.#tell("state");
  }

  /** @param {string} type @param {unknown} [detail] */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
