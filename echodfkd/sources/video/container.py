"""Open a video file from memory, and read what its container says beside the pixels: streams, rate, edits, turn.

Files are not trusted: some of FFmpeg's formats are lists of other files and addresses, which it opens, and most of its
hundreds of decoders are rarely tested on hostile data. Only the formats and codecs named here are tried, and no frame
larger than `MAX_FRAME_PIXELS` is allocated.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError

FORMATS = ("avi", "mov", "mp4", "m4a", "3gp", "3g2", "mj2")
"""FFmpeg's names of its AVI reader (the first) and of its MP4 reader (all others)."""
CODECS = ("mjpeg", "mpeg4", "h264", "rawvideo", "ffv1")
MAX_FRAME_PIXELS = 1 << 22
"""Largest frame, 2048 x 2048: machines write up to 1920 x 1080."""
PROBED_PIXELS = 1 << 25
"""Largest frame that FFmpeg may decode while it opens a file: the size of a frame up to 7680 x 4320 can be said."""
MAX_VIDEO_BYTES = 1 << 29
"""Largest decoded video in bytes: 1,000 frames of 800 x 600 are 480 MB."""
UNEVEN = 0.25
"""Frames are evenly spaced if each lies within this share of a frame of its even place; a dropped frame moves its
neighbours by up to half a frame."""
Turn = tuple[bool, bool, bool]
"""Whether rows and columns are swapped, and then left and right, and top and bottom."""
UPRIGHT: Turn = (False, False, False)


@contextmanager
def open_video(data: bytes, *, name: str, edits: bool = True) -> Iterator[tuple[Any, Any]]:
    """Open a video file from memory: PyAV's container and its only video stream, set to one thread.

    Args:
        data: the file's content.
        name: the file's name, for the error's sentence.
        edits: whether an MP4's edit list is followed, as players do.

    Raises:
        ClipError: not an AVI or MP4 file of one of `CODECS`, several video streams, frames that are too large, or
            FFmpeg fails in the block.
    """
    import av
    from av.stream import Disposition

    av.logging.set_level(av.logging.PANIC)  # a refused file is reported by our one sentence
    options = {
        "format_whitelist": ",".join(FORMATS),
        "codec_whitelist": ",".join(CODECS),  # FFmpeg decodes a little already while it opens a file
        "max_pixels": str(PROBED_PIXELS),
        "ignore_editlist": "0" if edits else "1",
    }
    try:
        with av.open(io.BytesIO(data), mode="r", options=options) as container:
            streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
            if not streams:
                raise ClipError(f"{name} holds no video stream; expected an AVI or MP4 video")
            if len(streams) > 1:
                raise ClipError(f"{name} holds {len(streams)} video streams; expected one")
            stream = streams[0]
            _check_codec(stream.codec_context, name)
            # A damaged MJPEG picture is an error: its decoder would leave in the rest what its memory held before.
            strict = {"err_detect": "explode"} if stream.codec_context.name == "mjpeg" else {}
            stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS), **strict}
            # One thread for the whole file: on small frames, threads cost three to eight times the decoding itself.
            stream.codec_context.thread_count = 1
            stream.thread_type = "NONE"
            yield container, stream
    except (av.FFmpegError, OverflowError, MemoryError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, av.error.ArgumentError):  # FFmpeg's answer to a format that is not allowed
            reason = "neither an AVI nor an MP4 file"
        raise ClipError(f"{name} is not a readable video ({len(data)} bytes): {reason}") from error


def check_size(name: str, frame: int, width: int, height: int) -> None:
    """Refuse a frame that is too large, or that would make the video too large. Raises `ClipError`."""
    if width * height > MAX_FRAME_PIXELS or width * height * (frame + 1) > MAX_VIDEO_BYTES:
        raise ClipError(
            f"{name} is too large: frame {frame} has {width} x {height} pixels, allowed are at most {MAX_FRAME_PIXELS}"
            f" in a frame and {MAX_VIDEO_BYTES} in a file"
        )


def frame_times(stream: Any, stamps: Sequence[tuple[int | None, int | None]], num_frames: int) -> list[int]:
    """When frames are shown, ascending, in the stream's time base; empty if that is not known.

    Args:
        stream: PyAV's stream.
        stamps: of the packets that are shown: when to show, and when to decode.
        num_frames: frames that came out of them.
    """
    if _is_avi(stream):
        # Chunks are numbered, and no more. One without a picture is fine if another holds two, as XviD writes them.
        stamps = [] if 0 < stream.frames <= num_frames else [(decode, decode) for _, decode in stamps]
    for times in zip(*stamps, strict=True):
        if None not in times:
            return sorted(times)
    return []


def promised_frames(data: bytes, name: str, stream: Any, num_frames: int, times: Sequence[int]) -> int | None:
    """Frames that a file promises to show, None if it says nothing; ``num_frames`` came out of it at ``times``."""
    header = int(stream.frames)
    if header <= 0:
        return None
    if num_frames >= header:
        return header
    if _is_avi(stream):  # the header counts chunks: where only each n-th of them holds a picture, n times too many
        return header // max(1, (times[-1] - times[0]) // (len(times) - 1)) if len(times) > 1 else header
    with open_video(data, name=name, edits=False) as (container, whole):
        stored = sum(bool(packet.size) for packet in container.demux(whole))
    return len(times) if stored >= header else header  # the file is whole, and its edit list cuts some frames


def frame_rate(data: bytes, stream: Any, times: Sequence[int]) -> float:
    """Frames per second by the header, or by the frames' times if those contradict it; 0.0 if neither has a rate.

    Args:
        data: the file's content.
        stream: PyAV's stream.
        times: of the frames, ascending, in the stream's time base.
    """
    if _avi_without_rate(data):
        return 0.0
    said = float(stream.average_rate or 0)
    said = said if math.isfinite(said) and said > 0 else 0.0
    if len(times) < 2 or times[-1] <= times[0] or not stream.time_base:
        return said
    tick = float(stream.time_base)
    seconds, steps = (times[-1] - times[0]) * tick, len(times) - 1
    # Times are rounded to ticks, so that the header's rate is the more exact one of two that agree.
    if said and abs(seconds - steps / said) <= 2 * tick + 0.01 * seconds:
        return said
    return steps / seconds


def check_even(name: str, stream: Any, times: Sequence[int]) -> None:
    """Refuse a video whose frames are not evenly spaced in time.

    Args:
        name: the file's name, for the error's sentence.
        stream: PyAV's stream.
        times: of the frames, ascending, in the stream's time base.

    Raises:
        ClipError: a frame lies more than `UNEVEN` of a frame, and more than a tick, from its even place.
    """
    if not _is_avi(stream):
        check_times(name, times, float(stream.time_base or 1), tick_s=float(stream.time_base or 1))
        return
    try:
        check_times(name, times, 1.0, tick_s=0.0)
    except ClipError:
        gaps = np.diff(times)
        raise ClipError(
            f"{name} has no picture for frame {times[int(np.argmax(gaps > gaps.min()))] + 1} (an empty chunk, for which"
            " players repeat the frame before, or damage); expected a picture for each frame"
        ) from None


def check_times(name: str, times: Sequence[float], unit_s: float, *, tick_s: float) -> None:
    """Refuse times (in units of ``unit_s`` seconds, rounded to ``tick_s`` seconds) that are not evenly spaced.

    Raises:
        ClipError: a frame lies more than `UNEVEN` of a frame, and more than a tick, from its even place.
    """
    gaps = np.diff(np.asarray(times, np.float64)) * unit_s
    if len(gaps) < 2 or (even := gaps.mean()) <= 0:
        return
    away = np.abs(np.cumsum(gaps) - even * np.arange(1, len(gaps) + 1))
    if away.max() > UNEVEN * even + tick_s:
        slowest, fastest = 1.0 / gaps.max(), 1.0 / max(gaps.min(), tick_s, 1e-9)
        raise ClipError(
            f"{name} has a variable frame rate ({slowest:.4g} to {fastest:.4g} frames a second); expected frames that"
            " are evenly spaced"
        )


def display_turn(frame: Any, name: str) -> Turn:
    """How a player turns this frame.

    The display matrix sends the pixel (x, y) to (a x + c y, b x + d y); ISO/IEC 14496-12, 6.2.2.

    Raises:
        ClipError: it is neither a quarter turn nor a flip.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(found)[:20], "<i4").tolist()
    if b == c == 0 and a and d and abs(a) == abs(d):
        return False, a < 0, d < 0
    if a == d == 0 and b and c and abs(b) == abs(c):
        return True, c < 0, b < 0
    if a == b == c == d == 0:  # no turn at all: players do not follow it
        return UPRIGHT
    degrees = round(math.degrees(math.atan2(-b, a)))
    raise ClipError(f"{name} is to be shown turned by {degrees} degrees or stretched; expected quarter turns or flips")


def turned(video: np.ndarray, turn: Turn) -> np.ndarray:
    """Turn (T, H, W) as `display_turn` says."""
    swap, left_right, top_bottom = turn
    video = video.swapaxes(1, 2) if swap else video
    return np.ascontiguousarray(video[:, :: -1 if top_bottom else 1, :: -1 if left_right else 1])


def _check_codec(context: Any, name: str) -> None:
    codec = context.codec.canonical_name if context is not None else "an unknown codec"
    if codec not in CODECS:
        raise ClipError(f"{name} is encoded as {codec}; expected one of {', '.join(CODECS)}")
    check_size(name, 0, context.width, context.height)


def _is_avi(stream: Any) -> bool:
    return bool(stream.container.format.name == "avi")


def _avi_without_rate(data: bytes) -> bool:
    """Whether an AVI names no rate, for which FFmpeg's reader takes 25.

    The rate is dwRate / dwScale of the video stream's header, else 10^6 / dwMicroSecPerFrame of the main header
    (AVI RIFF file reference, AVISTREAMHEADER and AVIMAINHEADER).
    """
    stream, main = data.find(b"vids", 0, 1 << 16), data.find(b"avih", 0, 1 << 12)
    if data[:4] != b"RIFF" or stream < 0 or main < 0 or len(data) < max(stream + 28, main + 12):
        return False
    scale, rate = struct.unpack_from("<II", data, stream + 20)
    return not (scale and rate) and not struct.unpack_from("<I", data, main + 8)[0]
