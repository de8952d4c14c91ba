// From encoded frames to pictures: JPEG everywhere, H.264 where the browser has WebCodecs.

import { H264 } from "./connection.js";

/** @typedef {import("./connection.js").Chunk} Chunk */

const BASELINE = "avc1.42E01F";

/** What this browser decodes, best first. (WebCodecs exist on https and on this machine's own address alone.) */
export async function codecs() {
  try {
    const answer = await VideoDecoder.isConfigSupported({ codec: BASELINE, optimizeForLatency: true });
    if (answer.supported) return ["h264", "jpeg"];
  } catch {
    // no WebCodecs here: JPEG it is
  }
  return ["jpeg"];
}

/** Decodes chunks in their order. */
export class Decoder {
  /** @type {VideoDecoder | null} */ #decoder = null;
  /** @type {Map<number, {resolve: (picture: Promise<ImageBitmap>) => void, reject: (error: unknown) => void}>} */ #waiting = new Map();
  #codec = "";

  /**
   * The frames of a chunk. Rejects where H.264 cannot be decoded.
   * @param {Chunk} chunk @returns {Promise<ImageBitmap[]>}
   */
  decode(chunk) {
    if (chunk.kind !== H264) {
      return Promise.all(chunk.parts.map((part) => createImageBitmap(new Blob([part], { type: "image/jpeg" }))));
    }
    const keyframes = chunk.keyframes ?? [];
    if (keyframes.includes(0) && (!this.#decoder || chunk.codec !== this.#codec)) this.#configure(chunk.codec ?? BASELINE);
    const decoder = this.#decoder;
    if (!decoder) return Promise.reject(new Error("a stream of H.264 begins with a keyframe"));
    return Promise.all(chunk.parts.map((data, i) => new Promise((resolve, reject) => {
      const timestamp = chunk.first + i;
      this.#waiting.set(timestamp, { resolve, reject });
      decoder.decode(new EncodedVideoChunk({ type: keyframes.includes(i) ? "key" : "delta", timestamp, data }));
    })));
  }

  /** Whatever comes next begins with a keyframe; what is being decoded is dropped. */
  reset() {
    if (this.#decoder && this.#decoder.state !== "closed") this.#decoder.close();
    this.#fail(new DOMException("not wanted any more", "AbortError"));
  }

  /** @param {string} codec */
  #configure(codec) {
    this.reset();
    this.#codec = codec;
    this.#decoder = new VideoDecoder({
      output: (frame) => {
        // A decoder has few frames to lend; a copy lets it go on.
        this.#waiting.get(frame.timestamp)?.resolve(createImageBitmap(frame).finally(() => frame.close()));
        this.#waiting.delete(frame.timestamp);
      },
      error: (error) => this.#fail(error),
    });
    this.#decoder.configure({ codec, optimizeForLatency: true });
  }

  /** @param {unknown} error */
  #fail(error) {
    this.#decoder = null;
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
