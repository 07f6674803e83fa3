"""A run's page as text."""

from echodfkd.reporting.page.report import write_report
from echodfkd.storage.files import RunStorage


def render_report(storage: RunStorage) -> str:
    write_report(storage, files=False)
    return storage.read("report.html").decode()
