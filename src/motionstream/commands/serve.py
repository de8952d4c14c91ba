"""``motionstream serve``: the studio for any model, and for more than this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from motionstream.commands.common import PlacementOptions, load_pipeline

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from motionstream.pipeline import MotionStreamPipeline
    from motionstream.server.host import Host
    from motionstream.session.library import Library

TOKEN_VARIABLE = "MOTIONSTREAM_TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServeCommand(PlacementOptions):
    """The options of ``motionstream serve``."""

    HELP: ClassVar[str] = f"""\
Serve the studio: pick a picture, drag, and see the video as it is made.

A token is asked for: open the address that is printed, which holds it. {TOKEN_VARIABLE} in the environment chooses it.
Only this machine is served unless --host says otherwise; `ssh -L 8000:localhost:8000 MACHINE` reaches it from another.

Examples:
  motionstream serve
  motionstream serve --model wan2.1-1.3b-student/ --device cuda --decoder tiny
  motionstream serve --host 0.0.0.0 --name studio.example.org --sessions 2
  motionstream serve --ray --model wan2.1-1.3b-student/"""

    model: str = "nano"
    """An embedded model, a folder, or a repository on the Hugging Face hub."""
    port: int = 8000
    """Port to listen on; 0 takes any that is free."""
    host: str = "127.0.0.1"
    """Address to listen on; the default serves this machine alone, 0.0.0.0 whoever reaches it."""
    name: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME"), tyro.conf.UseAppendAction] = ()
    """A further host name that visitors call the server by, such as a proxy's; may be given several times."""
    no_token: bool = False
    """Let everyone on this machine in; refused together with a --host that others reach."""
    sessions: int = 4
    """Streams at a time, with --ray of each replica."""
    ray: bool = False
    """Run one engine for each GPU on Ray Serve, on the cluster of RAY_ADDRESS or one of this machine's own."""
    replicas: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Engines with --ray; without it one for each GPU, or one."""
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
    causal: Annotated[str | None, tyro.conf.arg(metavar="c3s1w1")] = None
    """Another attention pattern than the model's own: latent frames of a chunk, sink chunks, window."""
    open_browser: bool = False
    """Open the page in this machine's browser."""

    def run(self) -> None:
        """Serve until Ctrl-C."""
        if not 1 <= self.sessions <= 1000:
            raise ValueError(f"--sessions is {self.sessions}; give 1 to 1000")
        if self.replicas is not None and not self.ray:
            raise ValueError(f"--replicas is {self.replicas}, but there is one engine without --ray; add that")
        if self.replicas is not None and not 1 <= self.replicas <= 1000:
            raise ValueError(f"--replicas is {self.replicas}; give 1 to 1000")
        from motionstream.server.guard import Access, new_token
        from motionstream.server.serving import serve

        token = None if self.no_token else os.environ.get(TOKEN_VARIABLE) or new_token()
        serve(
            self._host,
            Access(self.host, token, self.name),
            self.port,
            open_browser=self.open_browser,
            recordings=self.recordings,
            forget=self.forget,
            depth_model=self.depth_model,
        )

    def _host(self, library: Library) -> AbstractContextManager[Host]:
        from motionstream.server.engine import Engine
        from motionstream.server.on_ray import fleet_on_ray
        from motionstream.server.session import Limits

        limits = Limits(sessions=self.sessions, scale=self.scale)
        if self.ray:
            return fleet_on_ray(self._load, limits, library, device=self.device, replicas=self.replicas)
        return Engine(self._load, limits, library)

    def _load(self) -> MotionStreamPipeline:
        return load_pipeline(self.model, untrained=self.untrained, causal=self.causal, options=self)
