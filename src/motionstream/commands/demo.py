"""``motionstream demo``: the page in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro


@dataclass(frozen=True)
class DemoCommand:
    """The options of ``motionstream demo``."""

    HELP: ClassVar[str] = """\
Open a page in the browser: pick a picture, drag, and see the video as it is made.

Examples:
  motionstream demo
  motionstream demo --port 8000 --no-browser"""

    port: int = 7860
    """Port to listen on."""
    host: str = "127.0.0.1"
    """Address to listen on; the default serves this machine alone, any other asks visitors for a token."""
    model: str = "nano"
    """An embedded model, or a folder with one."""
    no_browser: bool = False
    """Only serve; do not open the browser."""
    recordings: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder in which sessions record themselves; without it ~/.local/state/motionstream/sessions, the last 200."""
    forget: bool = False
    """Keep the recordings only while the server runs."""
    depth_model: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Depth-estimation model of transformers for the camera, in place of a plain guess; it is asked once a picture."""
    scale: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Show frames so many times as large as the model sees them, as fine as the picture where nothing new is made, 1 to
    4; without it 2 for models that carry the picture's content (nano) on GPUs and from four cores on, otherwise 1."""
    untrained: bool = False
    """Accept weights that were not trained."""

    def run(self) -> None:
        """Serve until Ctrl-C."""
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port is {self.port}; give 1 to 65535")
        from motionstream.commands.common import load_pipeline
        from motionstream.server.engine import Engine
        from motionstream.server.guard import Access, is_loopback, new_token
        from motionstream.server.serving import serve
        from motionstream.server.session import Limits

        token = None if is_loopback(self.host) else new_token()
        serve(
            lambda library: Engine(
                lambda: load_pipeline(self.model, untrained=self.untrained), Limits(scale=self.scale), library
            ),
            Access(self.host, token),
            self.port,
            open_browser=not self.no_browser,
            recordings=self.recordings,
            forget=self.forget,
            depth_model=self.depth_model,
        )
