"""The jobs as a user types them: exit codes, one sentence on failure, nothing on standard error on success."""

import importlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from echodfkd.config.file import config_from_dict, load_config
from echodfkd.runtime.command import run_job
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
DEMO = "configs/demo.yaml"


def job(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"jobs/{name}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_dry_run_prints_the_resolved_config() -> None:
    done = job("distill", "--config", DEMO, "--dry-run", "train.steps=7")
    assert (done.returncode, done.stderr) == (0, "")
    assert config_from_dict(yaml.safe_load(done.stdout)) == load_config(DEMO, ["train.steps=7"])


@pytest.mark.parametrize(
    ("name", "arguments", "code", "words"),
    [
        ("distill", ["--config", DEMO, "trian.steps=3"], 2, "trian: unknown option; allowed are augment, data,"),
        ("distill", ["--config", "configs/none.yaml"], 2, "--config: no file configs/none.yaml"),
        ("preflight", ["--config", DEMO, "train.workers=3"], 2, "train.global_batch: got"),
        ("distill", ["--config", DEMO, "source.kind=recorded", "source.path=/no/such"], 2, "/no/such"),
        ("distill", ["--config", DEMO, "teacher.weights=README.md"], 2, "teacher.weights"),
        ("distill", ["--config", DEMO, "storage=/proc/nowhere"], 2, "cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    name: str,
    arguments: list[str],
    code: int,
    words: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    work = importlib.import_module(f"jobs.{name}").work
    assert run_job(work, description="", arguments=arguments) == code
    assert_one_error(capfd.readouterr().err, words)


def test_a_mistake_in_a_process_of_its_own_is_one_line_too() -> None:
    done = job("distill", "--config", DEMO, "teacher.weights=README.md")
    assert done.returncode == 2
    assert_one_error(done.stderr, "teacher.weights")


def assert_one_error(errors: str, words: str) -> None:
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    assert words in lines[0]


@pytest.mark.ray
def test_ctrl_c_ends_with_a_sentence_a_page_and_a_run_that_resumes(tmp_path: Path) -> None:
    """A job of its own cluster, by an interpreter whose path has a space: Ray's processes must start from it, too."""
    (tmp_path / "with space").symlink_to(Path(sys.prefix), target_is_directory=True)
    interpreter = tmp_path / "with space" / "bin" / "python"
    arguments = [f"storage={tmp_path}", "name=stopped", *TINY, "train.steps=2000", "train.checkpoint_every=4"]
    command = [str(interpreter), "jobs/distill.py", *arguments, "ray.progress_s=1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "| update " in line:
                break
        running.send_signal(signal.SIGINT)
        sent = time.monotonic()
        assert running.stderr is not None
        said = list(itertools.takewhile(lambda line: not line.startswith("interrupted: stopping"), running.stderr))
        assert time.monotonic() - sent < 10  # at once; a second on a machine that is not busy
        _, errors = running.communicate(timeout=120)
        errors = "".join([*said, errors])
    assert running.returncode == 130, errors[-2000:]
    assert "interrupted; the same command goes on from all that was saved" in errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "stopped/lease/000001.beat.json").read_text())["released"]  # no wait to resume
    page = (tmp_path / "stopped" / "report.html").read_text()
    assert "interrupted; the same command resumes it" in page
