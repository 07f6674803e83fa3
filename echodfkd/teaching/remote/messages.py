"""Messages between a remote teacher and its service, protocol version 1: encoding, decoding and size bounds.

``GET /v1/teacher`` answers JSON: ``protocol``, ``teacher_id``, ``class_names``, ``limits``, ``version``.
``POST /v1/masks`` takes a message with video and answers one with masks. A message is ``EDM1``, the length of a JSON
header as 4 bytes (little endian), that header, and one zstd frame of a uint8 array in C order. The header has
``shape``, ``sha256`` (of the zstd frame as it is sent: a damaged one is not decompressed), ``dtype`` and ``codec``;
that of an answer also ``teacher_id`` and ``unusable`` (rows of clips whose mask is not finite). Every refusal is
JSON, ``{"error": sentence}``.

Why not Arrow or npy: one array needs no schema, and forty lines that bound every size before it is allocated are a
smaller target than a parser of either.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

import echodfkd
from echodfkd.config.rules.teacher import MAX_CHANNELS
from echodfkd.core.errors import InputError
from echodfkd.sources.written.shards import CODEC, LEVEL
from echodfkd.storage.untrusted import parse_json_object

PROTOCOL = 1
MEDIA_TYPE = "application/vnd.echodfkd.masks"
MAGIC = b"EDM1"
MAX_HEADER_BYTES = 1 << 16
MAX_TEXT_BYTES = 1 << 16
"""Largest answer that is JSON."""
MAX_LIMIT = 1 << 32
"""No limit that a service announces may be larger."""

_TEACHER_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""It becomes part of a cache's paths."""
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


class TooLargeError(InputError):
    """A request beyond the service's limits."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request: its bytes, on the wire and decompressed; frames of all its clips; pixels of a longer side.

    Example: ``Limits(max_body_bytes=64 << 20, max_frames=1024, max_side=1024)``.
    """

    max_body_bytes: int
    max_frames: int
    max_side: int

    def held_bytes(self, num_classes: int) -> int:
        """Most bytes that the service holds for one request, beside what its teacher needs to teach a part of it.

        The body and the frames, then the masks and, while it is put together, the answer twice: (2 + 3 C)
        max_body_bytes with the answer's overhead.
        """
        return 2 * self.max_body_bytes + 3 * answer_bound((num_classes * self.max_body_bytes,))

    def clips_in(self, shape_THW: tuple[int, int, int]) -> int:
        """How many clips of this shape fit in one request, however badly they compress; 0 if not even one does."""
        T, H, W = shape_THW
        if max(H, W) > self.max_side:
            return 0
        room = self.max_body_bytes - len(MAGIC) - 4 - MAX_HEADER_BYTES
        return max(0, min(self.max_frames // T, room // (T * H * W + T * H * W // 128 + 64)))


@dataclass(frozen=True)
class ServiceInfo:
    """Description of a service: its teacher, the teacher's classes, and the limits of a request."""

    teacher_id: str
    class_names: tuple[str, ...]
    limits: Limits


@dataclass(frozen=True)
class MaskResponse:
    """One answer: ``masks`` uint8 round(255 p), (N, T, C, H, W); they are 0 in the rows ``unusable``.

    On the wire, masks of one class have no class axis.
    """

    masks: np.ndarray
    teacher_id: str
    unusable: tuple[int, ...]


def encode_info(info: ServiceInfo) -> bytes:
    """The answer to ``GET /v1/teacher``."""
    values = {**asdict(info), "protocol": PROTOCOL, "version": echodfkd.__version__}
    return json.dumps(values, sort_keys=True).encode()


def decode_info(data: bytes, where: str) -> ServiceInfo:
    """Decode the answer to ``GET /v1/teacher``. Raises `InputError` if a part is missing or malformed."""
    values = parse_json_object(data, where)
    if values.get("protocol") != PROTOCOL:
        raise InputError(f"{where} speaks protocol {str(values.get('protocol'))[:40]!r}, not {PROTOCOL}")
    teacher_id, limits = values.get("teacher_id"), values.get("limits")
    names: Any = values.get("class_names")
    if not (isinstance(teacher_id, str) and _TEACHER_ID.fullmatch(teacher_id)):
        raise InputError(f"{where}: its teacher_id {str(teacher_id)[:80]!r} is no plain name")
    plain = isinstance(names, list) and all(isinstance(name, str) and _CLASS.fullmatch(name) for name in names)
    if not plain or not 2 <= len(names) <= MAX_CHANNELS + 1 or names[0] != "background" or len(set(names)) < len(names):
        raise InputError(
            f"{where}: its class_names {str(names)[:80]!r} are no list of names that begins with background"
        )
    found = limits if isinstance(limits, dict) else {}
    known = {name: found.get(name) for name in Limits.__annotations__}
    if not all(type(value) is int and 0 < value <= MAX_LIMIT for value in known.values()):
        raise InputError(f"{where}: its limits {str(limits)[:80]!r} are no numbers in 1 .. {MAX_LIMIT}")
    return ServiceInfo(teacher_id, tuple(names), Limits(**known))  # type: ignore[arg-type]


def encode_video(video_NTHW: np.ndarray) -> bytes:
    """The body of ``POST /v1/masks`` for uint8 video (N, T, H, W)."""
    return _pack({}, video_NTHW)


def decode_video(data: bytes, limits: Limits) -> np.ndarray:
    """The video of a request, uint8 (N, T, H, W).

    Raises:
        TooLargeError: its shape is beyond the limits; nothing was allocated.
        InputError: it is malformed.
    """
    header, blob = _open(data, "the request")
    shape = _shape(header, "the request", axes=(4,))
    N, T, H, W = shape
    if N * T > limits.max_frames or max(H, W) > limits.max_side or math.prod(shape) > limits.max_body_bytes:
        raise TooLargeError(
            f"the request has {N * T} frames of {H} x {W} pixels, this service takes up to {limits.max_frames} of up to"
            f" {limits.max_side} x {limits.max_side} and {limits.max_body_bytes} bytes decompressed"
        )
    return _array(header, blob, shape, "the request")


def encode_masks(response: MaskResponse) -> bytes:
    """The answer to ``POST /v1/masks``."""
    header = {"teacher_id": response.teacher_id, "unusable": list(response.unusable)}
    return _pack(header, response.masks.reshape(_wire_shape(response.masks.shape)))


def decode_masks(data: bytes, shape: tuple[int, ...], where: str) -> MaskResponse:
    """The masks of an answer. Raises `InputError` if they are damaged or not of this shape (N, T, C, H, W)."""
    header, blob = _open(data, where)
    teacher_id, unusable = header.get("teacher_id"), header.get("unusable")
    if not (isinstance(teacher_id, str) and _TEACHER_ID.fullmatch(teacher_id)):
        raise InputError(f"{where}: its teacher_id {str(teacher_id)[:80]!r} is no plain name")
    if not isinstance(unusable, list) or not all(type(row) is int and 0 <= row < shape[0] for row in unusable):
        raise InputError(f"{where}: its unusable {str(unusable)[:80]!r} are no rows of {shape[0]} clips")
    found, wanted = _shape(header, where, axes=(4, 5)), _wire_shape(shape)
    if found != wanted:
        raise InputError(f"{where} holds masks of shape {list(found)}, expected {list(wanted)}")
    return MaskResponse(_array(header, blob, shape, where), teacher_id, tuple(unusable))


def _wire_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    N, T, C, H, W = shape
    return (N, T, H, W) if C == 1 else shape


def answer_bound(shape: tuple[int, ...]) -> int:
    """Largest size in bytes of an answer with masks of this shape."""
    size = math.prod(shape)
    return len(MAGIC) + 4 + MAX_HEADER_BYTES + size + size // 128 + 64


def _pack(header: dict[str, Any], array: np.ndarray) -> bytes:
    assert array.dtype == np.uint8, f"messages hold uint8, got {array.dtype}"
    blob = pa.Codec(CODEC, compression_level=LEVEL).compress(np.ascontiguousarray(array), asbytes=True)
    values = {
        **header,
        "shape": list(array.shape),
        "dtype": "uint8",
        "codec": CODEC,
        "sha256": hashlib.sha256(blob).hexdigest(),
    }
    text = json.dumps(values, sort_keys=True).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + blob


def _open(data: bytes, where: str) -> tuple[dict[str, Any], memoryview]:
    """Header and array bytes of a message, the latter held against their sha256."""
    start = len(MAGIC) + 4
    size = int.from_bytes(data[len(MAGIC) : start], "little")
    if data[: len(MAGIC)] != MAGIC or size > MAX_HEADER_BYTES or len(data) < start + size:
        raise InputError(f"{where} is no message of this protocol ({len(data)} bytes), or was cut off")
    header = parse_json_object(data[start : start + size], where)
    blob = memoryview(data)[start + size :]
    if header.get("dtype") != "uint8" or header.get("codec") != CODEC:
        raise InputError(
            f"{where} holds {str(header.get('dtype'))[:40]!r} as {str(header.get('codec'))[:40]!r}, expected uint8 as"
            f" {CODEC}"
        )
    if hashlib.sha256(blob).hexdigest() != header.get("sha256"):
        raise InputError(f"{where}: its bytes do not have the sha256 in its header, it was damaged on the way")
    return header, blob


def _shape(header: dict[str, Any], where: str, *, axes: Sequence[int]) -> tuple[int, ...]:
    shape: Any = header.get("shape")
    fits = isinstance(shape, list) and len(shape) in axes
    if not fits or not all(type(side) is int and 0 < side <= MAX_LIMIT for side in shape):
        raise InputError(f"{where}: its shape {str(shape)[:80]} is no list of {axes[0]} numbers above 0")
    return tuple(shape)


def _array(header: dict[str, Any], blob: memoryview, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Decompress an array of this shape, which was checked against the limits."""
    try:
        data = pa.Codec(CODEC).decompress(blob, decompressed_size=math.prod(shape), asbytes=True)
        return np.frombuffer(data, np.uint8).reshape(shape)
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise InputError(f"{where} does not decompress to {list(shape)}") from error
