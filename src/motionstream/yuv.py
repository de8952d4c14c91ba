"""Converts pictures to video codecs' frames and back: yuv420p, BT.709, limited range, as players expect.

Every codec has its own ``VideoReformatter`` with one thread: PyAV's default creates a thread pool per frame, which
takes longer than converting small frames and takes cores from the model.
"""

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter


def mark_bt709(context: av.VideoCodecContext) -> None:
    """Make an encoder write the colour space of its frames."""
    context.pix_fmt = "yuv420p"
    context.colorspace, context.color_range = 1, ColorRange.MPEG  # 1: BT.709 in H.264's own table
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def to_yuv(picture: np.ndarray, reformatter: VideoReformatter) -> av.VideoFrame:
    """Convert a picture, uint8 (H, W, 3), both sides even, to a frame for an encoder."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return reformatter.reformat(
        frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
    )


def to_rgb(
    frame: av.VideoFrame, reformatter: VideoReformatter, width: int | None = None, height: int | None = None
) -> np.ndarray:
    """Convert a decoded frame to uint8 (H, W, 3), scaled if ``width`` and ``height`` are given."""
    return reformatter.reformat(frame, width, height, format="rgb24", threads=1).to_ndarray()
