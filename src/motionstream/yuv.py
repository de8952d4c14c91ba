"""Pictures to the frames that video codecs take, and back: yuv420p as BT.709 in limited range, which players expect.

Every codec keeps a ``VideoReformatter`` of its own, and it gets one thread: PyAV's default makes a pool of threads for
each frame, which costs small frames more than the conversion, and cores that are the model's.
"""

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter


def mark_bt709(context: av.VideoCodecContext) -> None:
    """Have an encoder write what its frames' colours mean."""
    context.pix_fmt = "yuv420p"
    context.colorspace, context.color_range = 1, ColorRange.MPEG  # 1: BT.709 in H.264's own table
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def to_yuv(picture: np.ndarray, reformatter: VideoReformatter) -> av.VideoFrame:
    """uint8 (H, W, 3), both sides even, as a frame for an encoder."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return reformatter.reformat(
        frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
    )


def to_rgb(
    frame: av.VideoFrame, reformatter: VideoReformatter, width: int | None = None, height: int | None = None
) -> np.ndarray:
    """A decoded frame as uint8 (H, W, 3), scaled where ``width`` and ``height`` are given."""
    return reformatter.reformat(frame, width, height, format="rgb24", threads=1).to_ndarray()
