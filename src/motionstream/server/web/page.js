// Small things all of the page uses: finding elements, saying something, icons.

/** @template {HTMLElement} [T=HTMLElement] @param {string} id @returns {T} */
export function find(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return /** @type {T} */ (element);
}

/** @param {string} id */
export const field = (id) => /** @type {HTMLInputElement} */ (find(id));

/** @param {string} name of one of the icons at the end of the page */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Give a button another icon and label. @param {string} id @param {string} name @param {string} label */
export function relabel(id, name, label) {
  const button = find(id);
  button.querySelector("use")?.setAttribute("href", `#icon-${name}`);
  const text = button.querySelector("span");
  if (text) text.textContent = label;
}

const STAYS = 9000; // milliseconds

/** What the server says, as a sentence. @param {string} text */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

/** Tell the visitor what went wrong. @param {string} text */
export function complain(text) {
  const message = sentence(text);
  const toasts = find("toasts");
  for (const old of toasts.children) if (old.textContent === message) old.remove();
  const toast = document.createElement("div");
  toast.className = "toast";
  const words = document.createElement("p");
  words.textContent = message;
  const close = document.createElement("button");
  Object.assign(close, { type: "button", className: "icon", onclick: () => toast.remove() });
  close.setAttribute("aria-label", "Dismiss");
  close.append(icon("close"));
  toast.append(words, close);
  toasts.append(toast);
  while (toasts.childElementCount > 3) toasts.firstElementChild?.remove();
  setTimeout(() => toast.remove(), STAYS);
}
