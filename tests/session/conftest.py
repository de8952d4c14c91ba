"""A small pipeline whose frames differ, and a picture for it, by shorter names."""

import numpy as np
import pytest

from motionstream.pipeline import MotionStreamPipeline


@pytest.fixture(scope="session")
def pipeline(lively_pipeline: MotionStreamPipeline) -> MotionStreamPipeline:
    return lively_pipeline


@pytest.fixture(scope="session")
def picture(noise: np.ndarray) -> np.ndarray:
    return noise
