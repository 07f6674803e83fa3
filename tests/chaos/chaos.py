"""Rounds of chaos: a small run with faults from a seed must have the result of the undisturbed run.

A round is one run. It must end with each slot of the plan trained exactly once, a ledger without problems, a report,
and the same students as the undisturbed run of the same config: weights bit by bit, scores digit by digit.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from echodfkd.config.file import config_to_yaml
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, RunError
from echodfkd.reporting.summary import build_summary
from echodfkd.runtime.cluster.connection import with_absolute_paths
from echodfkd.storage.checkpoints import read_resume
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.storage.manifests import latest_checkpoint
from tests.chaos.chaos_cluster import TITLES, ChaosCluster
from tests.chaos.chaos_job import RunningJob
from tests.chaos.chaos_plan import FAULTS, Fault, plan_faults

PROGRESS_S = 0.25
"""Seconds between progress lines: the resolution of the times reported."""


@dataclasses.dataclass
class Struck:
    """A fault that was injected.

    Attributes:
        fault: kind and moment.
        front: updates done when it struck; 0 if it found no victim.
        detected_s: seconds until the cluster had replaced the process, or the driver had ended.
        extra_s: seconds until the next update, while the run stood still.
    """

    fault: Fault
    front: int = 0
    detected_s: float | None = None
    extra_s: float | None = None

    def line(self) -> str:
        """One line of text."""
        what = f"{FAULTS[self.fault.kind]} after update {self.front or self.fault.step}"
        if not self.front:
            return f"{what}: no victim was found"
        found = "" if self.detected_s is None else f"noticed within {self.detected_s:.1f} s, "
        return f"{what}: {found}the run moved on after {self.extra_s or 0.0:.1f} s"


def run_chaos(
    config: RunConfig, *, seed: int, seeds: int, minutes: float, faults: int, print_line: Callable[[str], None]
) -> dict[str, Any]:
    """Play rounds with the seeds ``seed``, ``seed + 1``, ...: at least ``seeds`` of them, and for ``minutes``.

    Returns:
        ``{"ok", "seed", "rounds", "faults", "struck", "problems", "folder", "wall_s"}``: ``problems`` are sentences
        that begin with their round's seed.

    Raises:
        ConfigError: the config cannot be compared bit by bit, or has too few updates.
        RunError: the undisturbed run failed, or the cluster did not start.
    """
    began = time.monotonic()
    config = _chaos_config(config)
    plan_faults(seed, steps=config.train.steps, count=faults)  # too few updates are said before anything starts
    rounds = 0
    struck: list[Struck] = []
    problems: list[str] = []
    with ChaosCluster(config.ray) as cluster:
        print_line(f"chaos: seed {seed}, folder {config.storage}; first the undisturbed run")
        calm = Round(config, cluster, "undisturbed")
        calm.play([])
        while rounds < seeds or time.monotonic() - began < 60 * minutes:
            own = seed + rounds
            rough = Round(config, cluster, f"seed{own}", tell=print_line)
            wanted = plan_faults(own, steps=config.train.steps, count=faults)
            print_line(f"seed{own}: {', '.join(f'{fault.kind} at {fault.step}' for fault in wanted)}")
            try:
                rough.play(wanted)
                found = rough.problems(calm)
            except RunError as error:
                found = [str(error)]
            struck += rough.struck
            problems += [f"seed{own}: {sentence}" for sentence in found]
            print_line(f"seed{own}: {'; '.join(found) if found else 'nothing lost, nothing twice, the same students'}")
            rounds += 1
    return {
        "ok": not problems,
        "seed": seed,
        "rounds": rounds,
        "faults": sum(done.front > 0 for done in struck),
        "struck": [{**dataclasses.asdict(done)} for done in struck],
        "problems": problems,
        "folder": config.storage,
        "wall_s": round(time.monotonic() - began, 1),
    }


class Round:
    """One run on a cluster that may be broken.

    Args:
        config: the run; ``name`` replaces its name.
        cluster: the cluster it runs on.
        name: name of its folder in config.storage.
        tell: takes one line per fault, once the run has recovered from it.
    """

    def __init__(
        self, config: RunConfig, cluster: ChaosCluster, name: str, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        self.config = dataclasses.replace(config, name=name)
        self.cluster = cluster
        self.storage = RunStorage(self.config.root)
        self.struck: list[Struck] = []
        self._tell = tell
        self._file = Path(config.storage, f"{name}.yaml")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(config_to_yaml(self.config))

    def start(self) -> RunningJob:
        """Start the job, or resume it."""
        arguments = ["--config", str(self._file), f"ray.address={self.cluster.address}"]
        return RunningJob([*arguments, f"ray.progress_s={PROGRESS_S}"])

    def play(self, faults: Sequence[Fault]) -> dict[str, Any]:
        """Run to the end and inject these faults on the way. Returns the JSON object that the job prints last.

        Raises:
            RunError: the run failed or stood still.
        """
        job = self.start()
        try:
            for fault in faults:
                job.wait_for_step(fault.step)
                done = Struck(fault)
                self.struck.append(done)
                if not job.ended:
                    job = self._strike(job, done)
                self._tell(f"{self.config.name}: {done.line()}")
            return job.result()
        finally:
            if not job.ended:
                job.process.kill()
                job.process.wait()

    def problems(self, calm: Round) -> list[str]:
        """Check the files of this finished run against the undisturbed one. Returns one sentence per problem."""
        report = check_ledger(self.storage, self.config.plan_slots)
        found = list(report.problems)
        if not self.storage.exists("report.html"):
            found.append("there is no report.html")
        mine, theirs = build_summary(self.storage), build_summary(calm.storage)
        if mine["ledger"] != theirs["ledger"]:
            found.append(f"the ledger counts {mine['ledger']}, undisturbed {theirs['ledger']}")
        if _without_times(mine) != _without_times(theirs):
            found.append("scores differ from those of the undisturbed run")
        found += [f"the final state of {name} differs from the undisturbed run's" for name in self._changed(calm)]
        return found

    def _changed(self, calm: Round) -> list[str]:
        """Students whose last weights, averages or Adam moments differ in any bit."""
        mine, theirs = latest_checkpoint(self.storage), latest_checkpoint(calm.storage)
        if mine is None or theirs is None or mine.step != theirs.step:
            return sorted(self.config.students)
        return [
            name
            for name in self.config.students
            if _bits(read_resume(self.storage, mine, name)) != _bits(read_resume(calm.storage, theirs, name))
        ]

    def _strike(self, job: RunningJob, done: Struck) -> RunningJob:
        """Inject a fault and wait until the run has recovered. Returns the job, or the new one if it was restarted."""
        kind, front = done.fault.kind, job.front
        if kind in ("driver", "notice"):
            began = time.monotonic()
            job.signal(signal.SIGKILL if kind == "driver" else signal.SIGTERM)
            job.wait()
            done.detected_s = time.monotonic() - began
            if kind == "notice" and not job.result()["stopped"]:
                raise RunError("after SIGTERM the job did not say that it was stopped")
            job = self.start()
        else:
            victim = self._victim(kind, job)
            if victim is None:
                return job
            old = {process.pid for process in self.cluster.processes(kind)}
            front, began = job.front, time.monotonic()
            victim.kill()
        done.front = front
        signs = {"extra_s": lambda: job.front > front}
        if kind in TITLES and kind != "source":  # source tasks start and end all the time
            signs["detected_s"] = lambda: any(process.pid not in old for process in self.cluster.processes(kind))
        for name, seconds in job.time_of(signs).items():
            setattr(done, name, round(seconds - began, 2))
        return job

    def _victim(self, kind: str, job: RunningJob) -> psutil.Process | None:
        """A process of this role. Waits for one, since source tasks come and go."""
        while not job.ended:
            if found := self.cluster.processes(kind):
                return found[-1]
            time.sleep(0.001)
        return None


def _without_times(summary: dict[str, Any]) -> tuple[object, object]:
    """Students and teacher of a summary, without the durations of updates."""
    students = {name: {**student, "step_s": None} for name, student in summary["students"].items()}
    return students, summary["teacher"]


def _chaos_config(config: RunConfig) -> RunConfig:
    """The config of the rounds, with a folder of their own. Refuses configs that cannot be compared bit by bit."""
    if config.data.order != "fixed":
        raise ConfigError(f"data.order: got {config.data.order!r}, chaos compares weights bit by bit: it must be fixed")
    if not config.evaluation.enabled:
        raise ConfigError("evaluation.enabled: got false, chaos kills evaluators and compares scores: it must be true")
    config = with_absolute_paths(config)
    if "://" in config.storage:
        raise ConfigError(f"storage: got {config.storage}, chaos runs on this machine only: it must be a local folder")
    folder = Path(config.storage, f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{id(config) % 1000:03d}")
    return dataclasses.replace(config, storage=str(folder), on_exists="resume")


def _bits(state: Any) -> dict[str, bytes]:
    parts = {"weights": state.weights, "exp_avg": state.optimizer.exp_avg, "exp_avg_sq": state.optimizer.exp_avg_sq}
    parts |= {"average": state.average or {}}
    tensors = {f"{part}/{name}": tensor for part, values in parts.items() for name, tensor in values.items()}
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in tensors.items()}
