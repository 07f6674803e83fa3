"""Decode a video file from memory to grey frames, all or those of a window, and refuse one that is not whole.

Legend: T frames, H rows, W columns.

Every decoder tried (PyAV, OpenCV, decord) ends a truncated AVI early without an error, so the number of
decoded frames is compared with the header and, if the caller knows it, with the data set's list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError
from echodfkd.sources.video.container import (
    UPRIGHT,
    Turn,
    check_even,
    check_size,
    display_turn,
    frame_rate,
    frame_times,
    open_video,
    promised_frames,
    turned,
)
from echodfkd.sources.video.jpeg import of_one_layout


@dataclass(frozen=True)
class DecodedVideo:
    """One decoded file.

    ``video`` uint8 (T, H, W), grey 0..255 full range, turned and cut as the container says. ``fps`` is the frame rate,
    0.0 if the file has none. ``header_frames`` is the number of frames that the container promises to show, None if it
    says nothing. ``pixel_aspect`` is the width of a pixel over its height.
    """

    video: np.ndarray
    fps: float
    header_frames: int | None
    pixel_aspect: float = 1.0


Window = Callable[[int, float], tuple[int, int]]
"""Number of frames, the file's rate (0.0: none) -> the first frame to decode, and the one after the last."""


def decode_video(
    data: bytes, *, name: str, expected_frames: int | None = None, window: Window | None = None
) -> DecodedVideo:
    """Decode AVI or MP4 (MJPEG, MPEG-4 as XVID, H.264, uncompressed, FFV1) to grey frames.

    Limited-range streams (black at 16, white at 235) are expanded to 0..255. Grey is the decoder's luma plane. On grey
    pixels it lies within 2 levels of OpenCV's BGR frame turned to grey, which rounds twice more. On coloured pixels
    OpenCV clips to 0..255 on its way through BGR: single pixels of a public clip differed by 47, a clip's mean by 0.35.
    Transparency is ignored: pixels count as they are stored.

    Args:
        data: the file's content.
        name: the file's name, for the error's sentence.
        expected_frames: frames that the data set's list promises, or None. More frames than that are
            accepted: published synthetic lists hold counts that are too small, but a file cut short
            always has fewer.
        window: frames to decode. They are the pixels of the whole file. If each packet stands for itself
            (`_INDEPENDENT`), the others are left black and damage in them is not detected, except for the last one: a
            truncated file ends in it.

    Raises:
        ClipError: as raised by ``window`` or `open_video`, no frames, unreadable, frames of several sizes, fewer frames
            than the header or ``expected_frames`` says, larger than `MAX_FRAME_PIXELS` or `MAX_VIDEO_BYTES`,
            interlaced, not evenly spaced in time, or turned by less than a quarter.
    """
    with open_video(data, name=name) as (container, stream):
        packets: Iterable[Any] = container.demux(stream)
        independent = _INDEPENDENT.get(stream.codec_context.name)
        if window is not None and independent is not None:
            packets = list(packets)
            if independent(stream, packets):
                return _decode_window(data, name, stream, packets, expected_frames, window)
        return _decode_whole(data, name, stream, packets, expected_frames)


def _decode_whole(
    data: bytes, name: str, stream: Any, packets: Iterable[Any], expected_frames: int | None
) -> DecodedVideo:
    shown: list[tuple[int | None, int | None]] = []

    def decoded() -> Iterator[Any]:
        for packet in packets:
            if _is_shown(packet):
                _check_picture(packet, name, len(shown))
                shown.append((packet.pts, packet.dts))
            yield from packet.decode()

    frames, turn, reason = _decode_frames(decoded(), name)
    times = frame_times(stream, shown, len(frames))
    check_even(name, stream, times)
    promised = promised_frames(data, name, stream, len(frames), times)
    _check_count(name, len(frames), promised, expected_frames, reason)
    fps = frame_rate(data, stream, times)
    return DecodedVideo(turned(np.stack(frames), turn), fps, promised, _pixel_aspect(stream, turn))


def _decode_window(
    data: bytes, name: str, stream: Any, packets: Sequence[Any], expected_frames: int | None, window: Window
) -> DecodedVideo:
    """As `decode_video` for packets that stand for themselves."""
    shown = [packet for packet in packets if _is_shown(packet)]
    times = frame_times(stream, [(packet.pts, packet.dts) for packet in shown], len(shown))
    check_even(name, stream, times)
    promised = promised_frames(data, name, stream, len(shown), times)
    _check_count(name, len(shown), promised, expected_frames, "")
    fps = frame_rate(data, stream, times)
    first, stop = window(len(shown), fps)
    wanted = sorted({*range(first, stop), len(shown) - 1})
    for place in wanted:
        _check_picture(shown[place], name, place)
    decoded = (frame for place in wanted for frame in shown[place].decode()[:1])
    frames, turn, reason = _decode_frames(decoded, name, places=wanted)
    if reason or len(frames) < len(wanted):
        raise ClipError(f"{name} cannot be read at frame {wanted[len(frames)]}: {reason or 'no picture'}")
    pictures = turned(np.stack(frames), turn)
    video = np.zeros((len(shown), *pictures.shape[1:]), np.uint8)  # memory that is not touched takes none
    video[wanted] = pictures
    return DecodedVideo(video, fps, promised, _pixel_aspect(stream, turn))


def _pictures_of_one_layout(stream: Any, packets: Sequence[Any]) -> bool:
    """Whether no MJPEG picture takes a table or a setting from another: files may hold tables in the first only."""
    return of_one_layout(bytes(packet) for packet in packets if packet.size) and _none_has(packets, "new_extradata")


def _true_colours(stream: Any, packets: Sequence[Any]) -> bool:
    """Whether uncompressed pixels are colours, and no numbers of colours in a palette that an earlier packet set."""
    pixels = stream.codec_context.format  # None if the file names none that FFmpeg knows
    return pixels is not None and not pixels.has_palette and _none_has(packets, "palette", "new_extradata")


def _none_has(packets: Sequence[Any], *kinds: str) -> bool:
    """Whether no packet brings such data beside its picture, which change how later packets are decoded."""
    return not any(packet.has_sidedata(kind) for packet in packets for kind in kinds)


_INDEPENDENT = {"mjpeg": _pictures_of_one_layout, "rawvideo": _true_colours}
"""Codec -> whether each packet of such a file stands for itself, so that packets outside the window can be skipped.
The decoders of all other codecs keep earlier pictures or adapt to them."""


def _is_shown(packet: Any) -> bool:
    """Whether a packet holds a frame (the last of a file is empty) that the edit list keeps."""
    return bool(packet.size) and not packet.is_discard


def _check_picture(packet: Any, name: str, frame: int) -> None:
    """Refuse an uncompressed picture of up to 8 bits a pixel that is too short: FFmpeg leaves its rest as it finds it.

    It refuses those of more bits itself.
    """
    context = packet.stream.codec_context
    bits = context.bits_per_coded_sample
    if context.name == "rawvideo" and 1 <= bits <= 8 and packet.size * 8 < context.width * context.height * bits:
        raise ClipError(
            f"{name} has {packet.size} bytes in frame {frame}, too few for {context.width} x {context.height} pixels"
        )


def _pixel_aspect(stream: Any, turn: Turn) -> float:
    """Of a pixel as it is shown: a quarter turn swaps its sides. A file without one has square pixels."""
    shape = float(stream.sample_aspect_ratio or 1)
    return 1.0 / shape if turn[0] and shape > 0 else shape


def _decode_frames(decoded: Iterable[Any], name: str, places: Sequence[int] = ()) -> tuple[list[np.ndarray], Turn, str]:
    """All grey frames up to the first fault, how they are turned, and that fault's reason ("" if there is none).

    ``places`` are the numbers of the frames in the file if some are skipped.
    """
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for the whole file: a conversion context per frame costs more than it
    frames: list[np.ndarray] = []
    turn, rotation = UPRIGHT, 0
    try:
        for frame in decoded:
            place = places[len(frames)] if places else len(frames)
            if frame.is_corrupt:
                return frames, turn, f"frame {place} is damaged"
            check_size(name, place, frame.width, frame.height)
            if frame.interlaced_frame:
                raise ClipError(f"{name} is interlaced: frame {place} holds two half pictures; expected whole ones")
            if not frames:
                turn, rotation = display_turn(frame, name), frame.rotation
            elif frame.rotation != rotation:
                raise ClipError(f"{name} is turned from frame {place} on; expected one orientation")
            if frame.format.has_palette:
                if not np.diff(np.frombuffer(frame.planes[1], np.uint32) & 0xFFFFFF).any():
                    raise ClipError(
                        f"{name} has numbers of colours for pixels, and no palette that says which they are"
                    )
                frame = reformatter.reformat(frame, format="bgr24", threads=1)  # to grey at once, it rounds twice
            grey = reformatter.reformat(frame, format="gray", threads=1).to_ndarray()
            if frames and grey.shape != frames[0].shape:
                raise ClipError(f"{name} changes its frame size from {frames[0].shape} to {grey.shape}; expected one")
            frames.append(grey)
    except av.FFmpegError as error:
        return frames, turn, str(error.strerror)
    return frames, turn, ""


def _check_count(name: str, got: int, promised: int | None, expected: int | None, reason: str) -> None:
    because = f" ({reason})" if reason else ""
    if got == 0:
        raise ClipError(f"{name} has no readable frame, its header says {promised or 'nothing'}{because}")
    if promised is not None and got < promised:
        raise ClipError(f"{name} has {got} readable frames, its header says {promised}{because}")
    if expected is not None and got < expected:
        raise ClipError(f"{name} has {got} readable frames, the file list says {expected}{because}")
    if reason:
        raise ClipError(f"{name} cannot be read after {got} frames: {reason}")
