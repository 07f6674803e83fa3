"""The real cines that pydicom's packages hold: one person's apical four-chamber view. They are read where they lie."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from echodfkd.sources.video.cine import Cine, read_cine

SHORT, LONG = "examples_ybr_color.dcm", "color3d_jpeg_baseline.dcm"
"""About a second in pydicom itself, and in pydicom-data the whole recording of some four beats."""
_FOLDERS = {SHORT: ("pydicom", "data/test_files"), LONG: ("data_store", "data")}


def shipped_cine(name: str) -> Cine | None:
    """One of the two cines; None if its package is not installed.

    Raises:
        ClipError: the file there cannot be read.
    """
    package, folder = _FOLDERS[name]
    found = find_spec(package)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / folder / name
    return read_cine(path.read_bytes(), name) if path.is_file() else None
