// The page: what the controls do. Frames, gestures and the protocol are in player.js, stage.js and connection.js.

import { Connection, VERSION, seconds } from "./connection.js";
import { Player } from "./player.js";
import { Stage } from "./stage.js";

/** @template {HTMLElement} T @param {string} id @returns {T} */
const find = (id) => /** @type {T} */ (document.getElementById(id));

const connection = new Connection();
const stage = new Stage(find("stage"), find("video"), find("overlay"));
const player = new Player(show);

/** @type {"offline" | "idle" | "running" | "paused"} */ let state = "offline";
let picture = ""; // the name of the chosen one
let model = ""; // what the server says about it, in words
let starting = false; // asked for a stream that has not begun: what still comes belongs to the one before
let hidden = false; // paused because nobody looks
/** @type {number[]} */ let shownAt = [];

// ------------------------------------------------------------------------------------------ saying things

/** @param {string} text */
function complain(text) {
  const toast = document.createElement("div");
  toast.className = "toast";
  toast.textContent = text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  const toasts = find("toasts");
  toasts.append(toast);
  while (toasts.childElementCount > 3) toasts.firstElementChild?.remove();
  setTimeout(() => toast.remove(), 7000);
}

/** @param {typeof state} next @param {string} [text] */
function become(next, text) {
  state = next;
  const live = state === "running" || state === "paused";
  find("state").textContent = text ?? { offline: "Not connected", idle: `Ready: ${model}`, running: "Streaming", paused: "Paused" }[state];
  find("start").textContent = live ? "Stop" : "Start";
  find("pause").textContent = state === "paused" ? "Resume" : "Pause";
  /** @type {HTMLButtonElement} */ (find("start")).disabled = state === "offline" || !picture;
  /** @type {HTMLButtonElement} */ (find("pause")).disabled = !live;
  find("hint").hidden = live;
}

/** @param {{index: number, picture: ImageBitmap, dots: import("./connection.js").Dot[], sent: number | null}} frame */
function show(frame) {
  stage.frame(frame.picture, frame.dots);
  const now = seconds();
  shownAt = [...shownAt.filter((time) => time > now - 1), now];
  find("frame").textContent = String(frame.index);
  if (frame.sent !== null) find("delay").textContent = `${Math.round((now - frame.sent) * 1000)} ms`;
}

setInterval(() => {
  shownAt = shownAt.filter((time) => time > seconds() - 1);
  find("rate").textContent = `${shownAt.length} fps`;
}, 500);

// ----------------------------------------------------------------------------------------- stream control

function start() {
  if (state === "offline" || !picture) return complain("Choose a picture and wait for the connection");
  player.clear();
  starting = true;
  connection.send("start", {
    protocol: VERSION, picture, prompt: find("prompt").value, seed: Math.floor(Math.random() * 2 ** 31),
  });
  become("running");
}

function stop() {
  if (state !== "running" && state !== "paused") return;
  connection.send("stop");
  player.clear();
  stage.forget();
  become("idle");
}

function pause() {
  if (state !== "running") return;
  connection.send("pause");
  player.pause();
  become("paused");
}

function resume() {
  if (state !== "paused") return;
  connection.send("resume");
  player.resume();
  become("running");
}

const toggleStart = () => (state === "running" || state === "paused" ? stop() : start());
const togglePause = () => (state === "paused" ? resume() : pause());

function reset() {
  stop();
  if (picture) showPicture();
}

connection.addEventListener("hello", (event) => {
  const hello = /** @type {CustomEvent} */ (event).detail;
  if (hello.protocol !== VERSION) return complain("The server was updated; reload the page");
  const size = `${hello.size[1]}x${hello.size[0]} at ${hello.fps} fps`;
  model = `${hello.model}, ${size}${hello.trained ? "" : ", untrained"}`;
  stage.resize(hello.size[0], hello.size[1]);
  const shorter = Math.min(...hello.size);
  for (const [id, value] of [["radius", shorter / 8], ["spacing", shorter / 16]]) {
    const slider = /** @type {HTMLInputElement} */ (find(String(id)));
    slider.max = String(id === "radius" ? shorter / 2 : shorter / 4);
    slider.value = String(value);
    slider.dispatchEvent(new Event("input"));
  }
  become("idle");
  if (!find("gallery").childElementCount) loadGallery();
});
connection.addEventListener("closed", () => {
  starting = false;
  player.clear();
  stage.forget();
  become("offline", "Not connected, trying again");
});
connection.addEventListener("chunk", (event) => {
  if (starting || (state !== "running" && state !== "paused")) return; // on its way when its stream was stopped
  const chunk = /** @type {CustomEvent} */ (event).detail;
  find("step").textContent = `${Math.round(chunk.latency * 1000)} ms`;
  player.push(chunk);
});
connection.addEventListener("failed", (event) => {
  const failed = /** @type {CustomEvent} */ (event).detail;
  complain(failed.message);
  if (failed.fatal && state !== "offline") {
    starting = false;
    player.clear();
    become("idle");
  }
});
connection.addEventListener("started", () => (starting = false));
connection.addEventListener("ended", () => {
  if (!starting && state !== "offline") become("idle");
});

// ----------------------------------------------------------------------------------------------- gestures

stage.addEventListener("gesture", (event) => {
  const { kind, at, ...fields } = /** @type {CustomEvent} */ (event).detail;
  if (state === "idle") start();
  if (state !== "running" && state !== "paused") return;
  connection.send(kind, fields, at);
});
stage.addEventListener("moved", (event) => {
  const { gesture, samples } = /** @type {CustomEvent} */ (event).detail;
  connection.send("move", { gesture, samples });
});
stage.addEventListener("released", (event) => {
  const { gesture, at } = /** @type {CustomEvent} */ (event).detail;
  if (state === "running" || state === "paused") connection.send("release", { gesture }, at);
});
stage.addEventListener("erased", (event) => {
  const { gesture, at } = /** @type {CustomEvent} */ (event).detail;
  if (state === "running" || state === "paused") connection.send("erase", { gesture }, at);
});

// ----------------------------------------------------------------------------------------------- pictures

async function showPicture() {
  const image = new Image();
  image.src = `/api/pictures/${picture}`;
  try {
    await image.decode();
    if (state === "idle") stage.still(image);
  } catch {
    complain("The picture could not be shown; choose another");
  }
}

/** @param {string} name */
async function choose(name) {
  stop();
  picture = name;
  for (const button of find("gallery").children) button.setAttribute("aria-selected", String(button.dataset.name === name));
  become(state);
  await showPicture();
}

/** @param {string} name @param {string} title */
function addThumbnail(name, title) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", title, onclick: () => choose(name) });
  button.setAttribute("role", "option");
  button.dataset.name = name;
  const image = document.createElement("img");
  Object.assign(image, { src: `/api/pictures/${name}`, alt: title, draggable: false });
  button.append(image);
  find("gallery").append(button);
}

async function loadGallery() {
  try {
    const examples = await (await fetch("/api/gallery")).json();
    for (const { name, title, credit } of examples) addThumbnail(name, `${title} (${credit})`);
    if (!picture && examples.length) await choose(examples[0].name);
  } catch {
    complain("The example pictures could not be loaded");
  }
}

/** @param {File | null | undefined} file */
async function upload(file) {
  if (!file) return;
  if (file.size > 20 * 2 ** 20) return complain("The file is larger than 20 MB; scale it down first");
  try {
    const answer = await fetch("/api/pictures", { method: "POST", body: file });
    const content = await answer.json();
    if (!answer.ok) return complain(content.detail);
    addThumbnail(content.name, `${file.name} (${content.fitted})`);
    await choose(content.name);
  } catch {
    complain("The picture could not be sent; is the server still running?");
  }
}

/** @param {DataTransfer | null} data */
const pictureIn = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));

find("file").addEventListener("change", (event) => upload(/** @type {HTMLInputElement} */ (event.target).files?.[0]));
document.addEventListener("paste", (event) => upload(pictureIn(event.clipboardData)));
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
  const file = pictureIn(event.dataTransfer);
  if (file) upload(file);
  else complain("Drop a picture file: PNG, JPEG, WebP, BMP, GIF or TIFF");
});

// ----------------------------------------------------------------------------------------------- controls

find("start").addEventListener("click", toggleStart);
find("pause").addEventListener("click", togglePause);
find("reset").addEventListener("click", reset);
find("prompt").addEventListener("change", () => {
  if (state === "running" || state === "paused") connection.send("prompt", { prompt: find("prompt").value });
});
for (const id of /** @type {const} */ (["radius", "spacing"])) {
  const slider = /** @type {HTMLInputElement} */ (find(id));
  const update = () => {
    stage.grid[id] = Number(slider.value);
    find(`${id}-value`).textContent = `${slider.value} px`;
  };
  slider.addEventListener("input", update);
  update();
}
find("points").addEventListener("change", (event) => {
  stage.showPoints = /** @type {HTMLInputElement} */ (event.target).checked;
  stage.draw();
});
for (const button of document.querySelectorAll(".mode")) {
  button.addEventListener("click", () => {
    stage.mode = /** @type {any} */ (button).dataset.mode;
    document.querySelectorAll(".mode").forEach((each) => each.setAttribute("aria-checked", String(each === button)));
  });
}
document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || target.closest("input, button, textarea")) return;
  const act = { Enter: toggleStart, " ": togglePause }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden && state === "running") {
    hidden = true;
    pause();
  } else if (!document.hidden && hidden) {
    hidden = false;
    resume();
  }
});

const saved = localStorage.getItem("theme");
if (saved) document.documentElement.dataset.theme = saved;
find("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});

become("offline", "Connecting");
connection.connect();
