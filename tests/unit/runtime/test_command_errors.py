"""What the system refuses ends every command in one sentence and exit code 1."""

import errno
import os
import sys
from pathlib import Path

import pytest

from echodfkd.config.rules.jobs import needs_students
from echodfkd.runtime.command import run_guarded, run_job
from jobs import report
from tests.unit.reporting.test_reporting import fake_run


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a"), "/runs/a: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", b"/x"), "b'/x': Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a\nerror: forged"), r"/a error: forged: Is a directory"),
        (ConnectionResetError("the store is away"), "the store is away"),
        (OSError(), "OSError"),
        (OSError("Traceback:\n  line 5\nOSError: last words"), "OSError: last words"),
    ],
)
def test_an_error_of_the_system_is_one_sentence(
    error: OSError, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def work() -> dict[str, object]:
        raise error

    assert run_guarded(work) == 1
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize("name", ["scores/part-1.parquet", "config.yaml"])
def test_a_folder_in_place_of_a_file_ends_a_report(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_run(tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink()
    path.mkdir()
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path / "run")])
    assert report.main() == 2
    assert capsys.readouterr().err == f"error: {path} is a folder, expected a file\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["runs/a", "--out", "x"], "--out: is for several runs; the page of one run is its report.html"),
        (["a", "b", "--follow"], "--follow, --overlays, --tensorboard, --mlflow and --wandb take one run"),
        (["a", "--overlays", "51"], "--overlays: 51, allowed are 0 to 50 (with --config 1 to 50)"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused_and_never_ignored(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["report.py", *words])
    assert report.main() == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"


def test_a_run_without_a_config_says_how_to_name_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    assert run_job(lambda config: {}, description="", arguments=[], check=needs_students) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: students: empty, name at least one, e.g. students.c31.blocks=3")
    assert error.endswith("or give --config FILE (`echodfkd configs` lists some)\n")
