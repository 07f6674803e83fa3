"""Remember the masks of single frames in an actor, so that overlapping windows of one video share them.

A cache keeps windows. A run that cuts another window in each epoch meets few windows again, but it does meet their
frames again.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from echodfkd.core import clock
from echodfkd.core.mask_codes import MASK_CODES, encode
from echodfkd.core.records import StageSpan
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput

_CODEC = pa.Codec("lz4")
_ENTRY_BYTES = 256
"""Bytes of an entry besides its mask: the key, two objects, and their places in the dictionary."""


class FrameMemory(Teacher):
    """Teaches no frame twice, as far as its memory reaches.

    A frame is known by its pixels, so that the origin of a clip does not matter. Its mask was made beside other
    frames: on most devices that changes a probability in its last digits, and a code here and there by one.

    Args:
        teacher: one that sees a frame at a time (`Teacher.sees_frames`).
        megabytes: of masks, compressed; the entries used longest ago are forgotten first.

    Attributes:
        remembered: frames so far whose mask was known.
    """

    sees_frames = True

    def __init__(self, teacher: Teacher, megabytes: float) -> None:
        assert teacher.sees_frames
        self.teacher = teacher
        self.teacher_id, self.class_names = teacher.teacher_id, teacher.class_names
        self.remembered = 0
        self._masks: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes, self._most = 0, int(megabytes * (1 << 20))

    def compile(self) -> None:
        """See `Teacher.compile`."""
        self.teacher.compile()

    def teach(
        self,
        video_NTHW: np.ndarray,
        clips: Sequence[ClipKey] = (),
        *,
        classes: Sequence[str] | None = None,
        code: str | None = None,
    ) -> TeacherOutput:
        """See `Teacher.teach`. Probabilities are not remembered: they are not rounded."""
        if code is None:
            return self.teacher.teach(video_NTHW, clips, classes=classes)
        start = clock.now()
        N, T, H, W = video_NTHW.shape
        frames = np.ascontiguousarray(video_NTHW).reshape(N * T, H, W)
        kind = f"{code} {H} {W}".encode()
        keys = [hashlib.blake2b(frame.data, digest_size=16, key=kind).digest() for frame in frames]
        masks = np.empty((N * T, len(self.class_names) - 1, H, W), MASK_CODES[code])
        new: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            if key in self._masks:
                masks[place] = self._recall(key, masks[place])
            else:
                new.setdefault(key, place)
        known = sum(key not in new for key in keys)
        self.remembered += known
        faults = self._teach_new(frames, keys, new, masks, code, T) if new else {}
        spans = (StageSpan("teacher_remembered", "", start, clock.now(), 0, known),) if known else ()
        chosen = masks.reshape(N, T, *masks.shape[1:])
        if classes is not None:
            chosen = chosen[:, :, self.places(classes)]
        chosen[list(faults)] = encode(np.zeros(()), code)
        return TeacherOutput(chosen, faults, spans=spans)

    def _teach_new(
        self, frames: np.ndarray, keys: list[bytes], new: dict[bytes, int], masks: np.ndarray, code: str, T: int
    ) -> dict[int, str]:
        """Fill in the masks of frames that are not known, and remember them. Returns the faults by clip."""
        made = self.teacher.teach(frames[list(new.values())][:, None], code=code)
        rows = {key: row for row, key in enumerate(new)}
        faults: dict[int, str] = {}
        for place, key in enumerate(keys):
            if key in new:
                masks[place] = made.masks[rows[key], 0]
                if rows[key] in made.faults:
                    faults[place // T] = made.faults[rows[key]]
        for key, row in rows.items():
            if row not in made.faults:
                self._remember(key, made.masks[row])
        return faults

    def _recall(self, key: bytes, like: np.ndarray) -> np.ndarray:
        self._masks.move_to_end(key)
        data = _CODEC.decompress(self._masks[key], like.nbytes)
        return np.frombuffer(data, like.dtype).reshape(like.shape)

    def _remember(self, key: bytes, mask: np.ndarray) -> None:
        self._masks[key] = _CODEC.compress(np.ascontiguousarray(mask), asbytes=True)
        self._bytes += len(self._masks[key]) + _ENTRY_BYTES
        while self._bytes > self._most:
            _, oldest = self._masks.popitem(last=False)
            self._bytes -= len(oldest) + _ENTRY_BYTES
