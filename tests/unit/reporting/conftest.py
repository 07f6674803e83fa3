"""Most tests of reports do without real PDF files, whose fonts take longer than the rest of a report."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from echodfkd.reporting.figures import figure_files

PDF_FILE = figure_files.pdf_file


@pytest.fixture(scope="module", autouse=True)
def fake_pdf() -> Iterator[None]:
    """PDF files are a word."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_files, "pdf_file", lambda figure: b"%PDF-fake")
        yield


@pytest.fixture
def real_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """PDF files are whole, in this test."""
    monkeypatch.setattr(figure_files, "pdf_file", PDF_FILE)
