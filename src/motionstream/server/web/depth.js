// How far away everything in the picture is, for the camera: a map of the visitor's, or a plain guess.

import { complain, field, find } from "./page.js";

const LARGEST = 40 * 2 ** 20; // bytes of a file, the server's limit
const GUESS = "a plain guess, nearest in the middle";

export class Depth {
  #used = GUESS; // by the stream that runs, or the next
  /** @type {Map<string, {file: File, name: string}>} picture → its map, and the name the server gave it */ #maps = new Map();

  /** @param {import("./studio.js").Studio} studio */
  constructor(studio) {
    this.studio = studio;
    field("depth-file").addEventListener("change", () => {
      const file = field("depth-file").files?.[0];
      field("depth-file").value = ""; // so that the same file can be chosen again
      if (file) this.#send(file);
    });
    field("depth-inverse").addEventListener("change", () => {
      const map = this.#maps.get(studio.picture);
      if (map) this.#send(map.file);
    });
    find("depth-forget").addEventListener("click", () => {
      this.#maps.delete(studio.picture);
      this.#show();
    });
    studio.addEventListener("state", () => this.#show());
    studio.connection.addEventListener("started", (event) => {
      // One that was not begun here, or goes on from a recording, may have another map than this page knows.
      const { depth } = /** @type {CustomEvent} */ (event).detail;
      if (depth !== (this.#used !== GUESS)) this.#used = depth ? "a map" : GUESS;
      this.#show();
    });
    this.#show();
  }

  /** Give the picture a map. @param {File} file */
  async #send(file) {
    const { picture } = this.studio;
    if (!picture) return complain("Choose a picture first; a depth map belongs to one");
    if (file.size > LARGEST) return complain("The depth map is larger than 40 MB; scale it down first");
    try {
      const answer = await fetch(`/api/pictures/${picture}/depth?inverse=${field("depth-inverse").checked}`, { method: "POST", body: file });
      const content = await answer.json();
      if (!answer.ok) return complain(content.detail);
      this.#maps.set(picture, { file, name: content.depth });
      this.#show();
    } catch {
      complain("The depth map could not be sent; is the server still running?");
    }
  }

  #show() {
    const { studio } = this;
    const map = this.#maps.get(studio.picture);
    studio.depth = map?.name ?? null;
    find("depth-forget").hidden = !map;
    const otherwise = studio.can("depth-model") ? "estimated by a model" : GUESS;
    const next = map?.file.name ?? otherwise;
    if (!studio.live) this.#used = next;
    find("depth-note").textContent = `Depth: ${this.#used}${next === this.#used ? "" : `. From the next start on: ${next}`}`;
  }
}
