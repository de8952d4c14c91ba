"""Colours survive the way through yuv420p, whole and scaled, and are marked as what they are."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, VideoReformatter

from motionstream.yuv import mark_bt709, to_rgb, to_yuv

COLOURS = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 30, 40), (20, 180, 60), (30, 60, 220)]


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_comes_back(colour):
    picture = np.full((16, 24, 3), colour, np.uint8)
    reformatter = VideoReformatter()
    frame = to_yuv(picture, reformatter)
    assert (frame.format.name, frame.height, frame.width) == ("yuv420p", 16, 24)
    back = to_rgb(frame, reformatter)
    assert back.shape == picture.shape
    assert np.abs(back.astype(int) - picture).max() <= 3


def test_one_reformatter_serves_both_ways_and_sizes():
    reformatter = VideoReformatter()
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, 12:] = 240
    for _ in range(2):
        half = to_rgb(to_yuv(picture[:, ::-1], reformatter), reformatter, 12, 8)
        assert half.shape == (8, 12, 3)
        assert half[:, :4].min() > 230 and half[:, -4:].max() < 10


def test_an_encoder_writes_what_its_colours_are():
    context = av.CodecContext.create("libx264", "w")
    mark_bt709(context)
    assert context.pix_fmt == "yuv420p" and context.color_range == ColorRange.MPEG
    assert (context.colorspace, context.color_primaries, context.color_trc) == (1, ColorPrimaries.BT709, ColorTrc.BT709)
