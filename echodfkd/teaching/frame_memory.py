"""Masks of single frames that an actor remembers, so that windows of one video that overlap share them.

A cache keeps windows, and a run that cuts another window in each epoch meets few of them again; their frames it does.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from echodfkd.core.mask_codes import MASK_CODES
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.models.teachers.torch_teacher import TorchTeacher

_CODEC = pa.Codec("lz4")
_ENTRY_BYTES = 256
"""What an entry takes beside its mask: the key, two objects, and their places in the dictionary."""


class FrameMemory:
    """A `CodingTeacher` that teaches no frame twice, as far as its memory reaches.

    A frame is known by its pixels, so that nothing needs to be said of where a clip comes from. Its mask is that of
    `TorchTeacher.clip_codes`, which was made beside other frames: on most devices that moves a probability in its last
    digits, and a level here and there by one.

    Args:
        teacher: whose network sees a frame at a time (`TorchTeacher.sees_frames`).
        megabytes: of masks, compressed; those that were met longest ago are forgotten first.

    Attributes:
        remembered: frames so far whose mask was known.
    """

    def __init__(self, teacher: TorchTeacher, megabytes: float) -> None:
        assert teacher.sees_frames
        self.teacher = teacher
        self.teacher_id, self.class_names = teacher.teacher_id, teacher.class_names
        self.remembered = 0
        self._masks: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes, self._most = 0, int(megabytes * (1 << 20))

    def soft_masks(self, video_NTHW: np.ndarray) -> np.ndarray:
        """See `Teacher.soft_masks`. Nothing is remembered of these: they are not rounded."""
        return self.teacher.soft_masks(video_NTHW)

    def clip_codes(
        self, video_NTHW: np.ndarray, clips: Sequence[ClipKey], code: str
    ) -> tuple[np.ndarray, dict[int, str]]:
        """See `CodingTeacher.clip_codes`."""
        N, T, H, W = video_NTHW.shape
        frames = np.ascontiguousarray(video_NTHW).reshape(N * T, H, W)
        kind = f"{code} {H} {W}".encode()
        keys = [hashlib.blake2b(frame.data, digest_size=16, key=kind).digest() for frame in frames]
        codes = np.empty((N * T, len(self.class_names) - 1, H, W), MASK_CODES[code])
        new: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            if key in self._masks:
                self._masks.move_to_end(key)
                codes[place] = np.frombuffer(_CODEC.decompress(self._masks[key], codes[0].nbytes), codes.dtype).reshape(
                    codes.shape[1:]
                )
            else:
                new.setdefault(key, place)
        self.remembered += sum(key not in new for key in keys)
        faults: dict[int, str] = {}
        if new:
            made, unusable = self.teacher.clip_codes(frames[list(new.values())][:, None], (), code)
            rows = {key: row for row, key in enumerate(new)}
            for place, key in enumerate(keys):
                if key in new:
                    codes[place] = made[rows[key], 0]
                    if rows[key] in unusable:
                        faults[place // T] = unusable[rows[key]]
            for key, row in rows.items():
                if row not in unusable:
                    self._remember(key, made[row])
        return codes.reshape(N, T, *codes.shape[1:]), faults

    def _remember(self, key: bytes, mask: np.ndarray) -> None:
        self._masks[key] = _CODEC.compress(np.ascontiguousarray(mask), asbytes=True)
        self._bytes += len(self._masks[key]) + _ENTRY_BYTES
        while self._bytes > self._most:
            _, oldest = self._masks.popitem(last=False)
            self._bytes -= len(oldest) + _ENTRY_BYTES
