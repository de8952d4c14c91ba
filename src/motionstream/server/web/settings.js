// What the visitor has chosen: the tool, the grid, how paths walk. Kept from visit to visit, except for the tool.

/** @typedef {"press" | "pin" | "path" | "select" | "erase"} Tool */

const KEPT = /** @type {const} */ (["hold", "points", "pace", "duration", "speed", "delay", "smooth", "letGo"]);

export class Settings extends EventTarget {
  /** @type {Tool} */ tool = "press";
  radius = 16; // pixels of the model's picture, as all lengths here
  spacing = 8;
  hold = false; // a drag that is let go stays where it is
  points = true; // show them
  /** @type {"duration" | "speed"} of paths */ pace = "duration";
  duration = 2; // seconds
  speed = 40; // pixels a second
  delay = 0; // seconds
  smooth = true;
  letGo = false; // of a path, at its end

  constructor() {
    super();
    try {
      const saved = JSON.parse(localStorage.getItem("settings") ?? "{}");
      for (const name of KEPT) if (typeof saved[name] === typeof this[name]) Object.assign(this, { [name]: saved[name] });
    } catch {
      localStorage.removeItem("settings"); // not ours, or of another version
    }
  }

  /** Change some, tell everyone ("change") and keep them. @param {Partial<Settings>} values */
  set(values) {
    Object.assign(this, values);
    localStorage.setItem("settings", JSON.stringify(Object.fromEntries(KEPT.map((name) => [name, this[name]]))));
    this.dispatchEvent(new Event("change"));
  }
}
