"""``motionstream serve``: serves the studio with any model, also to other machines."""

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
Serve the studio: choose a picture, drag, and watch the video while it is generated.

Visitors need a token: the printed address contains it. The environment variable {TOKEN_VARIABLE} sets it. Only this
machine is served unless --host is given; `ssh -L 8000:localhost:8000 MACHINE` gives access from another one.

Examples:
  motionstream serve
  motionstream serve --model wan2.1-1.3b-student/ --device cuda --decoder tiny
  motionstream serve --host 0.0.0.0 --name studio.example.org --sessions 2
  motionstream serve --ray --model wan2.1-1.3b-student/"""

    model: str = "nano"
    """An embedded model, a folder, or a repository on the Hugging Face hub."""
    port: int = 8000
    """Port to listen on; 0 takes any free one."""
    host: str = "127.0.0.1"
    """Address to listen on; the default serves only this machine, 0.0.0.0 every machine that can reach it."""
    name: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME"), tyro.conf.UseAppendAction] = ()
    """Additional host name under which visitors reach the server, such as a proxy's; may be repeated."""
    no_token: bool = False
    """Admit everyone on this machine without a token; refused with a --host that other machines can reach."""
    sessions: int = 4
    """Maximum number of simultaneous streams, with --ray per replica."""
    ray: bool = False
    """Run one engine per GPU with Ray Serve, on the cluster at RAY_ADDRESS or a local one."""
    replicas: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Number of engines with --ray; by default one per GPU, at least one."""
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
    causal: Annotated[str | None, tyro.conf.arg(metavar="c3s1w1")] = None
    """Attention pattern: latent frames per chunk, sink chunks, window chunks; by default the model's own."""
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
