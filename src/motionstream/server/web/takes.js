// The latest streams of this browser: to be taken away, or gone on from. The server has them; here is what they look like.

import { download } from "./exports.js";
import { complain, field, find } from "./page.js";

/** @typedef {{recording: string, picture: string, title: string, thumbnail: string, seconds: number}} Take */

const MOST = 8;
const SIDE = 112; // pixels of a thumbnail

export class Takes {
  /** @type {Take[]} the newest first */ #list = [];
  /** @type {Take | null} that the menu is about */ #chosen = null;

  /**
   * @param {import("./studio.js").Studio} studio @param {import("./stage.js").Stage} stage
   * @param {(take: Take) => void} goOn from its end
   */
  constructor(studio, stage, goOn) {
    this.studio = studio;
    this.stage = stage;
    this.#read();
    studio.addEventListener("state", () => this.#show());
    studio.addEventListener("over", () => this.#keep());
    addEventListener("pagehide", () => this.#keep());
    addEventListener("storage", ({ key }) => { // another tab has streamed
      if (key !== "takes") return;
      this.#read();
      this.#show();
    });
    studio.addEventListener("refused", (event) => {
      const { lost } = /** @type {CustomEvent} */ (event).detail;
      if (lost) this.#drop(lost);
    });
    const menu = find("take");
    menu.addEventListener("click", (event) => {
      const what = /** @type {HTMLElement} */ (event.target).closest("button")?.dataset.what;
      const take = this.#chosen;
      if (!what || !take) return;
      menu.hidePopover();
      if (what === "forget") this.#drop(take.recording);
      else if (what !== "go-on") download(take.recording, /** @type {any} */ (what), () => this.#drop(take.recording));
      else if (studio.state === "offline") complain("The stream goes on from here once the server can be reached");
      else goOn(take);
    });
    this.#show();
  }

  #read() {
    try {
      this.#list = JSON.parse(localStorage.getItem("takes") ?? "[]").slice(0, MOST);
    } catch {
      localStorage.removeItem("takes"); // not ours, or of another version
    }
  }

  /** A frame of the stream is on the stage. @param {{index: number, fps: number}} frame */
  shown({ index, fps }) {
    const { recording } = this.studio.stream;
    if (!recording) return;
    const take = this.#list.find((each) => each.recording === recording);
    if (take) {
      take.seconds = (index + 1) / fps;
      if (!this.studio.live) this.#show(); // its last frames
      return;
    }
    const { picture } = this.studio;
    const title = document.querySelector(`#gallery [data-name="${CSS.escape(picture)}"]`)?.getAttribute("title") ?? "Take";
    this.#list = [{ recording, picture, title, thumbnail: this.#thumbnail(), seconds: (index + 1) / fps }, ...this.#list].slice(0, MOST);
    this.#keep();
    this.#show();
  }

  /** What the stage shows, small. */
  #thumbnail() {
    const { width, height } = this.stage;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [Math.round((SIDE * width) / Math.max(width, height)), Math.round((SIDE * height) / Math.max(width, height))];
    if (this.stage.picture) canvas.getContext("2d")?.drawImage(this.stage.picture, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", 0.8);
  }

  /** @param {string} recording */
  #drop(recording) {
    this.#list = this.#list.filter((each) => each.recording !== recording);
    this.#keep();
    this.#show();
  }

  #keep() {
    try {
      localStorage.setItem("takes", JSON.stringify(this.#list));
    } catch {
      return; // there is no room: they are known until the page is left
    }
  }

  #show() {
    const now = this.studio.stream.recording;
    find("takes-note").hidden = this.#list.length > 0;
    find("takes").replaceChildren(...this.#list.map((take) => {
      const button = document.createElement("button");
      const [image, words] = [document.createElement("img"), document.createElement("span")];
      const length = `${take.seconds.toFixed(1)} s`;
      Object.assign(image, { src: take.thumbnail, alt: "", draggable: false });
      words.textContent = this.studio.live && take.recording === now ? "now" : length;
      Object.assign(button, { type: "button", className: "take", title: `${take.title}, ${length}` });
      button.setAttribute("aria-label", `${take.title}, ${length}: take it away, or go on from it`);
      button.setAttribute("aria-current", String(take.recording === now));
      button.append(image, words);
      button.addEventListener("click", () => this.#open(take, button));
      return button;
    }));
  }

  /** @param {Take} take @param {HTMLElement} button */
  #open(take, button) {
    const [menu, box] = [find("take"), button.getBoundingClientRect()];
    this.#chosen = take;
    field("take-go-on").disabled = this.studio.live && take.recording === this.studio.stream.recording;
    find("take-title").textContent = button.title;
    menu.showPopover();
    const { width, height } = menu.getBoundingClientRect();
    menu.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
    menu.style.top = `${box.bottom + 8 + height < innerHeight ? box.bottom + 8 : Math.max(8, box.top - height - 8)}px`;
  }
}
