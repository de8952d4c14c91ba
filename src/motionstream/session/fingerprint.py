"""A short hash of a pipeline, which identifies the weights that made a recording."""

from __future__ import annotations

import hashlib
import json

from torch import nn

from motionstream.pipeline import MotionStreamPipeline

SAMPLES = 64
"""Number of values hashed per tensor: different weights differ everywhere, and hashing all of Wan's takes seconds."""


def fingerprint(pipeline: MotionStreamPipeline) -> str:
    """32 hexadecimal digits, from the config and values spread over every tensor of model and autoencoders."""
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
