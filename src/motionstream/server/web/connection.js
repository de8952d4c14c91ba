// The protocol's side of the page: one WebSocket that comes back by itself, control as JSON, chunks as binary.
// docs/protocol.md says what the messages mean.

export const VERSION = 2;
export const JPEG = 1; // kinds of binary messages
const WEBCAM = 2;
export const H264 = 3;
const MAGIC = 0x4d53; // "MS"
const PREFIX = 8; // bytes before the header: "MS", version, kind, length of the header
const HIDDEN = -32768;
const POSITION_STEP = 8; // positions come in eighths of a pixel

/**
 * @typedef {{gesture: number, kind: string, x: number, y: number}} Dot a point of the overlay, in picture pixels
 * @typedef {{gesture: number, kind: string}} Owner of a point
 * @typedef {{kind: number, chunk?: number, first: number, frames: number, fps: number, latency: number, sent: number | null,
 *            stages?: Record<string, number>, dropped: number, groups: [number, string, number][], codec?: string,
 *            keyframes?: number[], still?: boolean, parts: Uint8Array<ArrayBuffer>[], owners: Owner[], positions: Int16Array}} Chunk
 *   encoded frames, and the points to draw on them
 */

/** Seconds on the page's clock, the one that pointer events carry as well. */
export const seconds = () => performance.now() / 1000;

/**
 * Read a binary message.
 * @param {ArrayBuffer} buffer
 * @returns {Chunk}
 */
export function parseChunk(buffer) {
  const view = new DataView(buffer);
  const kind = view.getUint8(3);
  if (view.getUint16(0) !== MAGIC || view.getUint8(2) !== VERSION || ![JPEG, H264].includes(kind)) {
    throw new Error("The server speaks another protocol; reload the page.");
  }
  const length = view.getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, PREFIX, length)));
  const owners = header.groups.flatMap((/** @type {[number, string, number]} */ [gesture, kind, count]) => Array(count).fill({ gesture, kind }));
  let place = PREFIX + length;
  const bytes = 4 * header.frames * header.points;
  const positions = new Int16Array(buffer.slice(place, place + bytes)); // little-endian, as every machine with a browser
  place += bytes;
  const parts = header.sizes.map((/** @type {number} */ size) => new Uint8Array(buffer, (place += size) - size, size));
  return { ...header, kind, owners, positions, parts };
}

/** The points to draw on a chunk's frame. @param {Chunk} chunk @param {number} frame @returns {Dot[]} */
export function dotsOf({ owners, positions }, frame) {
  const dots = [];
  for (let point = 0, place = 2 * frame * owners.length; point < owners.length; point++, place += 2) {
    const [x, y] = [positions[place], positions[place + 1]];
    if (x !== HIDDEN) dots.push({ ...owners[point], x: x / POSITION_STEP, y: y / POSITION_STEP });
  }
  return dots;
}

/** A connection that announces itself as events: "closed", "chunk" and every control message's type. */
export class Connection extends EventTarget {
  /** @type {WebSocket | null} */ #socket = null;
  #wait = 500; // milliseconds before trying again
  #tries = true;

  /** @param {() => string} path of the WebSocket */
  constructor(path) {
    super();
    this.path = path;
  }

  connect() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}${this.path()}`);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (message) => this.#receive(message.data);
    socket.onopen = () => (this.#wait = 500);
    socket.onclose = () => {
      this.#socket = null;
      this.#tell("closed", null);
      setTimeout(() => this.#tries && this.connect(), this.#wait);
      this.#wait = Math.min(this.#wait * 2, 8000);
    };
    this.#socket = socket;
  }

  /** Close, and come back. */
  renew() {
    this.#socket?.close();
  }

  /** Try no more to come back. */
  giveUp() {
    this.#tries = false;
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /**
   * @param {string} type
   * @param {object} [fields]
   * @param {number} [at] when it was meant, in the page's seconds
   */
  send(type, fields = {}, at = seconds()) {
    if (this.open) this.#socket?.send(JSON.stringify({ type, t: at, ...fields }));
  }

  /** Bytes that the network has not taken yet. */
  get unsent() {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** A frame of the webcam. @param {ArrayBuffer} jpeg @param {number} at when it was taken, in the page's seconds */
  look(jpeg, at) {
    const header = new TextEncoder().encode(JSON.stringify({ t: at, frames: 1, points: 0, sizes: [jpeg.byteLength] }));
    const message = new Uint8Array(PREFIX + header.byteLength + jpeg.byteLength);
    const prefix = new DataView(message.buffer);
    prefix.setUint16(0, MAGIC);
    prefix.setUint8(2, VERSION);
    prefix.setUint8(3, WEBCAM);
    prefix.setUint32(4, header.byteLength, true);
    message.set(header, PREFIX);
    message.set(new Uint8Array(jpeg), PREFIX + header.byteLength);
    if (this.open) this.#socket?.send(message);
  }

  /** @param {string | ArrayBuffer} data */
  #receive(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      this.#tell(message.type, message);
    } else {
      this.#tell("chunk", parseChunk(data));
    }
  }

  /** @param {string} type @param {unknown} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
