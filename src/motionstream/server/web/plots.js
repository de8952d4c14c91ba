// Small live plots of what the machine does: a number and its last minute.

import { seconds } from "./connection.js";
import { find } from "./page.js";

const SAMPLES = 120;
const EVERY = 500; // milliseconds a sample

class Plot {
  /** @type {(number | null)[]} */ #values = [];

  /** @param {string} name @param {string} title @param {string} hint @param {string} unit @param {number} least the top of its scale, at least */
  constructor(name, title, hint, unit, least) {
    this.unit = unit;
    this.least = least;
    const row = document.createElement("div");
    row.className = "plot";
    row.title = hint;
    const label = document.createElement("span");
    label.textContent = title;
    this.canvas = document.createElement("canvas");
    this.output = document.createElement("output");
    this.output.id = `plot-${name}`;
    this.output.textContent = "–";
    row.append(label, this.canvas, this.output);
    find("plots").append(row);
  }

  /** @param {number | null} value @param {string} [text] */
  add(value, text) {
    this.#values = [...this.#values.slice(1 - SAMPLES), value];
    if (value !== null) this.output.textContent = text ?? `${Math.round(value)} ${this.unit}`;
    this.draw();
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((length) => Math.round(length * devicePixelRatio));
    if (!width) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const style = getComputedStyle(canvas);
    const top = Math.max(this.least, ...this.#values.map((value) => value ?? 0)) * 1.1;
    const x = (/** @type {number} */ i) => ((i + SAMPLES - this.#values.length) / (SAMPLES - 1)) * width;
    const y = (/** @type {number} */ value) => height - devicePixelRatio - (value / top) * (height - 2 * devicePixelRatio);
    pen.clearRect(0, 0, width, height);
    pen.lineWidth = devicePixelRatio;
    pen.strokeStyle = style.getPropertyValue("--line");
    pen.beginPath();
    pen.moveTo(0, height - devicePixelRatio / 2);
    pen.lineTo(width, height - devicePixelRatio / 2);
    pen.stroke();
    pen.lineWidth = 1.5 * devicePixelRatio;
    pen.strokeStyle = style.getPropertyValue("--accent");
    pen.beginPath();
    this.#values.forEach((value, i) => {
      if (value === null) return;
      const goesOn = i > 0 && this.#values[i - 1] !== null;
      if (goesOn) pen.lineTo(x(i), y(value));
      else pen.moveTo(x(i), y(value));
    });
    pen.stroke();
  }
}

/** How the time of a chunk is spent: a bar of its stages, and their milliseconds. */
class Stages {
  #bar = document.createElement("div");
  #words = document.createElement("p");

  constructor() {
    this.#bar.className = "stages";
    this.#words.className = "note";
    this.#words.id = "plot-stages";
    find("plots").append(this.#bar, this.#words);
    for (const part of [this.#bar, this.#words]) part.hidden = true;
  }

  /** @param {Record<string, number>} stages seconds of each */
  show(stages) {
    const names = Object.keys(stages);
    if (this.#bar.childElementCount !== names.length) this.#bar.replaceChildren(...names.map(() => document.createElement("span")));
    names.forEach((name, i) => {
      const part = /** @type {HTMLElement} */ (this.#bar.children[i]);
      part.style.flexGrow = String(stages[name]);
      part.title = name;
    });
    this.#words.textContent = names.map((name) => `${name} ${Math.round(stages[name] * 1000)}`).join(" · ") + " ms";
    for (const part of [this.#bar, this.#words]) part.hidden = false;
  }
}

/** Collects what is to be plotted, and plots it twice a second while a stream plays. */
export class Plots {
  #rate = new Plot("rate", "Frames shown", "Frames shown in the last second", "fps", 30);
  #step = new Plot("step", "Chunk", "From the cut of the tracks to the frames, on the server", "ms", 200);
  #delay = new Plot("delay", "Pointer to picture", "From the latest movement of the pointer to the frame that shows it", "ms", 500);
  #queue = new Plot("queue", "Frames waiting", "Frames that have come and are not shown yet; in brackets, those dropped because this page was too slow", "", 24);
  #stages = new Stages();
  /** @type {number[]} */ #shown = [];
  /** @type {number | null} */ #latency = null;
  /** @type {number | null} */ #reaction = null;
  #dropped = 0;

  /** @param {() => boolean} playing @param {() => number} waiting how many frames */
  constructor(playing, waiting) {
    setInterval(() => playing() && this.#sample(waiting()), EVERY);
  }

  draw() {
    for (const plot of [this.#rate, this.#step, this.#delay, this.#queue]) plot.draw();
  }

  clear() {
    [this.#shown, this.#latency, this.#reaction, this.#dropped] = [[], null, null, 0];
  }

  /** @param {{latency: number, dropped: number, stages?: Record<string, number>}} chunk that has come */
  came(chunk) {
    this.#latency = chunk.latency * 1000;
    this.#dropped += chunk.dropped;
    if (chunk.stages) this.#stages.show(chunk.stages);
  }

  /** A frame is shown. @param {number | null} sent when the latest thing it shows was done */
  shown(sent) {
    const now = seconds();
    this.#shown.push(now);
    if (sent !== null) this.#reaction = (now - sent) * 1000;
  }

  /** @param {number} waiting */
  #sample(waiting) {
    this.#shown = this.#shown.filter((time) => time > seconds() - 1);
    this.#rate.add(this.#shown.length);
    this.#step.add(this.#latency);
    this.#delay.add(this.#reaction);
    this.#queue.add(waiting, this.#dropped ? `${waiting} (−${this.#dropped})` : String(waiting));
    this.#reaction = null; // plotted once: between gestures there is nothing to react to
  }
}
