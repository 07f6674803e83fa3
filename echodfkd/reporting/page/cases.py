"""Single cases to look at: the videos of a run with the student's rank of each, and contact sheets of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.core.errors import ClipError, InputError
from echodfkd.reporting.case_table import models
from echodfkd.reporting.figures.overlays import stills_png
from echodfkd.reporting.page.groups import rank_words, ranked_cases
from echodfkd.reporting.page.page import FOLDER
from echodfkd.reporting.rows import DRAWN, RunRows
from echodfkd.sources.video.sheets import in_rows, png, titled
from echodfkd.storage.files import RunStorage

MAX_VIDEOS = 48
"""Videos in the page, which carries them all; further ones stay in their folder."""


@dataclass(frozen=True)
class DrawnCase:
    """One video: whose contours, which case, its rank among the student's (the worst is 0; None: not scored)."""

    student: str
    clip_id: str
    place: int | None
    count: int
    stills: tuple[int, int]
    png: bytes
    mp4: bytes

    @property
    def rank(self) -> str:
        """The rank in words; "" if there is none."""
        return rank_words(self.place, self.count) if self.place is not None else ""

    def on_page(self) -> dict[str, Any]:
        """The values for the template."""
        return {
            "student": self.student,
            "clip_id": self.clip_id,
            "rank": self.rank,
            "frames": "{} and {}".format(*self.stills),
            "png": base64.b64encode(self.png).decode(),
            "mp4": base64.b64encode(self.mp4).decode(),
        }


def drawn_cases(storage: RunStorage, rows: RunRows) -> list[DrawnCase]:
    """Videos under overlays/, named ``<student>-<case number>.mp4``, by student, the worst case first.

    Raises:
        InputError: one of them is no video.
    """
    by_number = {row["index"]: row for row in rows.cases.to_pylist()}
    order = {name: place for place, name in enumerate(rows.students)}
    ranks = {
        name: [clip for clip, _ in ranked_cases(rows, *which)] for name, which in models(rows, teacher=False).items()
    }
    found = []
    for name in _names(storage)[:MAX_VIDEOS]:
        student, _, number = name.rsplit("/", 1)[-1].removesuffix(".mp4").rpartition("-")
        case = by_number.get(int(number), {}) if number.isdecimal() else {}
        ed, es = ((case.get(key) or [default])[0] for key, default in (("ed_frames", 0), ("es_frames", 8)))
        mp4 = storage.read(name)
        try:
            png = stills_png(mp4, (ed, es), name=name)
        except ClipError as error:
            raise InputError(f"{storage.root}: {error}; delete it to have the report without it") from error
        clip, ranked = str(case.get("clip_id") or f"case {number}"), ranks.get(student, [])
        place = ranked.index(clip) if clip in ranked else None
        found.append(DrawnCase(student, clip, place, len(ranked), (ed, es), png, mp4))
    return sorted(
        found,
        key=lambda case: (
            order.get(case.student, len(order)),
            case.student,
            case.count if case.place is None else case.place,
        ),
    )


def _names(storage: RunStorage) -> list[str]:
    """Videos of the last checkpoint; all videos if no file names those."""
    there = [name for name in storage.list("overlays") if name.endswith(".mp4")]
    try:
        listed = storage.read_json(DRAWN).get("names")
    except FileNotFoundError:
        return there
    wanted = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    return [name for name in there if name in wanted]


def case_sheet(videos: Sequence[DrawnCase]) -> bytes:
    """PNG: a row per case with its end-diastolic and end-systolic frame under a line of words."""
    from PIL import Image

    tiles = []
    for video in videos:
        picture = np.asarray(Image.open(io.BytesIO(video.png)).convert("RGB"))
        tiles.append(np.pad(titled(picture, video.rank or video.clip_id), ((0, 4), (0, 0), (0, 0))))
    return png(in_rows(tiles, columns=1))


def write_sheets(storage: RunStorage, videos: Sequence[DrawnCase]) -> None:
    """A contact sheet per student beside the page, ``report/cases-<student>.png``."""
    for student in dict.fromkeys(video.student for video in videos):
        mine = [video for video in videos if video.student == student]
        storage.write(f"{FOLDER}/cases-{student}.png", case_sheet(mine))
