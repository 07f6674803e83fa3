"""Decode a whole video file from memory to grey frames, and refuse one that is not whole.

Legend: T frames, H rows, W columns.

Every decoder tried (PyAV, OpenCV, decord) ends a truncated AVI early without a word, so the number of
decoded frames is held against the header and, where the caller knows it, against the data set's list.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.errors import ClipError


@dataclass(frozen=True)
class DecodedVideo:
    """One decoded file.

    ``video`` uint8 (T, H, W), grey 0..255 full range. ``fps`` is the header's frame rate, 0.0 where it has
    none. ``header_frames`` is the header's frame count, None where it has none.
    """

    video: np.ndarray
    fps: float
    header_frames: int | None


def decode_video(data: bytes, *, name: str, expected_frames: int | None = None) -> DecodedVideo:
    """Decode AVI (MJPEG, XVID) or MP4 (H.264) to grey frames.

    Limited-range streams (black at 16, white at 235) are expanded to 0..255. Grey is the decoder's luma
    plane, which lies within 2 levels of OpenCV's BGR frame turned to grey: OpenCV rounds twice more.

    Args:
        data: the file's content.
        name: the file's name, for the error's sentence.
        expected_frames: frames that the data set's list promises, or None. More frames than that are
            accepted: published synthetic lists hold counts that are too small, but a file cut short
            always has fewer.

    Raises:
        ClipError: not a video, no frames, unreadable, frames of several sizes, or fewer frames than
            the header or ``expected_frames`` says.
    """
    import av

    av.logging.set_level(av.logging.PANIC)  # a refused file is reported by our one sentence
    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            if not container.streams.video:
                raise ClipError(f"{name} holds no video stream; expected an AVI or MP4 video")
            stream = container.streams.video[0]
            header_frames = int(stream.frames) or None
            fps = float(stream.average_rate or stream.guessed_rate or 0)
            frames, reason = _decode_frames(container, stream, name)
    except av.FFmpegError as error:
        raise ClipError(f"{name} is not a readable video ({len(data)} bytes): {error.strerror}") from error
    _check_count(name, len(frames), header_frames, expected_frames, reason)
    return DecodedVideo(np.stack(frames), fps, header_frames)


def _decode_frames(container: Any, stream: Any, name: str) -> tuple[list[np.ndarray], str]:
    """All grey frames up to the first fault, and that fault's reason ("" where there is none)."""
    import av
    from av.video.reformatter import VideoReformatter

    # One thread and one reformatter for the whole file: on small frames, threads and a conversion
    # context per frame cost three to eight times the decoding itself.
    stream.codec_context.thread_count = 1
    stream.thread_type = "NONE"
    reformatter = VideoReformatter()
    frames: list[np.ndarray] = []
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                return frames, f"frame {len(frames)} is damaged"
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
