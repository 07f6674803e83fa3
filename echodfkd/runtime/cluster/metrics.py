"""A run's gauges for Prometheus, through the metrics agent that Ray runs on every node (its port is in `ray.nodes()`).

The driver exports them, from the values that its progress line shows. Ray writes `ray_` before each name;
`cluster/grafana.json` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Gauge

from echodfkd.config.run import RunConfig
from echodfkd.reporting.live.live_view import ProgressSnapshot
from echodfkd.runtime.cluster.resources import RoleNow

GAUGES = {
    "echodfkd_step": "updates of the students so far",
    "echodfkd_steps_planned": "updates that the run consists of",
    "echodfkd_clips_per_second": "clips trained per second, over the last minute",
    "echodfkd_queue_clips": "clips that have masks and wait for the students",
    "echodfkd_students_wait_share": "share of the last minute that students wait for clips",
    "echodfkd_stage_clips_per_second": "clips that one actor of a stage makes per second of work (tag: stage)",
    "echodfkd_stage_busy_share": "share of the last minute that a living actor of a stage is at work (tag: stage)",
    "echodfkd_living": "processes of a role that live (tag: role)",
    "echodfkd_wanted": "processes of a role that Ray was asked for, at least those that the run needs (tag: role)",
    "echodfkd_nodes": "nodes that the living processes of a role are on (tag: role)",
    "echodfkd_waiting": "1 while a role finds no room on the cluster, else 0",
    "echodfkd_silent_seconds": "seconds since the newest update",
    "echodfkd_segment": "number of the stream's segment, from 1",
    "echodfkd_student_starts": "times that the students were started by this command; above 1 they were lost",
    "echodfkd_loss": "loss of a student's last update (tag: student)",
    "echodfkd_unpublished_steps": "updates since the newest checkpoint: what a crash would repeat",
    "echodfkd_quarantined": "indices that could not be used and were replaced",
    "echodfkd_ledger_gaps": "slots below the newest checkpoint's highest that it lacks; 0 with data.order fixed",
    "echodfkd_evaluator_backlog": "scoring tasks that wait for an evaluator or are with one",
    "echodfkd_evaluation_lag_steps": "updates between the newest checkpoint and the newest one that was scored",
    "echodfkd_memory_mb": "memory of the driver's processes, shared pages once",
}
"""Name and description of every gauge. All have the tag `run`."""

TAGS = {
    "echodfkd_stage_clips_per_second": "stage",
    "echodfkd_stage_busy_share": "stage",
    "echodfkd_loss": "student",
    "echodfkd_living": "role",
    "echodfkd_wanted": "role",
    "echodfkd_nodes": "role",
}
"""The second tag of some gauges."""


STAGES = ("source", "generator", "teacher")
"""Stages before the students; a mixture's generators are `generator.NAME`, an ensemble's members are `teacher.NAME`."""


def gauge_values(
    config: RunConfig, shown: ProgressSnapshot, roles: Mapping[str, RoleNow]
) -> dict[tuple[str, str], float]:
    """Gauges of the run at one moment: (gauge, value of its second tag) -> number."""
    values = shown.values
    found = {
        ("echodfkd_steps_planned", ""): float(config.train.steps),
        ("echodfkd_memory_mb", ""): shown.memory_mb,
        ("echodfkd_waiting", ""): float(bool(shown.waits)),
        ("echodfkd_silent_seconds", ""): shown.silent_s,
        ("echodfkd_segment", ""): float(shown.segment),
        ("echodfkd_student_starts", ""): float(values.get("starts", 0)),
    }
    for name, now in roles.items():
        numbers = (("living", now.living), ("wanted", now.wanted), ("nodes", now.nodes))
        found |= {(f"echodfkd_{gauge}", name): float(number) for gauge, number in numbers}
    if "backlog" in values:
        found["echodfkd_evaluator_backlog", ""] = float(values["backlog"])
    if "step" not in values:
        return found
    step, published = float(values["step"]), float(values.get("published", 0))
    found |= {
        ("echodfkd_step", ""): step,
        ("echodfkd_clips_per_second", ""): shown.clips_s or 0.0,
        ("echodfkd_queue_clips", ""): float(shown.queue),
        ("echodfkd_students_wait_share", ""): float(values["wait_share"]),
        ("echodfkd_unpublished_steps", ""): step - published,
        ("echodfkd_quarantined", ""): float(values["quarantined"]),
        ("echodfkd_ledger_gaps", ""): float(values["ledger_gaps"]),
    }
    if "scored_step" in values:
        found["echodfkd_evaluation_lag_steps", ""] = max(0.0, published - float(values["scored_step"]))
    rates = {key.removesuffix("_clips_s"): float(values[key]) for key in values if key.endswith("_clips_s")}
    for gauge, stages in (("clips_per_second", rates), ("busy_share", shown.shares)):
        for stage, number in stages.items():
            if stage.partition(".")[0] in STAGES:  # the others are not actors and take no time
                found[f"echodfkd_stage_{gauge}", stage] = number
    return found | {("echodfkd_loss", name): float(loss) for name, loss in values["losses"].items()}


class Exporter:
    """The gauges of this process's run."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges = {
            name: Gauge(name, description=text, tag_keys=("run", *([TAGS[name]] if name in TAGS else [])))
            for name, text in GAUGES.items()
        }

    def export(self, found: dict[tuple[str, str], float]) -> None:
        """Set the gauges to the result of `gauge_values`."""
        for (name, tag), value in found.items():
            second = {TAGS[name]: tag} if name in TAGS else {}
            self._gauges[name].set(value, tags={"run": self._run, **second})
