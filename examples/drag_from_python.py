"""Drag something in a stream from Python, and write what was streamed to a video.

Start a server first, in another terminal:

    motionstream demo --no-browser

and then:

    python examples/drag_from_python.py --picture chelsea --drag 60,64:90,64 -o dragged.mp4
"""

import argparse
import time

import numpy as np

from motionstream.client import Client
from motionstream.media.videos import write_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:7860", help="address of the page")
    parser.add_argument("--token", help="what `motionstream serve` printed behind ?token=")
    parser.add_argument("--picture", default="chelsea", help="a name of the gallery, or a file")
    parser.add_argument("--drag", default="60,64:90,64", help="from and to, in pixels of the stream")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long the video is")
    parser.add_argument("-o", "--output", default="dragged.mp4")
    options = parser.parse_args()
    begin, end = (np.array([float(number) for number in point.split(",")]) for point in options.drag.split(":"))

    with Client(options.server, options.token) as client:
        is_file = "." in options.picture
        client.start(client.upload(options.picture) if is_file else options.picture)
        chunks, started = [], time.monotonic()
        with client.drag(*begin) as drag:
            for chunk in client.chunks(options.seconds):
                # Halfway there after half of the time: the pointer is where it would be in somebody's hand.
                share = min(1.0, (time.monotonic() - started) / options.seconds)
                drag.move(*(begin + share * (end - begin)))
                delay = "" if chunk.delay is None else f", {1e3 * chunk.delay:.0f} ms after the pointer"
                print(f"frames {chunk.first} to {chunk.first + len(chunk.frames) - 1}{delay}")
                chunks.append(chunk.frames)
        client.stop()
    write_video(options.output, np.concatenate(chunks), chunk.fps)


if __name__ == "__main__":
    main()
