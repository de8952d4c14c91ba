// What can be taken away: the film, the picture shown, the tracks, the session; and a link for others to watch.

import { complain, field, find } from "./page.js";

const FILES = /** @type {const} */ ({ mp4: "mp4", gif: "gif", tracks: "npz", recording: "jsonl" });

const WHAT = /** @type {(keyof FILES)[]} */ (Object.keys(FILES));

/**
 * Take a file of a recording away, or say why that cannot be.
 * @param {string} recording @param {keyof FILES} what @param {() => void} [gone] is called where the server has it no more
 */
export async function download(recording, what, gone) {
  try {
    const answer = await fetch(`/api/sessions/${recording}`); // a link that leads nowhere fails without a word
    if (answer.status === 404) {
      gone?.();
      return complain("The server does not have this recording any more");
    }
    if (!answer.ok) return complain((await answer.json()).detail);
  } catch {
    return complain("The recording cannot be had: the server cannot be reached");
  }
  const link = document.createElement("a");
  link.href = `/api/sessions/${recording}/${what}`;
  link.download = `motionstream-${recording.slice(0, 8)}.${FILES[what]}`;
  link.click();
}

/** @param {import("./studio.js").Studio} studio @param {import("./stage.js").Stage} stage */
export function setUpExports(studio, stage) {
  const menu = find("exports");
  studio.addEventListener("state", () => {
    const { recording, share } = studio.stream;
    field("export").disabled = !recording;
    field("share").disabled = !share || !studio.live;
    for (const what of WHAT) /** @type {HTMLAnchorElement} */ (find(`export-${what}`)).href = `/api/sessions/${recording}/${what}`;
  });
  for (const what of WHAT) {
    find(`export-${what}`).addEventListener("click", (event) => {
      event.preventDefault();
      if (studio.stream.recording) download(studio.stream.recording, what);
    });
  }
  menu.addEventListener("click", (event) => {
    if (/** @type {HTMLElement} */ (event.target).closest("a, button")) menu.hidePopover();
  });
  menu.addEventListener("beforetoggle", () => {
    const box = find("export").getBoundingClientRect();
    menu.style.right = `${Math.max(8, innerWidth - box.right)}px`;
    menu.style.bottom = `${innerHeight - box.top + 8}px`;
  });
  find("export-picture").addEventListener("click", () => savePicture(stage));
  find("share").addEventListener("click", () => copyLink(`${location.origin}/watch/${studio.stream.share}`));
}

/** The frame shown, at its own size. @param {import("./stage.js").Stage} stage */
function savePicture(stage) {
  const canvas = document.createElement("canvas");
  const { width, height } = stage.picture instanceof ImageBitmap ? stage.picture : stage;
  [canvas.width, canvas.height] = [width, height];
  if (stage.picture) canvas.getContext("2d")?.drawImage(stage.picture, 0, 0, width, height);
  canvas.toBlob((blob) => {
    if (!blob) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "motionstream.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

/** @param {string} link */
async function copyLink(link) {
  const note = find("share-note");
  try {
    await navigator.clipboard.writeText(link);
    note.textContent = "Link copied: whoever has it can watch";
  } catch {
    return complain(`Whoever has this link can watch: ${link}`);
  }
  note.hidden = false;
  setTimeout(() => (note.hidden = true), 3000);
}
