"""Watch a stream survive the loss of its engine.

Start two engines on Ray in one terminal,

    motionstream serve --ray --replicas 2 --device cpu --no-token

this in a second,

    python examples/lost_engine.py

and kill the first engine from a third (kill -9 `pgrep -f ServeReplica:motionstream-0`).
"""

import argparse
import time

from motionstream.client import Chunk, Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8000", help="address of the page")
    parser.add_argument("--token", help="what `motionstream serve` printed behind ?token=")
    parser.add_argument("--picture", default="chelsea", help="a name of the gallery")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch")
    options = parser.parse_args()

    with Client(options.server, options.token) as client:
        client.start(options.picture)
        client.pin(64, 64)
        began = time.monotonic()
        while (now := time.monotonic() - began) < options.seconds:
            message = client.receive(patience=300)
            if isinstance(message, Chunk):
                print(f"{now:6.1f} s  frames {message.first} to {message.first + len(message.frames) - 1}")
            elif message["type"] in ("started", "queued", "replaying", "continued"):
                told = ("place", "of", "done", "recording", "chunk", "frame", "gestures")
                print(f"{now:6.1f} s  {message['type']}", {key: message[key] for key in told if key in message})
        client.stop()


if __name__ == "__main__":
    main()
