"""``motionstream demo``: opens the studio in the browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro


@dataclass(frozen=True)
class DemoCommand:
    """The options of ``motionstream demo``."""

    HELP: ClassVar[str] = """\
Open a page in the browser: choose a picture, drag, and watch the video while it is generated.

Examples:
  motionstream demo
  motionstream demo --port 8000 --no-browser"""

    port: int = 7860
    """Port to listen on."""
    host: str = "127.0.0.1"
    """Address to listen on; the default serves only this machine, any other asks visitors for a token."""
    model: str = "nano"
    """An embedded model, or a folder with one."""
    no_browser: bool = False
    """Do not open the browser."""
    recordings: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for recordings of the sessions; by default ~/.local/state/motionstream/sessions, which keeps the last
    200."""
    forget: bool = False
    """Keep the recordings only while the server runs."""
    depth_model: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with a depth-estimation model of transformers for the camera, used once per picture; by default depth is
    guessed."""
    scale: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Show frames 1 to 4 times as large as the model's, with the picture's own detail in carried content. By default 2
    for models that carry content (nano) on GPUs and on at least four cores, otherwise 1."""
    untrained: bool = False
    """Accept untrained weights."""

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
