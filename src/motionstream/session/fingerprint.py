"""Which weights made a recording: a short hash of a pipeline."""

from __future__ import annotations

import hashlib
import json

from torch import nn

from motionstream.pipeline import MotionStreamPipeline

SAMPLES = 64
"""Values of each tensor that are looked at: other weights differ everywhere, and reading all of Wan takes seconds."""


def fingerprint(pipeline: MotionStreamPipeline) -> str:
    """32 hexadecimal digits of the configuration and of values spread over every tensor of model and decoder."""
    digest = hashlib.sha256(json.dumps(pipeline.config.to_dict(), sort_keys=True).encode())
    parts = (pipeline.model, pipeline.parts.autoencoder, pipeline.parts.tiny)
    for part in parts:
        if not isinstance(part, nn.Module):
            continue
        for name, tensor in part.state_dict().items():
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES].double().cpu().numpy()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + sample.tobytes())
    return digest.hexdigest()[:32]
