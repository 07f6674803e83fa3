"""Processes, nodes, heads, disks and stores that fail in the middle of real runs, on clusters made to be broken.

A killed student worker is in the default suite; rounds of chaos, nodes, heads, disks and stores are longer proofs.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from echodfkd.config.run import RayConfig, RunConfig
from echodfkd.core.errors import RunError
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint
from tests.chaos.chaos import Round
from tests.chaos.chaos_cluster import ChaosCluster, Node, of_role
from tests.chaos.chaos_plan import FAULTS
from tests.integration.fault_rows import record
from tests.integration.helpers_faults import ThreadedRun, assert_undisturbed

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
HEAD = RayConfig(num_cpus=6, object_store_mb=150)
RUN = ["train.steps=120", "train.checkpoint_every=10", "train.engine=plain", "evaluation.enabled=false"]
MEANS = {
    "teacher": "Ray Data starts it again and gives its block once more",
    "source": "Ray gives its task once more",
    "evaluator": "the pool starts it again and gives its cases once more",
    "student": "the worker group starts again from the newest checkpoint",
    "coordinator": "the worker group starts again, with a new stream",
    "controller": "the driver starts a new one, from the newest checkpoint",
    "driver": "the same command resumes the run",
    "notice": "a checkpoint is published, exit code 75; the same command resumes the run",
}


def chaos(*arguments: str, timeout: float) -> dict[str, object]:
    """Run the job; its last line."""
    command = [sys.executable, "-m", "tests.chaos", "--config", "configs/chaos.yaml", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.usefixtures("local_ray")
def test_a_killed_student_worker_changes_nothing(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """The worker dies between two checkpoints, and the run starts again from the newest."""
    config = tiny_config(*RUN, "train.steps=60")
    storage = RunStorage(config.root)
    run = ThreadedRun(config)
    run.wait_until(lambda: latest_checkpoint(storage))
    victims = of_role("student", psutil.Process().children(recursive=True))
    assert len(victims) == 1, victims
    victims[0].kill()
    run.finish()
    assert_undisturbed(config, tmp_path / "alone")


@pytest.mark.slow
def test_a_round_of_chaos(tmp_path: Path) -> None:
    result = chaos("--seed", "0", "--faults", "2", f"storage={tmp_path}", "train.steps=120", timeout=500)
    assert (result["ok"], result["problems"], result["rounds"]) == (True, [], 1)
    assert result["faults"] >= 1, "at least the student worker was there to be killed"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_process_of_a_run_may_be_killed_and_the_students_stay_the_same(tmp_path: Path) -> None:
    result = chaos("--seed", "3", "--faults", str(len(FAULTS)), f"storage={tmp_path}", timeout=1400)
    assert (result["ok"], result["problems"], result["rounds"]) == (True, [], 1)
    assert {struck["fault"]["kind"] for struck in result["struck"]} == set(FAULTS)
    assert result["faults"] == len(FAULTS), "every fault found its victim"
    storage = RunStorage(f"{result['folder']}/seed3")
    report = check_ledger(storage, 1200)
    assert (report.lost, report.repeated, report.problems) == (0, 0, [])
    for struck in result["struck"]:
        kind = struck["fault"]["kind"]
        times = {key: struck[key] for key in ("detected_s", "extra_s")}
        record(report, FAULTS[kind], MEANS[kind], same=True, **times)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_seeds_of_chaos(tmp_path: Path) -> None:
    arguments = ["--seed", "100", "--seeds", "20", "--faults", "2", f"storage={tmp_path}", "train.steps=120"]
    result = chaos(*arguments, timeout=7000)
    assert (result["ok"], result["problems"], result["rounds"]) == (True, [], 20)
    assert result["faults"] > 30, "few faults found no victim"


def lose(cluster: ChaosCluster, run: Round, lose_it: Callable[[], None]) -> float:
    """Start a run, lose something in its middle, and see it end. Returns the seconds that it stood still."""
    job = run.start()
    job.wait_for_step(30)
    front, began = job.front, time.monotonic()
    assert not job.ended, job.tail()
    lose_it()
    job.wait_for_step(front + 1)
    extra_s = time.monotonic() - began
    job.result()
    return extra_s


@pytest.mark.slow
@pytest.mark.parametrize("role", ["train", "teacher"])
def test_a_node_is_lost_and_another_comes(role: str, tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """The students' machine loses power; the teachers' raylet dies, and its workers with it."""
    config = tiny_config(*RUN, f"{role}.node_label=pool=spot")
    with ChaosCluster(HEAD) as cluster:
        nodes = [cluster.add_node(num_cpus=2, label="pool=spot")]
        run = Round(config, cluster, config.name)

        def lose_node() -> None:
            if role == "train":
                nodes[0].kill()
            else:
                [raylet] = nodes[0].raylets()
                raylet.kill()
            nodes.append(cluster.add_node(num_cpus=2, label="pool=spot"))

        extra_s = lose(cluster, run, lose_node)
    report = assert_undisturbed(config, tmp_path / "alone")
    what = {
        "train": "the students' node loses power, another joins",
        "teacher": "kill -9 of the raylet of the teachers' node, another joins",
    }[role]
    record(report, what, "stages start again on the new node", extra_s=extra_s, same=True)


@pytest.mark.slow
def test_the_head_is_lost_and_the_job_is_submitted_again(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny_config(*RUN)
    with ChaosCluster(HEAD) as cluster:
        run = Round(config, cluster, config.name)
        job = run.start()
        job.wait_for_step(30)
        began = time.monotonic()
        head: Node = cluster.nodes[0]
        job.process.kill()  # a submitted job's driver lives on the head
        head.kill()
        job.wait()
        step = latest_checkpoint(run.storage).step
        cluster.start_head()
        again = run.start()
        again.wait_for_step(step + 1)
        extra_s = time.monotonic() - began
        again.result()
    report = assert_undisturbed(config, tmp_path / "alone")
    record(report, "the head is lost with the driver", "the job is submitted again", extra_s=extra_s, same=True)


@pytest.mark.slow
def test_an_object_store_without_room_spills(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Blocks of 1.6 MB, as many ahead as the store has in all, which is taken by others but for a few MB."""
    sizes = ["window.frames=16", "window.size=64", "train.global_batch=12", "data.ahead_mb=80"]
    config = tiny_config(*RUN, *sizes, "train.steps=16", "train.checkpoint_every=4")
    with ChaosCluster(RayConfig(num_cpus=6, object_store_mb=80)) as cluster:
        hog = subprocess.Popen(
            [sys.executable, "tests/integration/store_hog.py", cluster.address, "72"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert hog.stdout.readline().startswith("holding")
            Round(config, cluster, config.name).play([])
            account, _ = hog.communicate("", timeout=120)
        finally:
            hog.kill()
    assert "Spilled" in account or "filesystem mmap usage" in account, account
    report = assert_undisturbed(config, tmp_path / "alone")
    record(report, "the object store has no room", "blocks go through the disk", same=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, small_disk: Path
) -> None:
    config = tiny_config(*RUN, f"storage={small_disk}", "ray.progress_s=0.2")
    storage = RunStorage(config.root)
    run = ThreadedRun(config)
    run.wait_until(lambda: latest_checkpoint(storage))
    began = time.monotonic()
    ballast = small_disk / "ballast"
    fill = subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], capture_output=True, check=False)
    assert b"No space left on device" in fill.stderr
    with pytest.raises(RunError, match=r"cannot be written: No space left on device; make room, the same command"):
        run.finish()
    detected_s = time.monotonic() - began
    published = latest_checkpoint(storage)
    assert 0 < published.step < config.train.steps
    ballast.unlink()
    run_distillation(config, lambda line: None)
    report = assert_undisturbed(config, tmp_path / "alone")
    means = "the run ends with one sentence; with room again the same command resumes it"
    record(report, "the disk of the run folder is full", means, detected_s=detected_s, same=True)
