"""Every published generator in one whole run: its files are written here, its actors open them, a student learns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from echodfkd.config.run import RunConfig
from echodfkd.models.generators.build import PUBLISHED
from echodfkd.reporting.rows import read_rows
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from tests.helpers.generators import (
    write_diffecho,
    write_echoflow,
    write_echolvfm,
    write_echonet_synthetic,
    write_free_echo,
)

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

FILES: dict[str, Callable[[Path], object]] = {
    "echonet_synthetic": write_echonet_synthetic,
    "echoflow": write_echoflow,
    "echolvfm": lambda folder: write_echolvfm(folder, "mean"),
    "free_echo": write_free_echo,
    "diffecho": lambda folder: write_diffecho(folder, control=True),
}


def test_a_student_learns_from_every_published_generator_at_once(
    tmp_path: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    assert set(FILES) == set(PUBLISHED)
    options = ["source.kind=mixture", "source.cases_from=phantom", "source.parts.phantom.kind=phantom"]
    for kind, write in FILES.items():
        write(tmp_path / kind)
        part = f"source.parts.{kind}"
        options += [f"{part}.kind={kind}", f"{part}.generator.weights={tmp_path / kind}", f"{part}.generator.steps=1"]
    options += ["window.frames=4", "window.fps=32", "window.size=32", "train.steps=2", "train.global_batch=6"]
    config = tiny_config(*options, "train.checkpoint_every=2", "train.engine=plain", "evaluation.enabled=false")
    summary = run_distillation(config, lambda line: None)
    assert summary["ledger"] == {"clips": 12, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 0}
    storage = RunStorage(config.root)
    assert check_ledger(storage, config.plan_slots).problems == []
    sources = Counter(read_rows(storage).ledger["source"].to_pylist())
    assert sources == dict.fromkeys(("phantom", *PUBLISHED), 2)
    assert read_rows(storage).training["loss"].to_pylist()[0] > 0
