"""The students of a run on one real heart, as the run has drawn them (`segmented.real_heart`), for its page."""

from __future__ import annotations

import base64
from typing import Any

from echodfkd.core.errors import ClipError, InputError
from echodfkd.reporting.figures.overlays import stills_png
from echodfkd.reporting.page.cases import MAX_VIDEOS
from echodfkd.reporting.summary import texts
from echodfkd.storage.files import RunStorage

LISTED = "real/cine.json"


def read_real_heart(storage: RunStorage) -> dict[str, Any]:
    """The page's values: ``missing``, a sentence, and ``videos``; both are empty if the run drew none.

    Raises:
        InputError: one of the videos is none.
    """
    try:
        listed = storage.read_json(LISTED)
    except FileNotFoundError:
        return {"missing": "", "videos": []}
    videos: list[dict[str, Any]] = []
    there, several = set(storage.list("real")), listed.get("videos")
    for one in several if isinstance(several, list) else ():
        name = f"real/{one.get('student')}.mp4" if isinstance(one, dict) else ""
        if name in there and len(videos) < MAX_VIDEOS:
            mp4 = storage.read(name)
            try:
                png = stills_png(mp4, (4, 24), name=name)
            except ClipError as error:
                raise InputError(f"{storage.root}: {error}; delete it to have the report without it") from error
            pictures = {"png": base64.b64encode(png).decode(), "mp4": base64.b64encode(mp4).decode()}
            videos.append({"student": str(one["student"]), "words": texts(one.get("words")), **pictures})
    return {"missing": str(listed.get("missing") or ""), "videos": videos}
