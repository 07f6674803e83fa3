"""A mixture of drawn and generated clips on a real local Ray: a generator's actor is killed, and nothing changes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.reporting.rows import column, read_rows
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from tests.helpers.generators import write_tiny_painter
from tests.integration.helpers_faults import ThreadedRun, final_weights, train_without_ray
from tests.runtime.helpers_generators import generator_processes


@pytest.mark.ray
@pytest.mark.slow  # a minute; tests/unit/teaching/test_generating.py has the stage without Ray
@pytest.mark.usefixtures("local_ray")
def test_a_killed_generator_changes_nothing(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    write_tiny_painter(tmp_path / "painter.safetensors")
    painted = f"{{kind: painted, generator: {{weights: {tmp_path}/painter.safetensors, num_cpus: 0.5, max_actors: 2"
    config = tiny_config(
        "source.kind=mixture",
        "source.parts.drawn={weight: 1}",
        f"source.parts.made={painted}, min_actors: 2, batch: 1}}}}",
        "train.steps=40",
        "window.frames=16",
        "data.ahead_mb=1",  # so that clips are left to make when the actor dies
        "train.checkpoint_every=8",
        "train.engine=plain",
        "evaluation.enabled=false",
    )
    run = ThreadedRun(config)
    published = Path(config.root, "checkpoints", "step_00000008", "manifest.json")
    run.wait_until(published.exists, timeout_s=500)
    victims = generator_processes()
    assert victims, "the actors live for the whole run"
    victims[0].kill()
    summary = run.finish()

    assert summary["ledger"] == {"clips": 160, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    storage = RunStorage(config.root)
    assert check_ledger(storage, config.plan_slots).problems == []
    rows = read_rows(storage)
    assert Counter(column(rows.ledger, "source")) == {"drawn": 80, "made": 80}
    made = summary["pipeline"]["stages"]["generator.made"]
    assert made["clips"] >= 80, "clips that died with the actor count twice"
    assert made["clip_s"] == pytest.approx(made["busy_s"] / made["clips"])
    assert "The generator of made made " in Path(config.root, "report.html").read_text()
    alone = train_without_ray(config, tmp_path / "alone")
    assert final_weights(alone) == final_weights(config)
