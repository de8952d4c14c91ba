// The keyboard, and the help that lists it: one table for both.

import { find } from "./page.js";

/** @typedef {{keys: string[], label: string, group: string, act?: (key: string) => void, needs?: string, looks?: boolean}} Shortcut
 *  `keys` as in KeyboardEvent.key, in lower case, "ctrl+" before them for Ctrl or Cmd; without `act` only listed; `looks`:
 *  changes nothing of the stream, so that who only watches has it, too */

const NAMES = /** @type {Record<string, string>} */ ({ " ": "Space", enter: "Enter", escape: "Esc", pageup: "PgUp", pagedown: "PgDn", arrowleft: "←", arrowright: "→", "ctrl+z": "Ctrl Z", "ctrl+y": "Ctrl Y", "shift+ctrl+z": "Ctrl Shift Z" });
const STEPS = /** @type {Record<string, number>} */ ({ ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 });

/** @param {Shortcut[]} shortcuts @param {(capability: string) => boolean} can */
export function setUpKeys(shortcuts, can) {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.altKey || typing(event)) return;
    const key = event.key.toLowerCase();
    const name = `${event.shiftKey && key.length > 1 || event.ctrlKey && event.shiftKey ? "shift+" : ""}${event.ctrlKey || event.metaKey ? "ctrl+" : ""}${key}`;
    const found = shortcuts.find((each) => each.act && each.keys.includes(name) && (!each.needs || can(each.needs)));
    if (!found || (event.repeat && !["[", "]"].includes(key) && !key.startsWith("arrow"))) return;
    event.preventDefault();
    found.act?.(key);
  });
  // A button that was clicked with the mouse does not keep the space bar to itself.
  document.addEventListener("click", (event) => {
    const button = /** @type {HTMLElement} */ (event.target).closest("button, input[type=checkbox], input[type=radio]");
    if (event.detail > 0 && button instanceof HTMLElement) button.blur();
  });
}

/** In a group of buttons the arrow keys go from one to the next; Tab goes past them. @param {HTMLElement} group */
export function rove(group) {
  const all = () => /** @type {HTMLButtonElement[]} */ ([...group.querySelectorAll("button")]);
  group.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    const stops = all().filter((button) => !button.disabled && !button.hidden);
    const at = stops.findIndex((button) => button === event.target);
    if (!step || at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    stops[(at + step + stops.length) % stops.length].focus();
  });
  document.addEventListener("focusin", ({ target }) => {
    const inside = group.contains(/** @type {Node} */ (target));
    for (const button of all()) button.tabIndex = inside && button !== target ? -1 : 0;
  });
}

/** Is the key meant for the element that has the focus? @param {KeyboardEvent} event */
function typing(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (target.closest("input[type=text], textarea, select")) return true;
  if (target.closest("input[type=range]") && /^(Arrow|Home|End|Page)/.test(event.key)) return true;
  return Boolean(target.closest("button, a, label, input")) && [" ", "Enter"].includes(event.key);
}

/** Fill the help with the shortcuts that do something here. @param {Shortcut[]} shortcuts @param {(capability: string) => boolean} can */
export function listKeys(shortcuts, can) {
  const known = shortcuts.filter((each) => (!each.needs || can(each.needs)));
  const groups = [...new Set(known.map(({ group }) => group))];
  find("keys").replaceChildren(...groups.map((group) => {
    const section = document.createElement("section");
    const head = document.createElement("h3");
    head.textContent = group;
    section.append(head, ...known.filter((each) => each.group === group).map(({ keys, label }) => {
      const row = document.createElement("div");
      const words = document.createElement("span");
      words.textContent = label;
      const caps = document.createElement("span");
      for (const key of keys) {
        const cap = document.createElement("kbd");
        cap.textContent = NAMES[key] ?? key.toUpperCase();
        caps.append(cap, " ");
      }
      row.append(words, caps);
      return row;
    }));
    return section;
  }));
}
