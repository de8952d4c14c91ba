"""Perceptual distances between videos: LPIPS, whose weights the user supplies, and a stand-in that needs none.

Videos are (B, 3, T, H, W) in [−1, 1], B clips, T frames; a distance is (B,), the mean over a clip's frames. Gradients
reach the first video. Inside, frames are (N, C, H, W).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.checkpoint_files import read_state, write_tensors
from motionstream.media import check_output

ALEXNET_LAYERS = (0, 3, 6, 8, 10)
"""The convolutions of AlexNet, each followed by a ReLU whose output LPIPS compares."""

LEAST_SIDE = 32
"""Pixels; smaller pictures vanish in AlexNet's and in the stand-in's coarsest scale."""


class Perceptual(Protocol):
    """``name`` is what logs call the distance."""

    name: str

    def __call__(self, video: Tensor, reference: Tensor) -> Tensor: ...

    def to(self, device: torch.device) -> object: ...


def _frames(video: Tensor) -> Tensor:
    height, width = video.shape[3:]
    if min(height, width) < LEAST_SIDE:
        raise ValueError(f"frames of {height}×{width} are too small for a perceptual loss: use {LEAST_SIDE} or more")
    return video.transpose(1, 2).flatten(0, 1)


class _Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        # the place of the dropout that LPIPS was trained with, so that its names fit
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, version 0.1 on AlexNet (Zhang et al. 2018): 0 for equal pictures.

    Names are torchvision's (``features.0.weight``) and those of LPIPS (``lin0.model.1.weight``). Weights are never
    trained and dropout is left out.
    """

    name = "lpips"
    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        )
        for index, channels in enumerate((64, 192, 384, 256, 256)):
            self.add_module(f"lin{index}", _Head(channels))
        # from [−1, 1] to the normalisation of ImageNet's classifiers, with the rounding that LPIPS was fitted with
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path) -> LPIPS:
        """Read a .safetensors file with AlexNet's features and the heads (``convert_lpips`` makes one).

        Raises:
            ValueError: no such file, a pickle, damaged, names or shapes that do not fit.
        """
        model = cls()
        state = read_state(path)
        _check(state, f"{path}")
        model.load_state_dict(state)
        return model.eval()

    def _layers(self, frames: Tensor) -> list[Tensor]:
        """What is compared: AlexNet's five ReLU outputs, every position of unit length over the channels."""
        x, kept = (frames - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index - 1 in ALEXNET_LAYERS:
                wide = x.float()  # squares overflow in half precision
                kept.append(wide / (wide.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
        return kept

    def forward(self, video: Tensor, reference: Tensor) -> Tensor:
        layers = zip(self._layers(_frames(video)), self._layers(_frames(reference)), strict=True)
        total = torch.zeros((), device=video.device)
        for index, (first, second) in enumerate(layers):
            head = self.get_submodule(f"lin{index}.model")
            total = total + head((first - second).square()).mean(dim=(1, 2, 3))
        return total.unflatten(0, (len(video), -1)).mean(dim=1)


def _check(state: dict[str, Tensor], source: str) -> None:
    expected = {name: tuple(value.shape) for name, value in LPIPS().state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        first = f"{wrong[0]} is {found.get(wrong[0], 'missing')} instead of {expected.get(wrong[0], 'absent')}"
        raise ValueError(
            f"{source} holds no LPIPS v0.1 on AlexNet ({first}, {len(wrong)} names in all): motionstream convert lpips "
            "makes a file of torchvision's AlexNet and the published heads"
        )


def convert_lpips(alexnet: str | Path, heads: str | Path, target: str | Path) -> None:
    """Make the file that ``LPIPS.load`` reads of torchvision's AlexNet and LPIPS v0.1's heads, both pickles.

    AlexNet's classifier is left out. Only tensors are unpickled. Raises ValueError for files that do not fit.
    """
    features = {k: v for k, v in read_state(alexnet, allow_pickle=True).items() if k.startswith("features.")}
    state = features | read_state(heads, allow_pickle=True)
    _check(state, f"{alexnet} with {heads}")
    write_tensors(check_output(target, (".safetensors",)), {name: value.float() for name, value in state.items()})


class ContrastStandIn(nn.Module):
    """Our own stand-in for LPIPS where no weights are at hand: nothing in it is learned from people or pictures.

    Fixed random orthonormal 5×5 filters without response to flat colour, at three scales. Two things are compared: the
    responses, which say where edges are, and their size averaged over 4×4 pixels, which says how much texture there is
    wherever exactly it lies. Both are relative to the reference's own local contrast. Fine texture that is blurred is
    therefore farther from the original than if it lay elsewhere, as strong as it was; for L1 it is the other way round.
    It is no measure to publish.
    """

    name = "stand_in"
    filters: Tensor

    def __init__(self, count: int = 24, scales: int = 3, floor: float = 0.05) -> None:
        """``floor``: contrast below this, in units of the pictures, weighs no more than this."""
        super().__init__()
        self.scales, self.floor = scales, floor
        flat = torch.zeros(3, 3, 5, 5)
        flat[range(3), range(3)] = 1  # one flat filter a colour; the others are orthogonal to them
        drawn = torch.randn(count, 75, generator=torch.Generator().manual_seed(0))
        basis, _ = torch.linalg.qr(torch.cat([flat.flatten(1), drawn]).T)
        self.register_buffer("filters", basis.T[3:].reshape(count, 3, 5, 5).contiguous(), persistent=False)

    def _distance(self, frames: Tensor, reference: Tensor) -> Tensor:
        """At one scale: (N, 3, H, W) twice → (N,)."""
        responses = F.conv2d(frames, self.filters).float()
        wanted = F.conv2d(reference, self.filters).float()
        strength, wanted_strength = (F.avg_pool2d(x.abs(), 4, stride=2) for x in (responses, wanted))
        contrast = wanted_strength.mean(dim=1, keepdim=True) + self.floor
        here = F.interpolate(contrast, wanted.shape[2:], mode="bilinear")
        edges = ((responses - wanted).abs() / here).mean(dim=(1, 2, 3))
        texture = ((strength - wanted_strength).abs() / contrast).mean(dim=(1, 2, 3))
        return (edges + texture) / 2

    def forward(self, video: Tensor, reference: Tensor) -> Tensor:
        frames, wanted = _frames(video), _frames(reference)
        total = torch.zeros((), device=video.device)
        for scale in range(self.scales):
            if scale:
                frames, wanted = F.avg_pool2d(frames, 2), F.avg_pool2d(wanted, 2)
            total = total + self._distance(frames, wanted) / self.scales
        return total.unflatten(0, (len(video), -1)).mean(dim=1)


def perceptual_distance(weights: str | Path | None = None) -> LPIPS | ContrastStandIn:
    """LPIPS with the weights of this file, the stand-in without."""
    return ContrastStandIn() if weights is None else LPIPS.load(weights)
