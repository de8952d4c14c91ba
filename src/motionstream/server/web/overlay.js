// What is drawn over the frames: the points of the tracks, gestures the frames do not show yet, drawn paths, pointers.

import { gridAround } from "./gestures.js";

/** @typedef {import("./gestures.js").Point} Point @typedef {import("./gestures.js").Gesture} Gesture */

const DOT = 3; // CSS pixels, as all lengths here
const SMALL_DOT = 1.6; // of a source that is followed: they are everywhere
const TINTS = /** @type {const} */ ({ press: "--drag", pin: "--pin", path: "--path", follow: "--follow" });

/** @param {import("./stage.js").Stage} stage */
export function drawOverlay(stage) {
  const { overlay, element, settings, gestures, pointers, dots } = stage;
  const pen = /** @type {CanvasRenderingContext2D} */ (overlay.getContext("2d"));
  const style = getComputedStyle(element);
  const tint = (/** @type {string} */ kind) => style.getPropertyValue(TINTS[/** @type {keyof TINTS} */ (kind)] ?? TINTS.press);
  const scale = overlay.width / stage.width;
  const unit = devicePixelRatio;
  const place = (/** @type {Point} */ [x, y]) => /** @type {Point} */ ([(x + 0.5) * scale, (y + 0.5) * scale]);
  pen.clearRect(0, 0, overlay.width, overlay.height);
  pen.lineJoin = pen.lineCap = "round";

  if (settings.points) {
    for (const gesture of gestures.list) {
      if (gesture.done) continue;
      if (gesture.kind === "path") drawLine(pen, gesture.points.map(place), tint("path"), unit);
      const [start] = gesture.points;
      if (gesture.trail.length) { // a drag that no frame has shown: what it takes hold of, and which way it goes
        const way = gesture.trail.map(([x, y]) => /** @type {Point} */ ([x, y]));
        if (!gestures.isSeen(gesture)) {
          way.unshift(start);
          pen.globalAlpha = 0.5;
          drawDots(pen, gridAround(start, /** @type {any} */ (gesture.fields), stage).map(place), tint("press"), unit);
          pen.globalAlpha = 1;
        }
        drawLine(pen, way.map(place), tint("press"), unit);
      }
      // Until a frame shows them, its points are where the visitor put them.
      const waiting = !gestures.streaming || gesture.trail.length || !gestures.isSeen(gesture);
      if (waiting) {
        drawDots(pen, gridAround([gesture.x, gesture.y], /** @type {any} */ (gesture.fields), stage).map(place), tint(gesture.kind), unit);
      }
    }
    for (const kind of ["follow", "press", "path", "pin"]) {
      const shown = dots.filter((dot) => dot.kind === kind && !gestures.isErased(dot.gesture));
      drawDots(pen, shown.map(({ x, y }) => place([x, y])), tint(kind), unit, kind === "follow" ? SMALL_DOT : DOT);
    }
  }
  if (stage.selection) {
    const outline = stage.selection.outline.map(place);
    pen.setLineDash([6 * unit, 5 * unit]);
    pen.beginPath();
    outline.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.closePath();
    stroke(pen, "#fff", unit);
    pen.setLineDash([]);
  }
  if (stage.crosshair) {
    const [x, y] = place(stage.crosshair);
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + 5 * dx * unit, y + 5 * dy * unit);
      pen.lineTo(x + 16 * dx * unit, y + 16 * dy * unit);
    }
    stroke(pen, "#fff", unit);
  }
  for (const pointer of pointers.values()) {
    if (pointer.tool === "select") {
      const [[x0, y0], [x1, y1]] = [place(pointer.line[0]), place([pointer.x, pointer.y])];
      pen.beginPath();
      pen.rect(x0, y0, x1 - x0, y1 - y0);
      stroke(pen, "#fff", unit);
    }
    if (pointer.tool === "path") drawLine(pen, pointer.line.map(place), tint("path"), unit);
    if (pointer.tool !== "press") continue;
    const [x, y] = place([pointer.x, pointer.y]);
    drawRing(pen, x, y, settings.radius * scale + 10 * unit, tint("press"), unit);
  }
}

/** @param {CanvasRenderingContext2D} pen @param {Point[]} points @param {string} colour @param {number} unit @param {number} [radius] */
function drawDots(pen, points, colour, unit, radius = DOT) {
  pen.beginPath();
  for (const [x, y] of points) {
    pen.moveTo(x + radius * unit, y);
    pen.arc(x, y, radius * unit, 0, 2 * Math.PI);
  }
  pen.lineWidth = 2 * unit;
  pen.strokeStyle = "#0009"; // a rim, so that the points stand out on every picture
  pen.stroke();
  pen.fillStyle = colour;
  pen.fill();
}

/** A path with an arrow at its end. @param {CanvasRenderingContext2D} pen @param {Point[]} line @param {string} colour @param {number} unit */
function drawLine(pen, line, colour, unit) {
  if (line.length < 2) return;
  const [end, before] = [line[line.length - 1], line.findLast(([x, y]) => Math.hypot(x - line[line.length - 1][0], y - line[line.length - 1][1]) > 6 * unit) ?? line[0]];
  const angle = Math.atan2(end[1] - before[1], end[0] - before[0]);
  pen.beginPath();
  line.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  for (const turn of [2.6, -2.6]) {
    pen.moveTo(end[0], end[1]);
    pen.lineTo(end[0] + 9 * unit * Math.cos(angle + turn), end[1] + 9 * unit * Math.sin(angle + turn));
  }
  stroke(pen, colour, unit);
}

/** @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y @param {number} radius @param {string} colour @param {number} unit */
function drawRing(pen, x, y, radius, colour, unit) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  stroke(pen, colour, unit);
}

/** @param {CanvasRenderingContext2D} pen @param {string} colour @param {number} unit */
function stroke(pen, colour, unit) {
  pen.lineWidth = 4 * unit;
  pen.strokeStyle = "#0006";
  pen.stroke();
  pen.lineWidth = 2 * unit;
  pen.strokeStyle = colour;
  pen.stroke();
}
