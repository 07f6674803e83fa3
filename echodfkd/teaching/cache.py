"""Keep masks from run to run, so that a clip that is met again is not taught again.

An entry is one small Parquet file of `MASK_SCHEMA`, ``TEACHER_ID/ab/abcd....parquet`` under the cache's root, named by
a hash of the clip's id and shape. It is written whole or not at all, holds the sha256 of its own bytes and of the
pixels it was made from, and counts only if all of them fit: a damaged or stale entry is taught again and replaced.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from echodfkd.core import clock
from echodfkd.core.errors import ClipError, one_line, plain_sentence
from echodfkd.core.mask_codes import MASK_CODES, PROBABILITY, decode
from echodfkd.core.records import StageSpan
from echodfkd.models.teachers.protocol import ClipKey, Teacher, TeacherOutput
from echodfkd.storage.files import RunStorage
from echodfkd.teaching.mask_files import MAX_BYTES, StoredMask, decode_masks, encode_masks


class CachedTeacher(Teacher):
    """Keeps the masks of another teacher.

    A hit and a miss give the same: masks are rounded to 8 bits (`mask_codes`) either way.

    Args:
        teacher: whose masks are kept.
        root: the cache, a path or an fsspec URL; several processes and runs may share it.
        code: of `mask_codes.MASK_CODES`: how masks are kept. Entries in another code are another run's, and stay.

    Attributes:
        counts: of ``hit``, ``new`` (no entry), ``damaged``, ``stale`` (of other pixels), ``unwritten``.

    Raises:
        InputError: the cache cannot be written.
    """

    def __init__(self, teacher: Teacher, root: str, code: str = PROBABILITY) -> None:
        self.teacher, self.code = teacher, code
        self.teacher_id, self.class_names = teacher.teacher_id, teacher.class_names
        self.counts: Counter[str] = Counter()
        self._storage = RunStorage(root)
        self._storage.check_writable("teacher.cache")

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
        """See `Teacher.teach`; ``code`` is that of the cache, or None."""
        assert code in (None, self.code), "a run has one code"
        output = self._teach(video_NTHW, clips) if clips else self.teacher.teach(video_NTHW, code=self.code)
        masks = output.masks[:, :, self.places(classes)]
        return replace(output, masks=decode(masks) if code is None else masks)

    def _teach(self, video_NTHW: np.ndarray, clips: Sequence[ClipKey]) -> TeacherOutput:
        """Codes of all classes, out of the cache or of the teacher."""
        start = clock.now()
        N, T, H, W = video_NTHW.shape
        codes = np.zeros((N, T, len(self.class_names) - 1, H, W), MASK_CODES[self.code])
        pixels = [hashlib.sha256(video.tobytes()).hexdigest() for video in video_NTHW]
        missing: list[int] = []
        read = written = 0
        for row, clip in enumerate(clips):
            kept, size = self._look_up(clip, codes.shape[1:], pixels[row])
            read += size
            if kept is None:
                missing.append(row)
            else:
                codes[row] = kept
        output = TeacherOutput(codes)
        if missing:
            output = self.teacher.teach(video_NTHW[missing], [clips[row] for row in missing], code=self.code)
            codes[missing] = output.masks
            usable = [row for place, row in enumerate(missing) if place not in output.faults]
            written = sum(self._keep(clips[row], codes[row], pixels[row]) for row in usable)
        end = clock.now()
        spans = [
            StageSpan(stage, "", start, end, count, count * T, size)
            for stage, count, size in (
                ("teacher_cache", N - len(missing), read),
                ("teacher_uncached", len(missing), written),
            )
            if count
        ]
        faults = {missing[place]: reason for place, reason in output.faults.items()}
        return TeacherOutput(codes, faults, spans=(*spans, *output.spans))

    def _name(self, clip: ClipKey, shape: tuple[int, ...]) -> str:
        code = "" if self.code == PROBABILITY else f"|{self.code}"  # as in entries that are older than the codes
        what = f"{clip.clip_id}|{clip.window_start}|{list(shape)}{code}"
        key = hashlib.sha256(what.encode("utf-8", "replace")).hexdigest()
        return f"{self.teacher_id}/{key[:2]}/{key}.parquet"

    def _look_up(self, clip: ClipKey, shape: tuple[int, ...], pixels: str) -> tuple[np.ndarray | None, int]:
        """Codes (T, C, H, W) and the bytes read for them; (None, 0) if there is no usable entry."""
        name = self._name(clip, shape)
        try:
            data = self._storage.read(name, MAX_BYTES)
            (mask,) = decode_masks(data, name)
        except FileNotFoundError:
            self.counts["new"] += 1
            return None, 0
        except (OSError, ClipError, ValueError):
            self.counts["damaged"] += 1
            return None, 0
        own = (clip.clip_id, self.teacher_id, self.class_names[1:], shape, MASK_CODES[self.code], pixels)
        found = (mask.clip_id, mask.teacher_id, mask.classes, mask.levels.shape, mask.levels.dtype, mask.video_sha256)
        if found != own:
            self.counts["stale"] += 1
            return None, 0
        self.counts["hit"] += 1
        return mask.levels, len(data)

    def _keep(self, clip: ClipKey, levels: np.ndarray, pixels: str) -> int:
        """Write an entry. Returns its bytes; 0 if it could not be written."""
        mask = StoredMask(clip.clip_id, self.teacher_id, self.class_names[1:], levels, pixels)
        data = encode_masks([mask])
        try:
            self._storage.write(self._name(clip, levels.shape), data)
            return len(data)
        except OSError as error:  # a full disk costs time, not the run
            self.counts["unwritten"] += 1
            if self.counts["unwritten"] == 1:
                warnings.warn(
                    plain_sentence(f"teacher.cache: an entry could not be written: {one_line(error)}"), stacklevel=2
                )
            return 0
