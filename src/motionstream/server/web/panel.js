// The settings at the side: each control shows a setting, and sets it.

import { field, find } from "./page.js";

/** @typedef {import("./settings.js").Settings} Settings @typedef {import("./studio.js").Studio} Studio */

const UNITS = /** @type {const} */ ({ radius: "px", spacing: "px", duration: "s", speed: "px/s", delay: "s" });
const CHECKS = /** @type {const} */ ({ hold: "hold", smooth: "smooth", "let-go": "letGo" });

/** @param {Settings} settings @param {Studio} studio */
export function setUpPanel(settings, studio) {
  for (const id of /** @type {(keyof UNITS)[]} */ (Object.keys(UNITS))) {
    field(id).addEventListener("input", () => settings.set({ [id]: Number(field(id).value) }));
  }
  for (const [id, name] of Object.entries(CHECKS)) {
    field(id).addEventListener("change", () => settings.set({ [name]: field(id).checked }));
  }
  for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=pace]"))) {
    radio.addEventListener("change", () => settings.set({ pace: /** @type {any} */ (radio.value) }));
  }
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-tool][role=radio]"))) {
    button.addEventListener("click", () => settings.set({ tool: /** @type {any} */ (button.dataset.tool) }));
  }
  find("points").addEventListener("click", () => settings.set({ points: !settings.points }));
  settings.addEventListener("change", () => showSettings(settings));
  showSettings(settings);
  setUpGeneration(studio);
}

/** @param {Settings} settings */
function showSettings(settings) {
  for (const id of /** @type {(keyof UNITS)[]} */ (Object.keys(UNITS))) {
    field(id).value = String(settings[id]);
    find(`${id}-value`).textContent = `${settings[id]} ${UNITS[id]}`;
  }
  for (const [id, name] of Object.entries(CHECKS)) field(id).checked = settings[name];
  for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=pace]"))) {
    radio.checked = radio.value === settings.pace;
  }
  for (const row of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-pace]"))) {
    row.hidden = row.dataset.pace !== settings.pace;
  }
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-tool][role=radio]"))) {
    button.setAttribute("aria-checked", String(button.dataset.tool === settings.tool));
  }
  for (const part of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-for]"))) {
    part.classList.toggle("of-another-tool", part.dataset.for !== settings.tool);
  }
  find("points").setAttribute("aria-pressed", String(settings.points));
}

/** The model's size decides what a grid may be. @param {Settings} settings @param {[number, number]} size height, width */
export function fitGrid(settings, [height, width]) {
  const shorter = Math.min(height, width);
  field("radius").max = String(shorter / 2);
  field("spacing").max = String(shorter / 4);
  field("speed").max = String(2 * shorter);
  settings.set({ radius: shorter / 8, spacing: shorter / 16 });
}

/** Prompt and seed. @param {Studio} studio */
function setUpGeneration(studio) {
  const prompt = /** @type {HTMLTextAreaElement} */ (/** @type {unknown} */ (find("prompt")));
  const say = () => {
    const text = prompt.value.replaceAll("\n", " ").trim();
    if (text === studio.prompt) return;
    studio.prompt = text;
    studio.change("prompt", { prompt: text });
  };
  prompt.addEventListener("change", say);
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Escape") prompt.value = studio.prompt;
    if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
      event.preventDefault();
      prompt.blur(); // which is a change, where something was changed
    }
  });
  studio.addEventListener("accepted", (event) => {
    const { command, frame } = /** @type {CustomEvent} */ (event).detail;
    if (command === "prompt") find("prompt-note").textContent = `from frame ${frame} on`;
  });
  for (const type of ["begin", "over"]) studio.addEventListener(type, () => (find("prompt-note").textContent = ""));

  const seed = field("seed");
  seed.addEventListener("input", () => {
    seed.value = seed.value.replace(/\D/g, "").slice(0, 10);
    studio.seed = seed.value === "" ? null : Math.min(Number(seed.value), 2 ** 31 - 1);
    seed.value = String(studio.seed ?? "");
  });
  find("same-seed").addEventListener("click", () => {
    studio.seed = studio.stream.seed ?? null;
    seed.value = String(studio.seed ?? "");
  });
  field("adaptive").addEventListener("change", () => {
    studio.adaptive = field("adaptive").checked;
    studio.change("refresh", { adaptive: studio.adaptive });
  });
  const radios = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=steps]"));
  for (const radio of radios) {
    radio.addEventListener("change", () => {
      studio.steps = Number(radio.value);
      studio.change("steps", { steps: studio.steps });
    });
  }
  studio.addEventListener("state", () => {
    if (document.activeElement !== prompt) prompt.value = studio.prompt;
    if (document.activeElement !== seed) seed.value = String(studio.seed ?? "");
    field("adaptive").checked = studio.adaptive;
    for (const radio of radios) radio.checked = Number(radio.value) === (studio.steps ?? studio.stream.steps);
    /** @type {HTMLButtonElement} */ (find("same-seed")).disabled = studio.stream.seed === undefined;
    find("seed-note").textContent = studio.stream.seed === undefined ? "" : `seed ${studio.stream.seed}`;
  });
}
