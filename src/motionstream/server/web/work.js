// What a reload must not lose: the picture, the sentence, the seed, the gestures. Kept in the tab's own storage.

import { uploads } from "./pictures.js";

/** @typedef {{picture: string, prompt: string, seed: number | null, steps: number | null, adaptive: boolean,
 *             told: import("./studio.js").Told, uploads: import("./pictures.js").Upload[],
 *             gestures: import("./gestures.js").Kept}} Work */

/**
 * Take up what was there when the page was left, and keep it when it is left again.
 * @param {import("./studio.js").Studio} studio @param {import("./gestures.js").Gestures} gestures
 * @param {() => void} leave is called before it is kept
 */
export function keepWork(studio, gestures, leave) {
  try {
    const saved = JSON.parse(sessionStorage.getItem("work") ?? "null");
    if (saved) takeUp(saved, studio, gestures);
  } catch {
    // not ours, or of another version
  }
  sessionStorage.removeItem("work");
  addEventListener("pagehide", () => {
    leave();
    const { picture, prompt, seed, steps, adaptive, told } = studio;
    /** @type {Work} */ const work = { picture, prompt, seed, steps, adaptive, told, uploads, gestures: gestures.kept };
    sessionStorage.setItem("work", JSON.stringify(work));
  });
}

/** @param {Work} work @param {import("./studio.js").Studio} studio @param {import("./gestures.js").Gestures} gestures */
function takeUp({ uploads: sent, gestures: kept, ...rest }, studio, gestures) {
  Object.assign(studio, rest);
  uploads.push(...sent);
  gestures.takeUp(kept, sessionStorage.getItem("stream") !== null);
}
