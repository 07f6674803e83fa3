"""An ensemble whose members have actor pools of their own, on a real local Ray."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from echodfkd.config.run import RunConfig
from echodfkd.runtime.distillation_run import run_distillation
from echodfkd.runtime.stream.builders import training_source
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import check_ledger
from echodfkd.teaching.mask_files import StoredMask, encode_masks
from tests.integration.helpers_faults import final_weights, train_without_ray

ENSEMBLE = [
    "teacher.kind=ensemble",
    "teacher.pools=each",
    "teacher.confidence=true",
    "teacher.num_cpus=0.5",
    "teacher.members.chambers={kind: embedded_chambers, num_cpus: 0.5, weight: 2}",
    "students.a={blocks: 2, filters: 4, classes: [LV, LA], objective: {bce: {confidence: teacher}}}",
    "students.b={blocks: 2, filters: 4}",
    "train.engine=plain",
    "evaluation.enabled=false",
    "data.quarantine_limit=0.5",
]


def write_masks(config: RunConfig, folder: Path, indices: Sequence[int]) -> None:
    """Stored masks of these clips: noise, so that nobody agrees with anybody."""
    source = training_source(config)
    masks = []
    for index in indices:
        clip = source.clip(index)
        levels = np.random.default_rng(index).integers(0, 256, (len(clip.video), 1, *clip.video.shape[1:]), np.uint8)
        masks.append(StoredMask(clip.clip_id, "noise-1", ("LV",), levels))
    folder.mkdir()
    (folder / "masks.parquet").write_bytes(encode_masks(masks))


@pytest.mark.ray
@pytest.mark.slow  # two runs; tests/unit/teaching/test_pools.py has the stages without Ray
@pytest.mark.usefixtures("local_ray")
def test_pools_of_their_own_train_what_one_actor_does(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Bit for bit, with a clip that a required member has no mask of and two that another is left out of."""
    members = [
        f"teacher.members.{name}={{kind: recorded, weights: {tmp_path / name}, num_cpus: 0.5, required: {required}}}"
        for name, required in (("needed", "true"), ("spare", "false"))
    ]
    config = tiny_config(*ENSEMBLE, *members, f"teacher.cache={tmp_path / 'cache'}")
    write_masks(config, tmp_path / "needed", [index for index in range(48) if index != 7])
    write_masks(config, tmp_path / "spare", [index for index in range(48) if index not in (2, 31)])  # 31 = 7 + 24
    summary = run_distillation(config, lambda line: None)
    assert summary["ledger"] == {"clips": 24, "lost": 0, "to_come": 0, "repeated": 0, "quarantined": 1}
    assert check_ledger(RunStorage(config.root), config.plan_slots).problems == []
    assert summary["teacher"]["dropped"] == {"spare": 2}
    logs = [row for part in Path(config.root, "logs").glob("dropped-*") for row in pq.read_table(part).to_pylist()]
    assert sorted((row["slot"], row["index"], row["member"]) for row in logs) == [(2, 2, "spare"), (7, 31, "spare")]
    assert all("holds no mask of" in row["reason"] for row in logs)
    stages = summary["pipeline"]["stages"]
    assert list(stages) == ["source", "teacher.chambers", "teacher.needed", "teacher.spare", "teacher", "students"]
    assert {name: stage["clips"] for name, stage in stages.items()} == dict.fromkeys(stages, 24)
    assert stages["teacher.chambers"]["cache_hit_rate"] == 0
    assert stages["teacher.chambers"]["cache_bytes_per_clip"] > 0
    page = Path(config.root, "report.html").read_text()
    assert "2 clips were taught without spare, which had no usable mask." in page

    together = {
        name: dataclasses.replace(member, num_cpus=1.0, max_actors=1) for name, member in config.teacher.members.items()
    }
    one = dataclasses.replace(config.teacher, pools="one", members=together, cache="")
    alone = train_without_ray(dataclasses.replace(config, teacher=one), tmp_path / "alone")
    assert final_weights(alone) == final_weights(config)
