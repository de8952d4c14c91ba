"""A small pipeline whose frames differ, and a picture for it."""

import numpy as np
import pytest
import torch

from motionstream.pipeline import MotionStreamPipeline


@pytest.fixture(scope="session")
def pipeline() -> MotionStreamPipeline:
    """Untrained weights begin at zero where it matters and make grey frames, all alike: these ones do not."""
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    generator = torch.Generator().manual_seed(0)
    for module in (pipeline.model, pipeline.parts.autoencoder):
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pipeline


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (40, 48, 3), dtype=np.uint8)
