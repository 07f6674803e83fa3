"""A run's gauges for Prometheus, through the metrics agent that Ray runs on every node (its port is in `ray.nodes()`).

The driver exports them, from the values that its progress line shows. Ray writes `ray_` before each name;
`cluster/grafana.json` draws them.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Gauge

from echodfkd.config.run import RunConfig

GAUGES = {
    "echodfkd_step": "updates of the students so far",
    "echodfkd_steps_planned": "updates that the run consists of",
    "echodfkd_clips_per_second": "clips trained per second, over the last minute",
    "echodfkd_queue_clips": "clips that have masks and wait for the students",
    "echodfkd_students_wait_share": "share of time that students wait for clips, since they started",
    "echodfkd_stage_clips_per_second": "clips that one actor of a stage makes per second of work (tag: stage)",
    "echodfkd_stage_busy_share": "share of time that the actors of a stage are at work (tag: stage)",
    "echodfkd_loss": "loss of a student's last update (tag: student)",
    "echodfkd_unpublished_steps": "updates since the newest checkpoint: what a crash would repeat",
    "echodfkd_quarantined": "indices that could not be used and were replaced",
    "echodfkd_ledger_gaps": "slots below the newest checkpoint's highest that it lacks; 0 with data.order fixed",
    "echodfkd_evaluator_backlog": "scoring tasks that wait for an evaluator or are with one",
    "echodfkd_evaluation_lag_steps": "updates between the newest checkpoint and the newest one that was scored",
    "echodfkd_memory_mb": "memory of the driver's processes, shared pages once",
}
"""Name and description of every gauge. All have the tag `run`."""

TAGS = {"echodfkd_stage_clips_per_second": "stage", "echodfkd_stage_busy_share": "stage", "echodfkd_loss": "student"}
"""The second tag of some gauges."""


STAGES = ("source", "generator", "teacher")
"""Stages before the students; a mixture's generators are `generator.NAME`, an ensemble's members are `teacher.NAME`."""


def gauge_values(
    config: RunConfig, values: dict[str, Any], *, clips_s: float, queue: float, memory_mb: float
) -> dict[tuple[str, str], float]:
    """Gauges from the progress actor's values: (gauge, value of its second tag) -> number.

    Args:
        config: the run.
        values: the progress actor's (`training.progress.Progress.report`, `evaluator_pool`).
        clips_s: clips trained per second.
        queue: clips with masks that wait for the students.
        memory_mb: of the driver's processes.
    """
    found = {
        ("echodfkd_steps_planned", ""): float(config.train.steps),
        ("echodfkd_memory_mb", ""): memory_mb,
    }
    if "backlog" in values:
        found["echodfkd_evaluator_backlog", ""] = float(values["backlog"])
    if "step" not in values:
        return found
    step, published = float(values["step"]), float(values.get("published", 0))
    found |= {
        ("echodfkd_step", ""): step,
        ("echodfkd_clips_per_second", ""): clips_s,
        ("echodfkd_queue_clips", ""): queue,
        ("echodfkd_students_wait_share", ""): float(values["wait_share"]),
        ("echodfkd_unpublished_steps", ""): step - published,
        ("echodfkd_quarantined", ""): float(values["quarantined"]),
        ("echodfkd_ledger_gaps", ""): float(values["ledger_gaps"]),
    }
    if "scored_step" in values:
        found["echodfkd_evaluation_lag_steps", ""] = max(0.0, published - float(values["scored_step"]))
    for ending, gauge in (("_clips_s", "clips_per_second"), ("_busy_share", "busy_share")):
        for stage in (key.removesuffix(ending) for key in values if key.endswith(ending)):
            if stage.partition(".")[0] in STAGES:  # the others are not actors and take no time
                found[f"echodfkd_stage_{gauge}", stage] = float(values[f"{stage}{ending}"])
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
