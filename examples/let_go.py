"""Drag something, let it go, take it up where it was left, and drag it back: from Python, without a server.

    python examples/let_go.py -o examples/let-go.png

writes a sheet of the photograph, the thing where it was dragged to, let go, half-way back and back.
"""

import argparse
from pathlib import Path

import numpy as np

from motionstream import LiveTracks, MotionStreamPipeline
from motionstream.media.pictures import write_picture
from motionstream.media.sheets import contact_sheet

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", default=HERE / "photographs/citrus.jpg")
    parser.add_argument("-o", "--output", default="let-go.png")
    options = parser.parse_args()

    stream = MotionStreamPipeline.from_pretrained("nano").stream(options.picture, seed=0, scale=2)
    live = LiveTracks(stream.size, stream.fps)
    for x, y in ((10, 10), (118, 10), (10, 118), (118, 118)):
        live.pin(x, y)
    home, there = np.array([72.0, 50.0]), np.array([102.0, 82.0])
    shown = [stream.picture]

    def drag(begin: np.ndarray, *places: np.ndarray) -> None:
        """Press, move through some places, half a second each, and let go."""
        hand = live.drag(*begin, radius=12)
        for goal in places:
            stream.step(live.cut(stream.next_frames))
            for share in np.linspace(0, 1, 7)[1:]:
                live.move(hand, *(begin + share * (goal - begin)))
            shown.append(stream.step(live.cut(stream.next_frames))[-1])
            begin = goal
        live.release(hand)
        stream.step(live.cut(stream.next_frames))

    drag(home, there)
    shown.append(stream.step(live.cut(stream.next_frames))[-1])
    drag(there, (home + there) / 2, home)
    stream.step(live.cut(stream.next_frames))
    shown.append(stream.step(live.cut(stream.next_frames))[-1])
    write_picture(options.output, contact_sheet(np.stack(shown), columns=len(shown)))
    last = np.abs(shown[-1].astype(int) - shown[0])
    print(
        f"{options.output}: the last frame is {last.mean():.2f} levels of 255 off the photograph, {last.max()} at most"
    )


if __name__ == "__main__":
    main()
