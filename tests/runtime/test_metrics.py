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

from echodfkd.config.run import RunConfig
from echodfkd.core import clock
from echodfkd.runtime.cluster.metrics import GAUGES, TAGS, Exporter, gauge_values
from echodfkd.training.progress import Progress

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"
RAYS_OWN = {"ray_object_store_memory"}
"""Of Ray's documented metrics, those that the dashboard uses."""


def board_of(config: RunConfig) -> dict[str, object]:
    """What rank 0 and the evaluators tell the progress actor in a run, by their own code."""
    told: list[dict[str, object]] = []
    progress = Progress(config, told.append)
    progress.quarantined, progress.gaps, progress.published = 2, 1, 3
    progress.add_step(5, [], asked=clock.now(), started=clock.now(), losses={"a": 0.25}, rate=0.1)
    progress.report(force=True)
    return {**told[-1], "teacher_clips_s": 20.0, "teacher_busy_share": 0.5, "backlog": 4, "scored_step": 1}


def test_every_gauge_has_a_number_by_the_end(tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config()
    found = gauge_values(config, board_of(config), clips_s=2.5, queue=6.0, memory_mb=100.0)
    assert {name for name, _ in found} == set(GAUGES)
    assert found["echodfkd_unpublished_steps", ""] == 2
    assert found["echodfkd_evaluation_lag_steps", ""] == 2
    assert found["echodfkd_loss", "a"] == 0.25
    assert found["echodfkd_stage_busy_share", "teacher"] == 0.5
    assert (found["echodfkd_quarantined", ""], found["echodfkd_ledger_gaps", ""]) == (2, 1)
    before = gauge_values(config, {"backlog": 1}, clips_s=0.0, queue=0.0, memory_mb=1.0)
    assert {name for name, _ in before} == {
        "echodfkd_steps_planned",
        "echodfkd_memory_mb",
        "echodfkd_evaluator_backlog",
    }


@pytest.mark.ray
def test_prometheus_reads_them_from_the_node(local_ray: None, tiny_config: Callable[..., RunConfig]) -> None:
    config = tiny_config()
    Exporter('a "run"').export(gauge_values(config, board_of(config), clips_s=2.5, queue=6.0, memory_mb=100.0))
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
