"""The same job through `ray start --head` and `ray job submit`, as a user of a cluster types it."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import list_checkpoints
from tests.conftest import TINY
from tests.helpers.ports import free_port, wait_for_port
from tests.helpers.ray_command import ray_command, ray_python

ROOT = Path(__file__).parents[2]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head node of its own, in a process group of its own: `ray stop` would end every Ray of this machine."""
    dashboard, port = free_port(), free_port()
    temporary = Path("/tmp") / f"ray-{os.getpid()}-{port}"  # a socket's path may be 107 bytes long
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",  # as the files of cluster/ set it
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PATH": f"{ray_python(tmp_path).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    command = [*ray_command(tmp_path), "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}"]
    command += ["--num-cpus=8", "--object-store-memory=200000000", f"--temp-dir={temporary}", "--block"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]  # the usual one may belong to the session's cluster
    env["RAY_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    process = started(command, env, tmp_path)
    try:
        wait_for_port(dashboard)
        yield env
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


def started(command: list[str], env: dict[str, str], folder: Path, tries: int = 3) -> subprocess.Popen[bytes]:
    """`ray start` that has come up; once more where it has not: Ray itself gives up after 30 s, too soon when busy."""
    path = folder / "head.log"
    for _ in range(tries):
        with path.open("wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True, cwd=folder)
        while process.poll() is None:
            if b"Ray runtime started" in path.read_bytes():
                return process
            time.sleep(0.2)
    raise AssertionError(path.read_text()[-3000:])


HOOK = """
from cluster.stop_jobs import stop_jobs
from ray.job_submission import JobSubmissionClient
assert stop_jobs(JobSubmissionClient("{address}")) == []
"""
GRACE_S = 45
"""As configs/cluster.yaml has it: the report is written in that time, too."""
NOT_YET = ("No available agent", "Server disconnected", "WebSocket connection closed unexpectedly")
"""What Ray says on a busy machine: its agent cannot take jobs yet, or a connection broke. The same command goes on."""


def submit(head: dict[str, str], overrides: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` of the main job, as cluster/README.md has it, with further options of that command."""
    command = [*ray_command(Path(head["HOME"])), "job", "submit", "--working-dir", ".", *options, "--"]
    command += ["python", "jobs/distill.py", "--config", "configs/demo.yaml", *overrides]
    for _ in range(20):
        done = subprocess.run(command, cwd=ROOT, env=head, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode and "already exists" in done.stderr:  # accepted, though the answer was lost
            done.returncode = 0
        if not any(text in done.stderr for text in NOT_YET):
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def job(head: dict[str, str], *words: str) -> str:
    """What another `ray job` command prints."""
    command = [*ray_command(Path(head["HOME"])), "job", *words]
    done = subprocess.run(command, env=head, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def last_object(output: str) -> dict[str, Any]:
    """The JSON object in the last line of a job's output that is one."""
    return dict(json.loads([line for line in output.splitlines() if line.startswith("{")][-1]))


@pytest.mark.ray
@pytest.mark.slow  # three minutes: a head node with its agents, and a command of Ray's own that has to start
def test_a_submitted_job_runs_to_its_report(head: dict[str, str], tmp_path: Path) -> None:
    done = submit(head, [f"storage={tmp_path}/runs", "name=submitted", *TINY, "train.steps=3"])
    assert f"report: {tmp_path}/runs/submitted/report.html" in done.stdout
    assert last_object(done.stdout)["ledger"] == {"clips": 12, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    assert (tmp_path / "runs" / "submitted" / "report.html").is_file()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("by", ["ray job stop", "a pod's preStop hook"])
def test_a_job_that_is_stopped_and_submitted_again_finishes(head: dict[str, str], tmp_path: Path, by: str) -> None:
    """submit, a stop in the middle of training, the same command again."""
    steps, storage = 160, RunStorage(f"{tmp_path}/runs/again")
    run = [f"storage={tmp_path}/runs", "name=again", *TINY, f"train.steps={steps}", "train.checkpoint_every=10"]
    run.append(f"train.stop_grace_s={GRACE_S}")
    submit(head, run, "--no-wait", "--submission-id", "first")
    deadline = time.time() + 300
    while not (storage.exists("checkpoints") and list_checkpoints(storage)):
        assert time.time() < deadline, job(head, "logs", "first")
        time.sleep(0.2)
    asked = time.monotonic()
    if by == "ray job stop":
        job(head, "stop", "first")
    else:
        hook = [sys.executable, "-c", HOOK.format(address=head["RAY_ADDRESS"])]
        subprocess.run(hook, env=head, cwd=ROOT, check=True, timeout=120)
    stopped_s = time.monotonic() - asked
    kept = list_checkpoints(storage)[-1]
    assert 10 <= kept.step < steps
    assert stopped_s < GRACE_S + 30, "the grace, and a program of Ray's own that has to start and to ask"
    logs = job(head, "logs", "first")
    assert "did not end within" not in logs
    assert last_object(logs)["stopped"].startswith("stopped by SIGTERM")
    done = submit(head, run, "--submission-id", "second")
    assert last_object(done.stdout)["ledger"] == {
        "clips": 4 * steps,
        "lost": 0,
        "to_come": 0,
        "repeated": 0,
        "quarantined": 0,
    }
    report = check_ledger(storage, 4 * steps)
    assert (report.lost, report.repeated, report.problems) == (0, 0, [])
    assert kept.step in {found.step for found in list_checkpoints(storage)}
    rows = [row["step"] for name in storage.list("ledger") for row in storage.read_table(name).to_pylist()]
    assert len(rows) == 4 * steps, "nothing that the first job had trained was trained again"
    print(f"stopped at update {kept.step} in {stopped_s:.1f} s")
