"""Where the content that a stream carries along its tracks comes from: the pictures in which they began."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from motionstream.conditioning.relations import CarrySource
from motionstream.conditioning.things import Things, find, tell
from motionstream.tracks import Tracks
from motionstream.tracks.masks import Draw


class CarryMemory:
    """Remembers where and when each track of a stream began, and the pictures content is taken from.

    Whenever the set of tracks changes between chunks, the ``last`` carried frame becomes a new source: for the tracks
    that begin there, and for whatever no track speaks of (a released object stays where it was let go). It is without
    what the transformer added, which is not to be added twice. Pictures that nothing refers to any more are dropped, so
    that memory stays bounded.

    ``picture``: (1, 3, H, W). ``see`` and ``draw``: a pixel mixer's, asked once for every picture or thing rather than
    at every chunk. ``fine``: the same picture larger; ``last_fine`` is then set with ``last``, whenever frames are
    made.
    """

    def __init__(
        self,
        picture: Tensor,
        see: Callable[[Tensor], Tensor] | None = None,
        fine: Tensor | None = None,
        draw: Draw | None = None,
    ) -> None:
        self.last, self.last_fine = picture, fine
        self._see = see
        self._seen: dict[int, Tensor] = {}
        self._things = Things(draw)
        self._pictures = {0: picture}
        self._fine = {0: fine}
        self._static = 0
        self._births: dict[int, tuple[int, np.ndarray]] = {}
        self._present: set[int] | None = None

    def source(self, tracks: Tracks, device: torch.device) -> CarrySource:
        """The sources of a chunk's tracks; called once a chunk, in order."""
        ids = tracks.ids.tolist()
        shown = np.any(tracks.visible, axis=0)
        begun = [row for row, track in enumerate(ids) if shown[row] and track not in self._births]
        changed = self._present is not None and (bool(begun) or set(ids) != self._present)
        if changed:
            self._static = max(self._pictures) + 1
            self._pictures[self._static], self._fine[self._static] = self.last, self.last_fine
        self._present = set(ids)
        for row in begun:
            start = tracks.positions[np.argmax(tracks.visible[:, row]), row]
            self._births[ids[row]] = (self._static, start)
        self._births = {track: birth for track, birth in self._births.items() if track in self._present}
        used = sorted({self._static} | {key for key, _ in self._births.values()})
        self._pictures = {key: self._pictures[key] for key in used}
        self._fine = {key: self._fine[key] for key in used}
        births = [self._births.get(track, (self._static, np.zeros(2, np.float32))) for track in ids]
        index = torch.tensor([used.index(key) for key, _ in births], dtype=torch.long, device=device)
        start = torch.from_numpy(np.array([place for _, place in births], np.float32).reshape(-1, 2)).to(device)
        static = torch.full((1, tracks.length), used.index(self._static), dtype=torch.long, device=device)
        pictures = torch.stack([self._pictures[key] for key in used], dim=1)
        known = [picture for picture in self._fine.values() if picture is not None]
        fine = torch.stack(known, dim=1) if known else None
        source = CarrySource(pictures, index[None], start[None], static, self._all_seen(used) if ids else None, fine)
        return source if self._see is None else self._with_things(source, tracks, used)

    def _with_things(self, source: CarrySource, tracks: Tracks, used: list[int]) -> CarrySource:
        device, ids = source.start.device, tracks.ids.tolist()
        positions, visible = (torch.from_numpy(x.copy()).to(device)[None] for x in (tracks.positions, tracks.visible))
        self._things.keep(ids)
        find(source, positions, visible, [self._things], ids, used)
        return tell(source, [self._things], ids, used, tracks.length)

    def _all_seen(self, used: list[int]) -> Tensor | None:
        """What is seen in the pictures ``used``, (1, K, C, h, w); the others are forgotten."""
        if self._see is None:
            return None
        self._seen = {key: self._seen[key] for key in used if key in self._seen}
        for key in used:
            if key not in self._seen:
                self._seen[key] = self._see(self._pictures[key][:, None])
        return torch.cat([self._seen[key] for key in used], dim=1)
