// Following: the picture moves as a video file or the webcam does.

import { seconds } from "./connection.js";
import { Alignment } from "./marks.js";
import { complain, field, find, relabel } from "./page.js";

const LARGEST = 100 * 2 ** 20; // bytes of a file, the server's limit
const SIDE = 320; // pixels of a webcam frame's longer side: motion is followed at that size
const APART = 1 / 31; // seconds between webcam frames, at least
const QUALITY = 0.8;
const UNSENT = 128 * 1024; // bytes on their way out, beyond which frames are left out

export class Follow {
  /** @type {{video?: string, height: number, width: number} | null} what is chosen; without `video` the webcam */ #source = null;
  /** @type {MediaStream | null} */ #webcam = null;
  #following = false;
  #accepted = false; // the server has said that it does
  #over = 0; // what is followed in frames before this one has been let go
  #encoding = false; // a webcam frame
  #sent = 0; // when the last webcam frame was

  /** @param {import("./studio.js").Studio} studio @param {import("./stage.js").Stage} stage */
  constructor(studio, stage) {
    this.studio = studio;
    this.view = /** @type {HTMLVideoElement} */ (find("follow-view"));
    this.canvas = document.createElement("canvas");
    this.alignment = new Alignment(
      { element: find("follow-sheet"), size: () => this.#source ?? { width: 1, height: 1 } },
      { element: stage.element, size: () => stage },
    );
    this.#listen();
    this.#show();
  }

  #listen() {
    const { studio, view } = this;
    field("follow-file").addEventListener("change", () => {
      const file = field("follow-file").files?.[0];
      field("follow-file").value = ""; // so that the same file can be chosen again
      if (file) this.open(file);
    });
    find("follow-webcam").hidden = !navigator.mediaDevices || !view.requestVideoFrameCallback;
    find("follow-webcam").addEventListener("click", () => this.#openWebcam());
    find("follow-close").addEventListener("click", () => this.#close());
    find("follow-align").addEventListener("click", () => (this.alignment.room ? this.alignment.add() : this.alignment.clear()));
    find("follow-start").addEventListener("click", () => this.toggle());
    field("follow-repeat").addEventListener("change", () => (view.loop = field("follow-repeat").checked));
    field("follow-mirror").addEventListener("change", () => this.#show());
    view.addEventListener("error", () => view.hasAttribute("src") && this.#show());
    this.alignment.addEventListener("change", () => this.#show());
    studio.addEventListener("hello", () => this.#show());
    studio.addEventListener("state", () => this.#play());
    studio.addEventListener("over", () => this.#become(false));
    studio.addEventListener("branched", () => this.#become(false));
    studio.addEventListener("begin", () => (this.#over = 0));
    studio.addEventListener("accepted", (event) => {
      const { command, frame } = /** @type {CustomEvent} */ (event).detail;
      if (command === "follow") this.#accepted = true;
      if (command === "unfollow") this.#over = frame;
    });
    studio.addEventListener("refused", (event) => {
      const { command } = /** @type {CustomEvent} */ (event).detail;
      if (command === "follow" && !this.#accepted) this.#become(false);
      if (command === "unfollow") this.#over = 0;
    });
    studio.addEventListener("chunk", (event) => {
      /** @type {import("./connection.js").Chunk} */ const chunk = /** @type {CustomEvent} */ (event).detail;
      // A page that was reloaded comes back to a stream that follows something: it can be ended here.
      if (chunk.first >= this.#over && chunk.groups.some(([, kind]) => kind === "follow")) this.#become(true);
    });
  }

  // ---------------------------------------------------------------------------------------------- the source

  /** Send a video file, to be followed. @param {File} file */
  async open(file) {
    if (file.size > LARGEST) return complain("The video is larger than 100 MB; cut it first");
    const note = find("follow-note");
    const before = note.textContent; // what is followed stays until the new one is there
    note.textContent = "Sending…";
    try {
      const answer = await fetch("/api/videos", { method: "POST", body: file });
      const content = await answer.json();
      note.textContent = before;
      if (!answer.ok) return complain(content.detail);
      this.#close();
      const [height, width] = content.size;
      this.#source = { video: content.name, height, width };
      const length = (content.frames / content.fps).toFixed(1);
      note.textContent = `${length} s${content.note ? `; ${content.note}` : ""}`;
      Object.assign(this.view, { src: URL.createObjectURL(file), loop: field("follow-repeat").checked });
      this.#show();
    } catch {
      note.textContent = before;
      complain("The video could not be sent; is the server still running?");
    }
  }

  async #openWebcam() {
    try {
      const webcam = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
      this.#close();
      this.#webcam = webcam;
      this.view.srcObject = webcam;
      await this.view.play();
    } catch (error) {
      this.#close();
      return complain(`The webcam cannot be used: ${/** @type {Error} */ (error).message}`);
    }
    const scale = Math.min(1, SIDE / Math.max(this.view.videoWidth, this.view.videoHeight));
    const [width, height] = [this.view.videoWidth, this.view.videoHeight].map((side) => Math.round(side * scale));
    this.#source = { height, width };
    [this.canvas.width, this.canvas.height] = [width, height];
    this.view.requestVideoFrameCallback((now) => this.#look(now));
    this.#show();
  }

  /** Let the source go, and the webcam with it. */
  #close() {
    this.end();
    for (const track of this.#webcam?.getTracks() ?? []) track.stop();
    if (this.view.src) URL.revokeObjectURL(this.view.src);
    this.#source = this.#webcam = this.view.srcObject = null;
    this.view.removeAttribute("src");
    find("follow-note").textContent = "";
    this.alignment.clear();
  }

  /** The webcam shows another frame: send it. @param {number} now milliseconds */
  #look(now) {
    if (!this.#webcam) return;
    this.view.requestVideoFrameCallback((then) => this.#look(then));
    const { studio, canvas } = this;
    const busy = this.#encoding || !this.#following || studio.state !== "running" || studio.connection.unsent > UNSENT;
    if (busy || now / 1000 - this.#sent < APART) return;
    const at = this.#sent = seconds();
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const mirror = field("follow-mirror").checked;
    pen.setTransform(mirror ? -1 : 1, 0, 0, 1, mirror ? canvas.width : 0, 0);
    pen.drawImage(this.view, 0, 0, canvas.width, canvas.height);
    this.#encoding = true; // one at a time, so that they are sent in their order
    canvas.toBlob(async (blob) => {
      const jpeg = await blob?.arrayBuffer();
      if (jpeg && this.#following) studio.connection.look(jpeg, at);
      this.#encoding = false;
    }, "image/jpeg", QUALITY);
  }

  // ----------------------------------------------------------------------------------------------- following

  toggle() {
    if (this.#following) this.end();
    else this.begin();
  }

  begin() {
    const source = this.#source;
    if (!source) return complain("Choose a video or the webcam to follow first");
    if (!this.studio.begin()) return;
    const what = source.video ? { video: source.video, repeat: field("follow-repeat").checked } : { webcam: [source.height, source.width] };
    this.studio.change("follow", { ...what, align: this.alignment.rows });
    this.#accepted = false;
    if (source.video) this.view.currentTime = 0;
    this.#become(true);
  }

  end() {
    if (!this.#following) return;
    this.studio.change("unfollow", {});
    this.#over = Infinity; // until it is known
    this.#become(false);
  }

  /** @param {boolean} following */
  #become(following) {
    if (this.#following === following) return;
    this.#following = following;
    this.#show();
  }

  /** The preview plays along. */
  #play() {
    if (!this.#source?.video) return;
    if (this.#following && this.studio.state === "running") this.view.play().catch(() => {}); // what cannot be shown is said
    else this.view.pause();
  }

  #show() {
    const [source, { alignment }] = [this.#source, this];
    const mirrored = !source?.video && field("follow-mirror").checked;
    find("follow-source").hidden = !source;
    find("follow-start").hidden = !source && !this.#following;
    if (source) find("follow-sheet").style.setProperty("--ratio", String(source.width / source.height));
    this.view.classList.toggle("mirrored", mirrored);
    find("follow-blind").hidden = !this.view.error;
    find("follow-repeat").closest("label")?.toggleAttribute("hidden", !source?.video);
    find("follow-mirror").closest("label")?.toggleAttribute("hidden", Boolean(source?.video));
    field("follow-align").disabled = field("follow-repeat").disabled = this.#following;
    relabel("follow-align", alignment.room ? "align" : "close", alignment.room ? alignment.count ? "Align a second point" : "Align" : "Do not align");
    relabel("follow-start", this.#following ? "stop" : "follow", this.#following ? "Let go" : "Follow");
    find("follow-start").classList.toggle("primary", !this.#following);
    alignment.show(!this.#following);
    this.#play();
  }
}
