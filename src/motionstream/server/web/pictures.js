// Where pictures come from: the gallery, a file, the clipboard, a drop, the camera.

import { complain, field, find, sentence } from "./page.js";

/** @typedef {{name: string, title: string, about: string}} Upload */

/** Pictures of the visitor's, which a reload shows again. @type {Upload[]} */
export const uploads = [];
/** @type {Map<string, File>} their files, by name, for a server that has forgotten them */ const files = new Map();

const LARGEST = 20 * 2 ** 20; // bytes, the server's limit

/**
 * @param {(name: string) => void} choose is told the name of the picture to work with
 * @param {(file: File) => void} follow gets a video that is dropped
 */
export function setUpPictures(choose, follow) {
  field("file").addEventListener("change", () => {
    upload(field("file").files?.[0], choose);
    field("file").value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => upload(fileIn(event.clipboardData, "image/"), choose));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    find("stage").classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) find("stage").classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    find("stage").classList.remove("dropping");
    const [file, video] = [fileIn(event.dataTransfer, "image/"), fileIn(event.dataTransfer, "video/")];
    if (file) upload(file, choose);
    else if (video) follow(video);
    else complain("Drop a picture file (PNG, JPEG, WebP, BMP, GIF or TIFF), or a video to follow");
  });
  if (navigator.mediaDevices) setUpCamera(choose);
}

/** Show the examples, and choose the first, unless one is chosen. @param {string} chosen @param {(name: string) => void} choose */
export async function loadGallery(chosen, choose) {
  if (find("gallery").childElementCount) return;
  try {
    const examples = await (await fetch("/api/gallery")).json();
    for (const { name, title, credit } of examples) addThumbnail(name, title, `${title}. ${credit}`, choose);
    for (const { name, title, about } of uploads) addThumbnail(name, title, about, choose);
    if (chosen) markChosen(chosen);
    else if (examples.length) choose(examples[0].name);
  } catch {
    complain("The example pictures could not be loaded; reload the page");
  }
}

/** Mark the picture that is worked with, and say about it what there is to say. @param {string} name */
export function markChosen(name) {
  for (const button of /** @type {Iterable<HTMLElement>} */ (find("gallery").children)) {
    const chosen = button.dataset.name === name;
    button.setAttribute("aria-selected", String(chosen));
    if (chosen) find("fitted").textContent = find("fitted").title = button.dataset.about ?? "";
  }
}

/** @param {DataTransfer | null} data @param {string} kind */
const fileIn = (data, kind) => [...(data?.files ?? [])].find((file) => file.type.startsWith(kind));

/** @param {string} name @param {string} title @param {string} about @param {(name: string) => void} choose */
function addThumbnail(name, title, about, choose) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", title, onclick: () => choose(button.dataset.name ?? name) });
  button.setAttribute("role", "option");
  button.setAttribute("aria-selected", "false");
  Object.assign(button.dataset, { name, about });
  const image = document.createElement("img");
  Object.assign(image, { src: `/api/pictures/${name}`, alt: title, draggable: false });
  button.append(image);
  find("gallery").append(button);
}

/** @param {File | null | undefined} file @param {(name: string) => void} choose */
async function upload(file, choose) {
  if (!file) return;
  if (file.size > LARGEST) return complain("The file is larger than 20 MB; scale it down first");
  const note = find("fitted");
  note.textContent = "Sending…";
  try {
    const answer = await fetch("/api/pictures", { method: "POST", body: file });
    const content = await answer.json();
    if (!answer.ok) return complain(content.detail);
    const made = { name: content.name, title: file.name, about: `${sentence(content.fitted)} ${file.name}` };
    uploads.push(made);
    files.set(made.name, file);
    addThumbnail(made.name, made.title, made.about, choose);
    choose(made.name);
  } catch {
    complain("The picture could not be sent; is the server still running?");
  } finally {
    note.textContent = note.title; // what is said about the picture that is chosen now
  }
}

/** Send a picture again that the server has forgotten. Returns its new name, or null where it cannot be sent. @param {string} name */
export async function sendAgain(name) {
  const [file, upload] = [files.get(name), uploads.find((each) => each.name === name)];
  if (!file || !upload) return null;
  try {
    const answer = await fetch("/api/pictures", { method: "POST", body: file });
    if (!answer.ok) return null;
    const fresh = (await answer.json()).name;
    for (const button of /** @type {Iterable<HTMLElement>} */ (find("gallery").children)) {
      if (button.dataset.name === name) button.dataset.name = fresh;
    }
    upload.name = fresh;
    files.set(fresh, file);
    return fresh;
  } catch {
    return null;
  }
}

/** @param {(name: string) => void} choose */
function setUpCamera(choose) {
  const dialog = /** @type {HTMLDialogElement} */ (find("camera"));
  const view = /** @type {HTMLVideoElement} */ (find("camera-view"));
  find("photograph").hidden = false;
  find("photograph").addEventListener("click", async () => {
    try {
      view.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: 1280, height: 720 } });
    } catch (error) {
      return complain(`The camera cannot be used: ${/** @type {Error} */ (error).message}`);
    }
    dialog.showModal();
    await view.play();
  });
  dialog.addEventListener("close", () => {
    for (const track of /** @type {MediaStream | null} */ (view.srcObject)?.getTracks() ?? []) track.stop();
    view.srcObject = null;
  });
  find("camera-take").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [view.videoWidth, view.videoHeight];
    canvas.getContext("2d")?.drawImage(view, 0, 0);
    canvas.toBlob((blob) => blob && upload(new File([blob], "Camera", { type: blob.type }), choose), "image/jpeg", 0.95);
    dialog.close();
  });
}
