"""Notes on data sets reach the user: before a job starts, and in the summary and the page of a run."""

import json

import pytest

from echodfkd.reporting.summary import write_summary
from echodfkd.runtime.command import run_job
from echodfkd.storage.files import RunStorage
from tests.helpers.echonet import write_small_folder
from tests.helpers.reports import render_report


def dry_run(*options):
    return run_job(lambda config: {}, description="", arguments=["--dry-run", "students.a.blocks=1", *options])


def test_a_dry_run_says_what_fits_nothing(tmp_path, capsys):
    root = tmp_path / "set"
    write_small_folder(str(root), videos=3, splits=("TRAIN", "TEST"))
    (root / "Videos" / "0XA2.avi").unlink()
    data = [f"source.path={root}", "source.kind=recorded", "window.frames=8"]
    cases = [f"evaluation.source.path={root}", "evaluation.source.kind=recorded", "evaluation.source.split=TEST"]
    assert dry_run(*data, *cases) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    assert said == [
        f"# note: source ({root}): videos in FileList.csv that are not in Videos/; their clips are quarantined: 1"
        " (first: '0XA2.avi')",
        f"# note: source ({root}): of the first 4 clips, those that cannot be used: 2"
        f" (first: 0XA2.avi is in FileList.csv but not in {root}/Videos)",
    ]
    assert dry_run(*data[:-1], *cases, "source.split=DEV") == 2
    assert "error: " in (told := capsys.readouterr().err)
    assert "no video of split 'DEV' (source.split)" in told


@pytest.mark.parametrize(
    ("stored", "kept"), [(["source (a): b <i>: 3"], ["source (a): b <i>: 3"]), (5, []), (None, [])]
)
def test_summary_and_page_keep_them(tmp_path, stored, kept):
    storage = RunStorage(str(tmp_path))
    storage.write("config.yaml", b"name: r\n")
    storage.write("run.json", json.dumps({"source_notes": stored}).encode())
    assert write_summary(storage)["source_notes"] == kept
    assert ("source (a): b &lt;i&gt;: 3" in render_report(storage)) is bool(kept)
