"""Reports of runs that lie on a server that speaks S3: the same numbers as on a disk, also beside one of a disk."""

from __future__ import annotations

from pathlib import Path

from echodfkd.reporting.page.report import write_report
from echodfkd.reporting.study.across import compare_runs
from echodfkd.storage.files import RunStorage
from tests.unit.reporting.test_reporting import fake_run


def test_a_report_on_s3_and_a_page_of_runs_of_both_places(s3_bucket: str, tmp_path: Path) -> None:
    here, there = fake_run(tmp_path / "here"), fake_run(f"s3://{s3_bucket}/runs/there")
    for storage in (here, there):
        write_report(storage)
    names = [name for name in here.list("report") if name.endswith(".csv")]
    assert len(names) > 5
    for name in names:
        assert there.read(name) == here.read(name), name
    out = f"s3://{s3_bucket}/comparison"
    assert compare_runs([str(tmp_path / "here"), f"s3://{s3_bucket}/runs/there"], out) == f"{out}/report.html"
    page = RunStorage(out).read("report.html").decode()
    assert f"s3://{s3_bucket}/runs/there" in page
    assert str(tmp_path / "here") in page
    tests = RunStorage(out).read("report/tests.csv").decode().splitlines()
    assert len(tests) > 1  # the students of one name are compared, and are equal
