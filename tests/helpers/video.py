"""Video files of any codec, pixel format and container, written with PyAV."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np


def encode(
    video: np.ndarray,
    codec: str,
    pixels: str,
    *,
    layout: str = "avi",
    rate: int = 50,
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
    path: str | None = None,
) -> bytes:
    """Grey frames (T, H, W) as a file.

    Args:
        video: the frames.
        codec: name of FFmpeg's encoder.
        pixels: its pixel format.
        layout: FFmpeg's name of the container.
        rate: frames a second.
        options: of the encoder.
        times: of the frames in thousandths of a second; None spaces them evenly.
        prepare: called with the stream before the first frame.
        path: of the file that is written, with its index before the pictures; None writes to memory.
    """
    sink = io.BytesIO()
    index_first = {} if path is None else {"movflags": "faststart"}
    with av.open(path or sink, "w", format=layout, options=index_first) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = video.shape[2], video.shape[1], pixels
        stream.codec_context.thread_count = 1
        prepare(stream)
        for number, picture in enumerate(video):
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format=pixels)
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
                stream.codec_context.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()
