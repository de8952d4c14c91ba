"""Perceptual distances between videos: LPIPS, whose weights the user supplies, and a stand-in that needs none.

Videos are (B, 3, T, H, W) in [−1, 1]; a distance is (B,), the mean over a clip's frames, and differentiable with
respect to the first video. Internally frames are (N, C, H, W).
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.checkpoint_files import read_state, write_tensors
from motionstream.media.files import check_output

ALEXNET_LAYERS = (0, 3, 6, 8, 10)
"""The convolutions of AlexNet, each followed by a ReLU whose output LPIPS compares."""

LEAST_SIDE = 32
"""Pixels; smaller pictures leave nothing at the coarsest scale of AlexNet or the stand-in."""


class Perceptual(Protocol):
    """A perceptual distance; ``name`` identifies it in logs."""

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
        # the identity replaces LPIPS's dropout, so that parameter names match
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, version 0.1 on AlexNet (Zhang et al. 2018): 0 for equal pictures.

    Parameter names are those of torchvision (``features.0.weight``) and LPIPS (``lin0.model.1.weight``). Weights are
    frozen; dropout is omitted.
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
        # from [−1, 1] to ImageNet normalisation, with the rounded constants that LPIPS was trained with
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: str | Path) -> LPIPS:
        """Read a .safetensors file with AlexNet's features and the heads, as ``convert_lpips`` writes it.

        Raises:
            ValueError: the file is missing, damaged or a pickle, or its names or shapes do not match.
        """
        model = cls()
        state = read_state(path)
        _check(state, f"{path}")
        model.load_state_dict(state)
        return model.eval()

    def _layers(self, frames: Tensor) -> list[Tensor]:
        """AlexNet's five ReLU outputs, normalised to unit length over the channels at every position."""
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
    """Write the file that ``LPIPS.load`` reads from two pickles: torchvision's AlexNet and the heads of LPIPS v0.1.

    AlexNet's classifier is left out. Only tensors are unpickled. Raises ValueError if names or shapes do not match.
    """
    features = {k: v for k, v in read_state(alexnet, allow_pickle=True).items() if k.startswith("features.")}
    state = features | read_state(heads, allow_pickle=True)
    _check(state, f"{alexnet} with {heads}")
    write_tensors(check_output(target, (".safetensors",)), {name: value.float() for name, value in state.items()})


class ContrastStandIn(nn.Module):
    """Our own substitute for LPIPS when its weights are not available; nothing in it is learned.

    Fixed random orthonormal 5×5 filters without response to flat colour, at three scales. It compares the responses,
    which locate edges, and their magnitude averaged over 4×4 pixels, which measures the amount of texture regardless of
    its exact position. Both are relative to the reference's local contrast. Blurring a fine texture therefore increases
    the distance more than shifting it; with L1 it is the other way round. Not a measure to publish.
    """

    name = "stand_in"
    filters: Tensor

    def __init__(self, count: int = 24, scales: int = 3, floor: float = 0.05) -> None:
        """``floor``: added to the local contrast that differences are divided by, in pixel values."""
        super().__init__()
        self.scales, self.floor = scales, floor
        flat = torch.zeros(3, 3, 5, 5)
        flat[range(3), range(3)] = 1  # one flat filter per colour; the others are orthogonal to them
        drawn = torch.randn(count, 75, generator=torch.Generator().manual_seed(0))
        basis, _ = torch.linalg.qr(torch.cat([flat.flatten(1), drawn]).T)
        self.register_buffer("filters", basis.T[3:].reshape(count, 3, 5, 5).contiguous(), persistent=False)

    def _distance(self, frames: Tensor, reference: Tensor) -> Tensor:
        """The distance (N,) of frames (N, 3, H, W) at one scale."""
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
    """LPIPS with the weights in this file; the stand-in when None."""
    return ContrastStandIn() if weights is None else LPIPS.load(weights)
