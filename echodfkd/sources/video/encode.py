"""Encode frames to a video file in memory: MJPEG AVI for data sets, H.264 MP4 for browsers.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import numpy as np

_LARGEST_RATE_TERM = 100_000
"""Bound of the denominator of a frame rate as a fraction: AVI and MP4 store two integers."""


def encode_avi(video: np.ndarray, fps: float) -> bytes:
    """MJPEG in AVI, the format of EchoNet-Dynamic's Videos folder.

    Args:
        video: uint8 (T, H, W) grey.
        fps: frames per second, above 0.

    Returns:
        The file's content. Quantiser 2 of 31: the mean error is about one grey level on echo clips.
    """
    assert video.ndim == 3, f"an AVI takes grey (T, H, W), got {video.shape}"
    return _encode(video, fps, container="avi", codec="mjpeg", pix_fmt="yuvj420p", options={}, quantiser=2)


def encode_mp4(video: np.ndarray, fps: float) -> bytes:
    """H.264 yuv420p in MP4, which every browser plays.

    Args:
        video: uint8 (T, H, W) grey or (T, H, W, 3) RGB. Odd sides get one more row or column, a copy of
            the last: yuv420p stores colour for blocks of 2 x 2 pixels.
        fps: frames per second, above 0.

    Returns:
        The file's content.
    """
    odd_H, odd_W = video.shape[1] % 2, video.shape[2] % 2
    if odd_H or odd_W:
        padding = [(0, 0), (0, odd_H), (0, odd_W)] + [(0, 0)] * (video.ndim - 3)
        video = np.pad(video, padding, mode="edge")
    # x264's macroblock tree gives other bytes from call to call (seen on frames of 112 x 112): previews must not
    options = {"crf": "18", "preset": "veryfast", "mbtree": "0"}
    return _encode(video, fps, container="mp4", codec="libx264", pix_fmt="yuv420p", options=options, quantiser=0)


def _encode(
    video: np.ndarray, fps: float, *, container: str, codec: str, pix_fmt: str, options: dict[str, str], quantiser: int
) -> bytes:
    import av
    from av.video.reformatter import VideoReformatter

    assert video.dtype == np.uint8, f"expected uint8, got {video.dtype}"
    assert len(video) > 0, "a file needs at least one frame"
    assert fps > 0, f"fps is {fps}"
    assert video.ndim == 3 or video.shape[3:] == (3,), f"expected (T, H, W) or (T, H, W, 3), got {video.shape}"
    sink = io.BytesIO()
    reformatter = VideoReformatter()
    with av.open(sink, mode="w", format=container) as output:
        stream: Any = output.add_stream(
            codec, rate=Fraction(fps).limit_denominator(_LARGEST_RATE_TERM), options=options
        )
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1  # one thread: the same bytes on every machine
        if quantiser:
            stream.codec_context.qmin = stream.codec_context.qmax = quantiser
        source = "gray" if video.ndim == 3 else "rgb24"
        for image in video:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=source)
            output.mux(stream.encode(reformatter.reformat(frame, format=pix_fmt, threads=1)))
        output.mux(stream.encode())
    return sink.getvalue()
