// The keyboard as one more pointer on the picture: arrow keys move a crosshair, Enter or Space presses there and lets go.

const STEPS = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] });
const FINE = 1 / 64; // of the picture's shorter side; with Shift four times as far
const POINTER = -1; // its number among the pointers

/** Seen while the picture has the focus, which the mouse does not give it. @param {import("./stage.js").Stage} stage */
export function setUpCrosshair(stage) {
  const { element } = stage;
  let last = /** @type {import("./gestures.js").Point | null} */ (null); // where it was left

  const send = (/** @type {string} */ type) => {
    if (!stage.crosshair) return;
    const [x, y] = stage.crosshair;
    const box = element.getBoundingClientRect();
    const place = { clientX: box.left + (x + 0.5) / stage.width * box.width, clientY: box.top + (y + 0.5) / stage.height * box.height };
    element.dispatchEvent(new PointerEvent(type, { pointerId: POINTER, ...place }));
    stage.draw();
  };
  element.tabIndex = 0;
  element.addEventListener("focus", () => {
    stage.crosshair = last ?? [stage.width / 2, stage.height / 2];
    stage.draw();
  });
  element.addEventListener("blur", () => {
    send("pointercancel");
    stage.crosshair = null;
    stage.draw();
  });
  element.addEventListener("mousedown", (event) => {
    if (/** @type {HTMLElement} */ (event.target).closest("button")) return;
    event.preventDefault(); // the keys stay the stream's
    if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
  });
  element.addEventListener("keydown", (event) => {
    if (!stage.crosshair || event.target !== element || event.ctrlKey || event.metaKey || event.altKey) return;
    const [step, pressed] = [STEPS[event.key], stage.pointers.has(POINTER)];
    if (step) {
      const far = Math.max(1, Math.round(FINE * Math.min(stage.width, stage.height))) * (event.shiftKey ? 4 : 1);
      const [x, y] = [stage.crosshair[0] + far * step[0], stage.crosshair[1] + far * step[1]];
      last = stage.crosshair = [Math.min(Math.max(x, 0), stage.width - 1), Math.min(Math.max(y, 0), stage.height - 1)];
      send("pointermove");
    } else if (event.key === "Enter" || event.key === " ") {
      if (!event.repeat) send(pressed ? "pointerup" : "pointerdown");
    } else if (event.key === "Escape" && pressed) {
      send("pointercancel");
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation(); // neither the camera's key nor the stream's
  });
}
