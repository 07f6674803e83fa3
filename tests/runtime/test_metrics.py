"""A run's numbers as Prometheus reads them, and the dashboard that draws them."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import yaml

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.reporting.live.live_view import ProgressSnapshot
from echodfkd.runtime.cluster.metrics import GAUGES, TAGS, Exporter, gauge_values
from echodfkd.runtime.cluster.resources import Role, RoleNow
from echodfkd.training.progress import Progress

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"
RAYS_OWN = {"ray_object_store_memory"}
"""Of Ray's documented metrics, those that the dashboard uses."""


ROLES = {"teacher": RoleNow(Role("teacher", 1, 1, 0, {}, "teacher"), 4, living=2, coming=1, placed=2, nodes=2)}


def shown_of(config: RunConfig) -> ProgressSnapshot:
    """What rank 0 and the evaluators tell the progress actor in a run, by their own code."""
    told: list[dict[str, object]] = []
    progress = Progress(config, told.append)
    progress.quarantined, progress.gaps, progress.published = 2, 1, 3
    progress.add_step(5, [], asked=clock.now(), started=clock.now(), losses={"a": 0.25}, rate=0.1)
    progress.report(force=True)
    values = {**told[-1], "teacher_clips_s": 20.0, "backlog": 4, "scored_step": 1, "starts": 2}
    return ProgressSnapshot(
        values, 10.0, 6, 2.5, 1.0, 6, 100.0, silent_s=7.0, segment=3, shares={"teacher": 0.5}, waits="train"
    )


def test_every_gauge_has_a_number_by_the_end(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config()
    found = gauge_values(config, shown_of(config), ROLES)
    assert {name for name, _ in found} == set(GAUGES)
    assert found["echodfkd_unpublished_steps", ""] == 2
    assert found["echodfkd_evaluation_lag_steps", ""] == 2
    assert found["echodfkd_loss", "a"] == 0.25
    assert found["echodfkd_stage_busy_share", "teacher"] == 0.5
    assert (found["echodfkd_quarantined", ""], found["echodfkd_ledger_gaps", ""]) == (2, 1)
    assert [found[f"echodfkd_{name}", "teacher"] for name in ("living", "wanted", "nodes")] == [2, 3, 2]
    names = ("waiting", "silent_seconds", "segment", "student_starts", "clips_per_second", "queue_clips")
    assert [found[f"echodfkd_{name}", ""] for name in names] == [1, 7, 3, 2, 2.5, 6]
    before = gauge_values(config, ProgressSnapshot({"backlog": 1}, 1.0, 6, None, None, 0, 1.0), {})
    assert {name for name, _ in before} == {
        "echodfkd_steps_planned",
        "echodfkd_memory_mb",
        "echodfkd_evaluator_backlog",
        "echodfkd_waiting",
        "echodfkd_silent_seconds",
        "echodfkd_segment",
        "echodfkd_student_starts",
    }


@pytest.mark.ray
def test_prometheus_reads_them_from_the_node(local_ray: None, tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config()
    Exporter('a "run"').export(gauge_values(config, shown_of(config), ROLES))
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, lines = time.monotonic() + 60, {}
    while len(lines) < len(GAUGES) and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        found = re.finditer(r"^ray_(echodfkd_\w+)\{.*$", text, re.M)
        # The node also tells of the runs of other tests.
        lines = {match[1]: match[0] for match in found if 'run="a \\"run\\""' in match[0]}
    assert set(lines) == set(GAUGES)
    assert 'student="a"' in lines["echodfkd_loss"]
    assert lines["echodfkd_step"].endswith(" 5.0")


def test_the_dashboard_draws_every_gauge_and_nothing_else() -> None:
    page = json.loads(DASHBOARD.read_text())
    panels = page["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    drawn: set[str] = set()
    for target in (target for panel in panels for target in panel["targets"]):
        names = set(re.findall(r"\bray_\w+", target["expr"]))
        assert len(names) == 1, target["expr"]
        name = names.pop()
        gauge = name.removeprefix("ray_")
        assert gauge in GAUGES or name in RAYS_OWN, target["expr"]
        assert target["expr"].count("{") == target["expr"].count("}")
        tags = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        if gauge in GAUGES:
            assert 'run=~"$run"' in target["expr"]
            assert tags == {"run", *([TAGS[gauge]] if gauge in TAGS else [])}
        drawn.add(gauge)
    assert drawn >= set(GAUGES)
    assert {variable["name"] for variable in page["templating"]["list"]} == {"datasource", "run"}


def test_every_alert_is_a_rule_of_prometheus_on_gauges_that_exist() -> None:
    """Keys of a rules file (prometheus.io, "Defining recording rules" and "Alerting rules"); the rest is refused."""
    (group,) = yaml.safe_load((DASHBOARD.parent / "alerts.yaml").read_text())["groups"]
    assert set(group) == {"name", "rules"}
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) > 5
    for rule in group["rules"]:
        assert (
            {"alert", "expr", "labels", "annotations"} <= set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        )
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m"))
        assert set(rule["annotations"]) == {"summary", "description"}
        expr = rule["expr"]
        used = set(re.findall(r"\bray_(\w+)", expr))
        assert used <= set(GAUGES), rule["alert"]
        assert used, rule["alert"]
        words = set(re.findall(r"[a-z_]+", re.sub(r'"[^"]*"', "", expr))) - {f"ray_{name}" for name in used}
        assert words <= {"and", "on", "run", "role", "delta", "h"}, rule["alert"]
        assert all(expr.count(left) == expr.count(right) for left, right in ("()", "[]", "{}"))
        tags = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert tags <= {"run", *(TAGS.get(name) for name in used)}, rule["alert"]
