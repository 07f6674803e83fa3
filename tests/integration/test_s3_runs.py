"""Clips and whole runs on a server that speaks S3: killed, resumed, and written through a store that fails."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from echodfkd.storage import RunStorage
from tests.helpers_s3 import FaultyProxy, S3Server, environment
from tests.integration.s3_runs import CLIPS, SMALL

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # minutes, on a small machine

ROOT = Path(__file__).parents[2]
KINDS = ("slow_down", "reset", "lost", "delay 0.2")


def job_environment(port: int) -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**here, **environment(port)}


def start_and_kill(out: str, port: int, *, after_shards: int) -> int:
    """Start the job, kill it with SIGKILL once that many shards are committed. Returns how many were by then."""
    command = [sys.executable, "jobs/synthesize.py", *SMALL, "synthesize.format=parquet", "synthesize.num_cpus=2"]
    command += ["ray.num_cpus=2", "ray.address=local", f"synthesize.out={out}"]
    driver = subprocess.Popen(
        command, cwd=ROOT, env=job_environment(port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    storage, deadline = RunStorage(out), time.time() + 120
    try:
        while len(storage.list("shards")) < after_shards:
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            assert time.time() < deadline, "no shard was committed"
            time.sleep(0.02)
    finally:
        children = psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else []
        driver.kill()
        driver.communicate()
        for orphan in psutil.wait_procs(children, timeout=5)[1]:  # workers end with their driver, Ray's agents linger
            orphan.kill()
    return len(storage.list("shards"))


@pytest.fixture(scope="module")
def found(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `s3_runs` found in one cluster of its own, and how often each fault befell it."""
    kinds = itertools.cycle([*KINDS, *[""] * 12])
    proxy = FaultyProxy(s3_server.port, lambda number, method, path: next(kinds) if "/faulty/" in path else "")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(proxy.port).items():
            patch.setenv(name, value)
        bucket = f"s3://{s3_server.bucket()}"
        commits = start_and_kill(f"{bucket}/killed", proxy.port, after_shards=2)
        command = [sys.executable, "-m", "tests.integration.s3_runs", bucket, f"{bucket}/killed"]
        command.append(str(tmp_path_factory.mktemp("local")))
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=job_environment(proxy.port),
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    faults = {kind: proxy.count(kind) for kind in KINDS}
    yield {**json.loads(done.stdout.splitlines()[-1]), "bucket": bucket, "commits": commits, "faults": faults}
    proxy.close()


def test_a_folder_written_through_faults_is_that_of_a_disk(found: dict[str, Any]) -> None:
    assert min(found["faults"].values()) >= 3, found["faults"]
    assert found["whole"] == {
        "checked": CLIPS,
        "same_names": True,
        "differ": [],
        "read_alike": True,
        "again": 0,
    }


def test_a_killed_job_resumes_to_the_objects_of_an_unbroken_one(found: dict[str, Any]) -> None:
    killed = found["killed"]
    assert 2 <= found["commits"] <= killed["committed_before"] < CLIPS
    assert not killed["whole_before"]
    assert killed["made"] == CLIPS - killed["committed_before"]
    assert (killed["checked"], killed["distinct"]) == (CLIPS, CLIPS)
    assert (killed["same_names"], killed["differ"]) == (True, [])


def test_a_run_on_s3_has_the_same_layout_and_resumes_bit_for_bit(found: dict[str, Any]) -> None:
    run = found["run"]
    assert {"checkpoints", "config.yaml", "identity.json", "ledger", "logs", "report.html", "scores"} <= set(
        run["names"]
    )
    assert {"run.json", "summary.json", "cases.parquet", "overlays"} <= set(run["names"])
    assert run["steps"] == [6, 6]
    assert run["same_weights"]
    for ledger in run["ledgers"]:
        assert (ledger["clips"], ledger["lost"], ledger["repeated"]) == (24, 0, 0)
    assert run["scored"] == [2, 2]
    assert run["summary"] == "tiny"
    assert run["report"] == f"{found['bucket']}/faulty/runs/tiny/report.html"
    assert run["report_bytes"] > 10_000
