"""Encoders against other decoders: PyAV's H.264, simplejpeg's JPEG."""

import av
import numpy as np
import pytest
import simplejpeg
from skimage.data import chelsea

from motionstream import wire
from motionstream.server.media import H264Encoder, JpegEncoder, codec_string, make_encoder

SIZE = (96, 128)


def moving(first: int, count: int) -> np.ndarray:
    """A cat that moves a pixel a frame."""
    cat = chelsea()[40:136, 150:278]
    return np.stack([np.roll(cat, number, axis=1) for number in range(first, first + count)])


def decode(parts, decoder=None) -> np.ndarray:
    decoder = decoder or av.CodecContext.create("h264", "r")
    frames = [frame for part in parts for frame in decoder.decode(av.Packet(part))]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in [*frames, *decoder.decode(None)]])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def test_h264_shows_the_frames() -> None:
    encoder, frames = H264Encoder(SIZE, 24.0), moving(0, 33)
    chunks = [encoder.encode(part, keyframe=False) for part in (frames[:9], frames[9:21], frames[21:])]
    assert [len(chunk.parts) for chunk in chunks] == [9, 12, 12], "no frame waits for a later one"
    assert [chunk.keyframes for chunk in chunks] == [(0,), (), ()]
    decoded = decode([part for chunk in chunks for part in chunk.parts])
    assert len(decoded) == 33
    assert min(psnr(a, b) for a, b in zip(decoded, frames, strict=True)) > 36
    # A shift in colour hides in the noise of one pixel: levels and matrix must be right on average, too.
    assert np.abs(decoded.mean((0, 1, 2)) - frames.mean((0, 1, 2))).max() < 2


def test_after_a_keyframe_nothing_before_is_needed() -> None:
    encoder, frames = H264Encoder(SIZE, 24.0), moving(0, 33)
    encoder.encode(frames[:9], keyframe=False)
    encoder.encode(frames[9:21], keyframe=False)  # dropped on the way
    after = encoder.encode(frames[21:], keyframe=True)
    assert after.keyframes == (0,)
    decoded = decode(after.parts)
    assert len(decoded) == 12 and min(psnr(a, b) for a, b in zip(decoded, frames[21:], strict=True)) > 36
    with pytest.raises((av.FFmpegError, ValueError)):  # while from the middle nothing can be seen
        decode(encoder.encode(moving(33, 12), keyframe=False).parts)


def test_every_frame_is_one_annex_b_access_unit_without_reordering() -> None:
    encoder = H264Encoder(SIZE, 24.0)
    parts = encoder.encode(moving(0, 12), keyframe=False).parts
    kinds = [[unit[0] & 31 for unit in part.split(b"\x00\x00\x01")[1:]] for part in parts]
    assert {7, 8, 5} <= set(kinds[0]), "parameter sets and an IDR slice"
    assert all(units == [1] for units in kinds[1:]), "one slice each, of the baseline's P kind"
    decoder = av.CodecContext.create("h264", "r")
    assert all(len(decoder.decode(av.Packet(part))) == 1 for part in parts), "each can be shown when it comes"


def test_the_codec_is_named_as_webcodecs_wants_it() -> None:
    encoded = H264Encoder(SIZE, 24.0).encode(moving(0, 1), keyframe=False)
    assert encoded.codec is not None and encoded.codec.startswith("avc1.42c0"), "constrained baseline"
    assert encoded.codec == codec_string(encoded.parts[0])
    assert encoded.kind == wire.H264


def test_keyframes_come_by_themselves_now_and_then() -> None:
    encoder, frames, first = H264Encoder((32, 32), 12.0), np.zeros((12, 32, 32, 3), np.uint8), 0
    begun = []
    for number in range(40):
        count = 9 if number == 0 else 12
        keyframes = encoder.encode(frames[:count], keyframe=number == 15).keyframes
        assert keyframes in ((), (0,)), "chunks begin with them"
        begun += [first] * len(keyframes)
        first += count
    assert begun == [0, 129, 177, 297, 417], "after KEYFRAME_SECONDS, and so long after one that was asked for"


def test_jpeg_shows_the_frames_each_by_itself() -> None:
    frames = moving(0, 3)
    encoded = JpegEncoder().encode(frames, keyframe=False)
    assert (encoded.kind, encoded.keyframes, encoded.codec) == (wire.JPEG, (0, 1, 2), None)
    for part, frame in zip(encoded.parts, frames, strict=True):
        assert psnr(simplejpeg.decode_jpeg(part), frame) > 36


def test_frames_may_be_views_of_larger_ones() -> None:
    frames = moving(0, 2)[:, ::3, ::4]
    assert not frames.flags.c_contiguous
    for codec in ("jpeg", "h264"):
        assert len(make_encoder(codec, frames.shape[1:3], 24).encode(frames, keyframe=True).parts) == 2
