"""Numbers of a generator's stage and of the privacy filter, from rows and a config that may be a stranger's."""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from echodfkd.reporting.generator_facts import generator_facts, generator_sentences, privacy_facts


@pytest.mark.parametrize(
    ("config", "stage", "expected"),
    [
        ({}, "teacher", {}),
        ({}, "generator", {"clip_s": 0.5}),
        ({"source": {"generator": {"num_gpus": 0.5}}}, "generator", {"clip_s": 0.5, "clips_per_gpu_hour": 14_400}),
        (
            {"source": {"parts": {"made": {"generator": {"num_gpus": 2}}}}},
            "generator.made",
            {"clip_s": 0.5, "clips_per_gpu_hour": 3_600},
        ),
        ({"source": {"parts": [1], "generator": "x"}}, "generator.made", {"clip_s": 0.5}),
        ({"source": {"generator": {"num_gpus": "many"}}}, "generator", {"clip_s": 0.5}),
    ],
)
def test_seconds_a_clip_and_clips_of_a_gpu_hour(config: dict[str, Any], stage: str, expected: dict[str, float]) -> None:
    rows: Any = SimpleNamespace(config=config)
    assert generator_facts(rows, stage, clips=120, busy_s=60.0) == expected
    assert generator_facts(rows, stage, clips=0, busy_s=0.0) == {}


def test_rejected_clips_are_counted_once_and_said() -> None:
    bad = [(3, 3, "privacy"), (3, 3, "privacy"), (3, 103, "privacy"), (4, 4, "generator"), (-1, 0, "privacy")]
    table = pa.Table.from_pylist([dict(zip(("slot", "index", "stage"), row, strict=True)) for row in bad])
    rows: Any = SimpleNamespace(config={"privacy": {"encoder": "pixels"}}, quarantine=table)
    assert privacy_facts(rows) == {"rejected": 2}
    assert privacy_facts(SimpleNamespace(config={"privacy": {"encoder": ""}}, quarantine=table)) == {}  # type: ignore[arg-type]
    stage = {"clips": 120, "clip_s": 0.5, "clips_per_gpu_hour": 14_400.0}
    said = generator_sentences(
        {
            "privacy": {"rejected": 2},
            "ledger": {"clips": 98},
            "pipeline": {"stages": {"generator": stage, "teacher": {}}},
        }
    )
    assert said == [
        "The privacy filter rejected 2 of 100 clips.",
        "The generator made 120 clips in 0.5 s of work each, 14,400 clips in an hour of a GPU.",
    ]
