"""A page as one file: its style, its script and its policy, and the files that lie beside it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from echodfkd.reporting.page.chart import Chart
from echodfkd.reporting.page.table import Table
from echodfkd.storage.files import RunStorage

FOLDER = "report"
"""Folder beside the page: the CSV of every chart and table, and every chart as SVG and PDF."""
_HERE = Path(__file__).parent


def render(template: str, **context: Any) -> str:
    """The page as text.

    It makes no request: style, script, charts, pictures and videos are inside it, and its policy
    (Content-Security-Policy) forbids everything else, so that a name that looks like a script does nothing.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = (_HERE / "report.js").read_text()
    return environment.get_template(template).render(
        css=(_HERE / "report.css").read_text(),
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        folder=FOLDER,
        **context,
    )


def write_files(storage: RunStorage, pieces: Iterable[Chart | Table]) -> None:
    """The CSV of every piece, and every chart as SVG and PDF, in the folder beside the page."""
    for piece in pieces:
        for name, data in piece.files().items():
            storage.write(f"{FOLDER}/{name}", data)
