"""Decode a video file from memory to grey frames, all or those of a window, and refuse one that is not whole.

Legend: T frames, H rows, W columns.

Every decoder tried (PyAV, OpenCV, decord) ends a truncated AVI early without an error, so the number of
decoded frames is compared with the header and, if the caller knows it, with the data set's list.

Files are not trusted: some of FFmpeg's formats are lists of other files and addresses, which it opens, and most of its
hundreds of decoders are rarely tested on hostile data. Only the formats and codecs named here are tried, and no frame
larger than `MAX_FRAME_PIXELS` is allocated.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError

FORMATS = ("avi", "mov", "mp4", "m4a", "3gp", "3g2", "mj2")
"""FFmpeg's names of its AVI reader (the first) and of its MP4 reader (all others)."""
CODECS = ("mjpeg", "mpeg4", "h264", "rawvideo", "ffv1")
INTRA_CODECS = ("mjpeg", "rawvideo")
"""Codecs with one independent frame per packet: packets outside the window can be skipped."""
MAX_FRAME_PIXELS = 1 << 22
"""Largest frame, 2048 x 2048: machines write up to 1920 x 1080."""
MAX_VIDEO_BYTES = 1 << 29
"""Largest decoded video in bytes: 1,000 frames of 800 x 600 are 480 MB."""


@dataclass(frozen=True)
class DecodedVideo:
    """One decoded file.

    ``video`` uint8 (T, H, W), grey 0..255 full range. ``fps`` is the header's frame rate, 0.0 if it has
    none. ``header_frames`` is the header's frame count, None if it has none. ``warnings`` are sentences for the user.
    """

    video: np.ndarray
    fps: float
    header_frames: int | None
    warnings: tuple[str, ...] = ()


Window = Callable[[int, float], tuple[int, int]]
"""Number of frames, the header's rate (0.0: none) -> the first frame to decode, and the one after the last."""


def decode_video(
    data: bytes, *, name: str, expected_frames: int | None = None, window: Window | None = None
) -> DecodedVideo:
    """Decode AVI or MP4 (MJPEG, MPEG-4 as XVID, H.264, uncompressed, FFV1) to grey frames.

    Limited-range streams (black at 16, white at 235) are expanded to 0..255. Grey is the decoder's luma
    plane, which lies within 2 levels of OpenCV's BGR frame turned to grey: OpenCV rounds twice more.

    Args:
        data: the file's content.
        name: the file's name, for the error's sentence.
        expected_frames: frames that the data set's list promises, or None. More frames than that are
            accepted: published synthetic lists hold counts that are too small, but a file cut short
            always has fewer.
        window: frames to decode. If the codec is one of `INTRA_CODECS`, the others are left black and damage in them
            is not detected, except for the last one: a truncated file ends in it.

    Raises:
        ClipError: as raised by ``window``, or not a video, another codec, no frames, unreadable, frames of several
            sizes, fewer frames than the header or ``expected_frames`` says, or larger than `MAX_FRAME_PIXELS` or
            `MAX_VIDEO_BYTES`.
    """
    with open_video(data, name=name) as (container, stream):
        header_frames = int(stream.frames) if stream.frames > 0 else None
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        fps = fps if math.isfinite(fps) else 0.0
        if window is None or stream.codec_context.name not in INTRA_CODECS:
            frames, reason = _decode_frames(container.decode(stream), name)
            _check_count(name, len(frames), header_frames, expected_frames, reason)
            return DecodedVideo(np.stack(frames), fps, header_frames)
        packets = [packet for packet in container.demux(stream) if packet.size]
        _check_count(name, len(packets), header_frames, expected_frames, "")
        first, stop = window(len(packets), fps)
        wanted = sorted({*range(first, stop), len(packets) - 1})
        decoded = (frame for place in wanted for frame in packets[place].decode()[:1])
        frames, reason = _decode_frames(decoded, name, places=wanted)
        if reason or len(frames) < len(wanted):
            raise ClipError(f"{name} cannot be read at frame {wanted[len(frames)]}: {reason or 'no picture'}")
    video = np.zeros((len(packets), *frames[0].shape), np.uint8)  # memory that is not touched takes none
    video[wanted] = frames
    return DecodedVideo(video, fps, header_frames)


@contextmanager
def open_video(data: bytes, *, name: str) -> Iterator[tuple[Any, Any]]:
    """Open a video file from memory: PyAV's container and its first video stream, set to one thread.

    Raises:
        ClipError: not an AVI or MP4 file of one of `CODECS`, or FFmpeg fails in the block.
    """
    import av

    av.logging.set_level(av.logging.PANIC)  # a refused file is reported by our one sentence
    limits = {"format_whitelist": ",".join(FORMATS), "max_pixels": str(MAX_FRAME_PIXELS)}
    try:
        # The codecs are named twice: FFmpeg decodes a little already while it opens a file.
        with av.open(io.BytesIO(data), mode="r", options={**limits, "codec_whitelist": ",".join(CODECS)}) as container:
            if not container.streams.video:
                raise ClipError(f"{name} holds no video stream; expected an AVI or MP4 video")
            stream = container.streams.video[0]
            codec = stream.codec_context.name if stream.codec_context is not None else "an unknown codec"
            if codec not in CODECS:
                raise ClipError(f"{name} is encoded as {codec}; expected one of {', '.join(CODECS)}")
            stream.codec_context.options = limits
            # One thread for the whole file: on small frames, threads cost three to eight times the decoding itself.
            stream.codec_context.thread_count = 1
            stream.thread_type = "NONE"
            yield container, stream
    except (av.FFmpegError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, av.error.ArgumentError):  # FFmpeg's answer to a format that is not allowed
            reason = "neither an AVI nor an MP4 file"
        raise ClipError(f"{name} is not a readable video ({len(data)} bytes): {reason}") from error


def _decode_frames(decoded: Iterable[Any], name: str, places: Sequence[int] = ()) -> tuple[list[np.ndarray], str]:
    """All grey frames up to the first fault, and that fault's reason ("" if there is none).

    ``places`` are the numbers of the frames in the file if some are skipped.
    """
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for the whole file: a conversion context per frame costs more than it
    frames: list[np.ndarray] = []
    try:
        for frame in decoded:
            place = places[len(frames)] if places else len(frames)
            if frame.is_corrupt:
                return frames, f"frame {place} is damaged"
            pixels = frame.width * frame.height
            if pixels > MAX_FRAME_PIXELS or pixels * (place + 1) > MAX_VIDEO_BYTES:
                raise ClipError(
                    f"{name} is too large: frame {place} has {frame.width} x {frame.height} pixels, allowed are"
                    f" {MAX_FRAME_PIXELS} in a frame and {MAX_VIDEO_BYTES} in a file"
                )
            grey = reformatter.reformat(frame, format="gray", threads=1).to_ndarray()
            if frames and grey.shape != frames[0].shape:
                raise ClipError(f"{name} changes its frame size from {frames[0].shape} to {grey.shape}; expected one")
            frames.append(grey)
    except av.FFmpegError as error:
        return frames, str(error.strerror)
    return frames, ""


def _check_count(name: str, got: int, header: int | None, expected: int | None, reason: str) -> None:
    because = f" ({reason})" if reason else ""
    if got == 0:
        raise ClipError(f"{name} has no readable frame, its header says {header or 'nothing'}{because}")
    if header is not None and got < header:
        raise ClipError(f"{name} has {got} readable frames, its header says {header}{because}")
    if expected is not None and got < expected:
        raise ClipError(f"{name} has {got} readable frames, the file list says {expected}{because}")
    if reason:
        raise ClipError(f"{name} cannot be read after {got} frames: {reason}")
