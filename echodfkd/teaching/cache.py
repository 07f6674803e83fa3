"""Masks that are kept from run to run, so that a clip which is met again is not taught again.

An entry is one small Parquet file of `MASK_SCHEMA`, ``TEACHER_ID/ab/abcd....parquet`` under the cache's root, named by
a hash of the clip's id and shape. It is written whole or not at all, holds the sha256 of its own bytes and of the
pixels it was made from, and counts only where all of them fit: a damaged or stale entry is taught again and replaced.

Legend: N clips, T frames, C classes, H rows, W columns.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from echodfkd.core.errors import ClipError, one_line
from echodfkd.core.mask_codes import MASK_CODES, PROBABILITY, decode, encode
from echodfkd.models.teachers.protocol import ClipKey, Teacher, codes_of_clips
from echodfkd.storage.files import RunStorage, read_inside
from echodfkd.teaching.mask_files import MAX_BYTES, StoredMask, decode_masks, encode_masks


class CachedTeacher:
    """A `ClipTeacher` that keeps what another teacher gives.

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
        self._bytes: Counter[str] = Counter()
        self._storage = RunStorage(root)
        self._storage.check_writable("teacher.cache")

    def soft_masks(self, video_NTHW: np.ndarray) -> np.ndarray:
        """See `Teacher.soft_masks`. Pixels alone do not say which clip they are of: nothing is kept."""
        return decode(encode(self.teacher.soft_masks(video_NTHW), self.code))

    def clip_masks(self, video_NTHW: np.ndarray, clips: Sequence[ClipKey]) -> tuple[np.ndarray, dict[int, str]]:
        """See `ClipTeacher.clip_masks`."""
        levels, faults = self.clip_codes(video_NTHW, clips, self.code)
        prob = decode(levels)
        return prob[:, :, 0] if len(self.class_names) == 2 else prob, faults

    def clip_codes(
        self, video_NTHW: np.ndarray, clips: Sequence[ClipKey], code: str
    ) -> tuple[np.ndarray, dict[int, str]]:
        """See `CodingTeacher.clip_codes`; ``code`` is that of the cache."""
        assert code == self.code, "a run has one code"
        N, T, H, W = video_NTHW.shape
        levels = np.zeros((N, T, len(self.class_names) - 1, H, W), MASK_CODES[self.code])
        pixels = [hashlib.sha256(video.tobytes()).hexdigest() for video in video_NTHW]
        missing, faults = [], {}
        for row, clip in enumerate(clips):
            kept = self._look_up(clip, levels.shape[1:], pixels[row])
            if kept is None:
                missing.append(row)
            else:
                levels[row] = kept
        if missing:
            made, found = codes_of_clips(self.teacher, video_NTHW[missing], [clips[row] for row in missing], code)
            levels[missing] = made
            faults = {missing[place]: reason for place, reason in found.items()}
            for row in missing:
                if row not in faults:
                    self._keep(clips[row], levels[row], pixels[row])
        return levels, faults

    def lookups(self) -> Counter[str]:
        """``hit`` and ``miss`` so far, and bytes of the entries read (``hit_bytes``) and written (``miss_bytes``)."""
        hit = self.counts["hit"]
        misses = sum(self.counts[kind] for kind in ("new", "damaged", "stale"))
        return Counter({"hit": hit, "miss": misses, **self._bytes})

    def _name(self, clip: ClipKey, shape: tuple[int, ...]) -> str:
        code = "" if self.code == PROBABILITY else f"|{self.code}"  # entries of before there were codes stay
        what = f"{clip.clip_id}|{clip.window_start}|{list(shape)}{code}"
        key = hashlib.sha256(what.encode("utf-8", "replace")).hexdigest()
        return f"{self.teacher_id}/{key[:2]}/{key}.parquet"

    def _look_up(self, clip: ClipKey, shape: tuple[int, ...], pixels: str) -> np.ndarray | None:
        """Codes (T, C, H, W), or None where there is no entry that counts."""
        name = self._name(clip, shape)
        try:
            data = read_inside(self._storage.fs, self._storage.path(""), name, MAX_BYTES)
            (mask,) = decode_masks(data, name)
        except FileNotFoundError:
            self.counts["new"] += 1
            return None
        except (OSError, ClipError, ValueError):
            self.counts["damaged"] += 1
            return None
        own = (clip.clip_id, self.teacher_id, self.class_names[1:], shape, MASK_CODES[self.code], pixels)
        found = (mask.clip_id, mask.teacher_id, mask.classes, mask.levels.shape, mask.levels.dtype, mask.video_sha256)
        if found != own:
            self.counts["stale"] += 1
            return None
        self.counts["hit"] += 1
        self._bytes["hit_bytes"] += len(data)
        return mask.levels

    def _keep(self, clip: ClipKey, levels: np.ndarray, pixels: str) -> None:
        mask = StoredMask(clip.clip_id, self.teacher_id, self.class_names[1:], levels, pixels)
        data = encode_masks([mask])
        try:
            self._storage.write(self._name(clip, levels.shape), data)
            self._bytes["miss_bytes"] += len(data)
        except OSError as error:  # a full disk costs time, not the run
            self.counts["unwritten"] += 1
            if self.counts["unwritten"] == 1:
                warnings.warn(f"teacher.cache: an entry could not be written: {one_line(error)}", stacklevel=2)
