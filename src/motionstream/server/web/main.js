// The page: its parts, and what each tells the others.

import { Camera } from "./camera.js";
import { Connection } from "./connection.js";
import { setUpCrosshair } from "./crosshair.js";
import { Gestures } from "./gestures.js";
import { listKeys, rove, setUpKeys } from "./keys.js";
import { Depth } from "./depth.js";
import { codecs } from "./decoder.js";
import { setUpExports } from "./exports.js";
import { Follow } from "./follow.js";
import { complain, field, find, relabel } from "./page.js";
import { fitGrid, setUpPanel } from "./panel.js";
import { loadGallery, markChosen, sendAgain, setUpPictures } from "./pictures.js";
import { Player } from "./player.js";
import { Plots } from "./plots.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { Studio } from "./studio.js";
import { Takes } from "./takes.js";
import { Timeline } from "./timeline.js";
import { keepWork } from "./work.js";

const settings = new Settings();
const share = location.pathname.match(/^\/watch\/([^/]+)/)?.[1] ?? ""; // a link to look at somebody else's stream
const connection = new Connection(() => (share ? `/ws/watch/${share}?codecs=${studio.codecs}` : "/ws"));
const gestures = new Gestures((type, fields, at) => connection.send(type, fields, at));
const studio = new Studio(connection, gestures, Boolean(share));
const stage = new Stage(
  find("stage"), find("video"), find("overlay"), settings, gestures, (moves) => studio.ready(moves),
);
const player = new Player((frame) => {
  stage.show(frame.picture, frame.dots, frame.index);
  plots.shown(frame.sent);
  if (frame.sent !== null) studio.showed(frame.index, frame.sent);
  timeline.show(frame);
  takes?.shown(frame);
}, () => studio.fallBack());
const plots = new Plots(() => studio.state === "running", () => player.waiting);

// ------------------------------------------------------------------------------------------------ the stream

const can = (/** @type {string} */ capability) => studio.can(capability);

studio.addEventListener("hello", () => {
  const { size, fps, model, trained } = /** @type {import("./studio.js").Hello} */ (studio.hello);
  find("model").textContent = `${model} · ${size[1]} × ${size[0]} · ${fps} fps${trained ? "" : " · untrained"}`;
  if (stage.height !== size[0] || stage.width !== size[1]) {
    stage.resize(size[0], size[1]);
    fitGrid(settings, size);
  }
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-needs]"))) {
    element.hidden = !can(element.dataset.needs ?? "");
  }
  listKeys(shortcuts, can);
  if (share) return;
  loadGallery(studio.picture, choose);
  if (!studio.live && player.latest < 0) showPicture(); // of before a reload
});
studio.addEventListener("begin", (event) => {
  player.clear(/** @type {CustomEvent} */ (event).detail);
  plots.clear();
});
studio.addEventListener("left", () => player.pause());
studio.addEventListener("chunk", (event) => {
  const chunk = /** @type {CustomEvent} */ (event).detail;
  if (chunk.still) return player.still(chunk);
  plots.came(chunk);
  player.push(chunk);
});
studio.addEventListener("over", () => {
  player.end(); // what has come is still shown, the last frame stays, and all of it can be looked at
  stage.forget();
  if (player.latest < 0) showPicture();
});
studio.addEventListener("selected", (event) => {
  const { object, outline } = /** @type {CustomEvent} */ (event).detail;
  stage.selection = { object, outline };
  settings.set({ tool: "press" }); // what one selects, one wants to drag
});
studio.addEventListener("state", showState);

function showState() {
  const { state, live, picture, words } = studio;
  const name = { offline: "Not connected", idle: "Ready", waiting: "Waiting", starting: "Starting…", running: "Streaming", paused: "Paused" }[state];
  find("state").textContent = share && state === "running" ? "Watching" : name;
  find("state").dataset.state = state;
  relabel("start", live ? "stop" : "play", live ? "Stop" : "Start");
  find("start").classList.toggle("primary", !live);
  relabel("pause", state === "paused" ? "play" : "pause", state === "paused" ? "Resume" : "Pause");
  field("start").disabled = state === "offline" || !picture;
  field("pause").disabled = state !== "running" && state !== "paused" && state !== "starting";
  find("hint").hidden = state !== "idle" || (player.latest >= 0 && !share); // then it is said what one may do instead
  if (share) find("hint").textContent = "The stream has ended";
  else find("hint").textContent = "Press on the picture and drag";
  find("notice").hidden = state !== "offline" && state !== "waiting";
  find("notice-text").textContent = words;
  if (state === "paused" || state === "offline") player.pause();
  else if (state === "running" && player.paused) player.resume();
  timeline.update();
}

const timeline = new Timeline(studio, player, stage);

// ---------------------------------------------------------------------------------------------- the picture

/** @param {string} name */
async function choose(name) {
  studio.choose(name);
  markChosen(name);
  await reset();
}

/** Back to the picture, without frames and gestures, which undo brings back. */
async function reset() {
  studio.stop();
  gestures.clear();
  player.clear();
  stage.forget();
  timeline.reset();
  showState();
  await showPicture();
}

/** Go on from the end of an earlier stream. @param {import("./takes.js").Take} take */
async function goOnFrom({ recording, picture, thumbnail }) {
  studio.stop();
  gestures.forget();
  player.clear();
  timeline.reset();
  Object.assign(studio, { picture, stream: {} });
  markChosen(picture);
  const image = Object.assign(new Image(), { src: thumbnail });
  studio.branch(undefined, { recording });
  await image.decode();
  if (player.latest < 0) stage.still(image); // until it has been made again up to there
}

async function showPicture() {
  const { picture } = studio;
  if (!picture) return;
  const image = new Image();
  image.src = `/api/pictures/${picture}`;
  stage.element.setAttribute("aria-busy", "true");
  try {
    await image.decode();
    if (picture !== studio.picture) return; // another was chosen meanwhile
    if (!studio.live && player.latest < 0) stage.still(image);
  } catch {
    const again = studio.state === "offline" ? null : await sendAgain(picture);
    if (picture !== studio.picture) return;
    if (again) {
      studio.picture = again;
      return showPicture();
    }
    complain("The picture could not be shown; choose another");
  }
  stage.element.setAttribute("aria-busy", "false");
}

// ------------------------------------------------------------------------------------------------ the controls

const help = /** @type {HTMLDialogElement} */ (find("help"));
const use = (/** @type {import("./settings.js").Tool} */ tool) => () => settings.set({ tool });
const grow = (/** @type {number} */ by) => {
  settings.set({ radius: Math.min(Number(field("radius").max), Math.max(0, settings.radius + by)) });
};

/** @type {import("./keys.js").Shortcut[]} */
const allShortcuts = [
  { keys: ["enter"], label: "Start or end", group: "Stream", act: () => studio.toggleStart() },
  { keys: [" "], label: "Pause or go on; play what is looked back at", looks: true, group: "Stream", act: () => timeline.togglePlay() || studio.togglePause() },
  { keys: [",", "."], label: "A frame back or on", looks: true, group: "Stream", act: (key) => timeline.step(key === "." ? 1 : -1) },
  { keys: ["b"], label: "Go on from the frame looked at", group: "Stream", act: () => timeline.branch() },
  { keys: ["n"], label: "Anew from this frame", group: "Stream", act: () => timeline.restart(), needs: "restart" },
  { keys: ["←", "→", "↑", "↓"], label: "Pan; with Shift orbit", group: "Camera", needs: "camera" },
  { keys: ["pageup", "pagedown"], label: "Nearer or farther", group: "Camera", needs: "camera" },
  { keys: ["+", "-"], label: "Zoom", group: "Camera", needs: "camera" },
  { keys: ["r"], label: "Back to the picture", group: "Stream", act: reset },
  { keys: ["f"], label: "Follow the video or webcam, or let go", group: "Stream", act: () => follow.toggle(), needs: "follow" },
  { keys: ["d"], label: "Drag", group: "Tools", act: use("press") },
  { keys: ["p"], label: "Pin", group: "Tools", act: use("pin") },
  { keys: ["l"], label: "Draw a path", group: "Tools", act: use("path"), needs: "path" },
  { keys: ["o"], label: "Select an object", group: "Tools", act: use("select"), needs: "select" },
  { keys: ["escape"], label: "Cancel, and let the selection go", group: "Tools", act: () => stage.cancel() },
  { keys: ["e"], label: "Erase", group: "Tools", act: use("erase") },
  { keys: ["[", "]"], label: "Smaller or larger grid", group: "Tools", act: (key) => grow(key === "]" ? 1 : -1) },
  { keys: ["h"], label: "Hold what is let go", group: "Tools", act: () => settings.set({ hold: !settings.hold }) },
  { keys: ["←", "→", "↑", "↓"], label: "Move the crosshair", group: "On the picture, by Tab" },
  { keys: ["enter", " "], label: "Press; let go", group: "On the picture, by Tab" },
  { keys: ["escape"], label: "Cancel", group: "On the picture, by Tab" },
  { keys: ["ctrl+z"], label: "Undo", group: "Page", act: () => gestures.undo() },
  { keys: ["shift+ctrl+z", "ctrl+y"], label: "Redo", group: "Page", act: () => gestures.redo() },
  { keys: ["v"], label: "Show or hide the points", looks: true, group: "Page", act: () => settings.set({ points: !settings.points }) },
  { keys: ["?"], label: "This help", looks: true, group: "Page", act: () => help.showModal() },
];
const shortcuts = allShortcuts.filter(({ looks }) => looks || !share);

if (share) {
  document.body.classList.add("watching");
  stage.element.setAttribute("aria-disabled", "true");
} else {
  setUpPictures(choose, (file) => follow.open(file));
}
setUpPanel(settings, studio);
setUpKeys(shortcuts, can);
for (const id of ["tools", "gallery"]) rove(find(id));
setUpExports(studio, stage);
if (!share) new Camera(studio);
if (!share) setUpCrosshair(stage);
const takes = share ? null : new Takes(studio, stage, goOnFrom);
new Depth(studio);
const follow = new Follow(studio, stage);
stage.select = (fields) => studio.change("select", fields);

find("start").addEventListener("click", () => studio.toggleStart());
find("pause").addEventListener("click", () => studio.togglePause());
find("reset").addEventListener("click", reset);
find("undo").addEventListener("click", () => gestures.undo());
find("redo").addEventListener("click", () => gestures.redo());
find("help-open").addEventListener("click", () => help.showModal());
help.addEventListener("click", (event) => event.target === help && help.close()); // a click beside it
gestures.addEventListener("back", (event) => {
  if (studio.state === "waiting" || studio.state === "starting" || studio.state === "offline") event.preventDefault();
  else timeline.goBack(/** @type {CustomEvent} */ (event).detail);
});
gestures.addEventListener("change", () => {
  field("undo").disabled = !gestures.canUndo;
  field("redo").disabled = !gestures.canRedo;
});

let leaving = false; // the page is being unloaded, perhaps to come back at once: the server sees to that
addEventListener("pagehide", () => (leaving = true));
addEventListener("pageshow", () => (leaving = false));
document.addEventListener("visibilitychange", () => !leaving && studio.see());

const saved = localStorage.getItem("theme");
if (saved) document.documentElement.dataset.theme = saved;
find("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function redraw() {
  stage.draw();
  plots.draw();
}

showState();
if (!share) keepWork(studio, gestures, () => stage.cancel(settings.hold));
studio.sendAgain = sendAgain;
studio.codecs = await codecs();
connection.connect();
