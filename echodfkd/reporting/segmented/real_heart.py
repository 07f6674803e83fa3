"""Draw the students of a run on one real heart: the cine that pydicom's package holds. To look at, no score."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.redaction import dump_json
from echodfkd.inference.segmentation import segment_cine
from echodfkd.inference.student import load_student
from echodfkd.reporting.page.real_heart import LISTED
from echodfkd.reporting.segmented.video import overlay_mp4, shown_facts
from echodfkd.sources.video.shipped_cine import SHORT, shipped_cine
from echodfkd.storage.files import RunStorage

_SHOWN = ("frames", "mask outside its largest part", "frames without a ventricle")


def draw_real_heart(storage: RunStorage, students: Iterable[str]) -> None:
    """Segment the cine with the newest checkpoint of each student: ``real/<student>.mp4``, and `LISTED`.

    A cine or a package that cannot be used leaves a sentence in its place.
    """
    missing = ""
    videos: list[dict[str, Any]] = []
    try:
        if (cine := shipped_cine(SHORT)) is None:
            raise InputError("pydicom is not installed, pip install 'echodfkd[medical]'")
        for name in students:
            found = segment_cine(load_student(storage.root, name=name), cine)
            storage.write(f"real/{name}.mp4", overlay_mp4(found))
            facts = [f"{label}: {value}" for label, value in shown_facts(found).items() if label in _SHOWN]
            videos.append({"student": name, "words": [*facts, *found.sentences]})
    except (ClipError, InputError) as error:
        missing = f"No real heart is shown: {error}."
    storage.write(LISTED, dump_json({"missing": missing, "videos": videos}))
