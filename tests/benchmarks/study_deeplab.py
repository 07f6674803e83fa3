"""DeepLabV3 on a MobileNetV3 as a comparator of the study: it learns from the very clips of `comparators`, without Ray.

It is torchvision's network, not one of the package: frames are enlarged to the 112 pixels of EchoNet's own DeepLabV3
inside, because at 56 its stride of 16 would leave 4 x 4 features, and its logits are brought back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.core.counter import Counter
from echodfkd.core.mask_codes import decode
from echodfkd.core.records import DistillationBatch, StageSpan
from echodfkd.evaluation.predictions import predict_student
from echodfkd.evaluation.scored_models import ScoredModel
from echodfkd.evaluation.scorer import CaseScorer
from echodfkd.models.students.build import STUDENT_INPUT_MEAN, STUDENT_INPUT_STD
from echodfkd.models.students.convlstm import count_parameters
from echodfkd.models.students.cost import STATED_SIZE, macs_per_frame
from echodfkd.models.students.output import StudentOutput
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.reporting.rows import RunRows
from echodfkd.reporting.study.cell import has_cell, write_cell
from echodfkd.runtime.cluster.connection import machine_line
from echodfkd.runtime.cluster.preemption import TIME_OVER
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.storage import schemas
from echodfkd.storage.files import RunStorage
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.training.schedule import learning_rate
from tests.benchmarks.study_page import OTHER, other_cell

SAVE_EVERY = 100


class DeepLabMobileNet(nn.Module):
    """Each frame by itself: video (B, T, H, W), grey 0..255 -> logits of one class."""

    def __init__(self, side: int = STATED_SIZE) -> None:
        super().__init__()
        import_torchvision()
        from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

        self.side = side
        self.network = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1)

    def forward(self, video: torch.Tensor) -> StudentOutput:
        """Logits of the video's own size."""
        B, T, H, W = video.shape
        x = (video.flatten(0, 1)[:, None].float() - STUDENT_INPUT_MEAN) / STUDENT_INPUT_STD
        x = F.interpolate(x, (self.side, self.side), mode="bilinear").expand(-1, 3, -1, -1)
        logits = F.interpolate(self.network(x)["out"], (H, W), mode="bilinear")
        return StudentOutput(logits.unflatten(0, (B, T)))


def run_deeplab(
    config: RunConfig, folder: RunStorage, say: Callable[[str], None], *, ends: float | None, side: int = STATED_SIZE
) -> str:
    """Train and score one seed, and write its cell. Returns "", or a sentence if its time (monotonic) is over.

    Args:
        config: a run of `comparators`, whose stream, optimiser and cases are taken.
        folder: of the cells.
        say: takes lines for a person.
        ends: when to stop between two steps; None never does.
        side: that the network works at.
    """
    name, own = other_cell(config), config_hash(config)
    if has_cell(folder, name, own):
        return ""
    torch.manual_seed(config.seed)
    network, state = DeepLabMobileNet(side), Path(config.storage, f"{name}-{own}.pt")
    adam = torch.optim.Adam(network.parameters())
    step, seconds = _load(state, network, adam)
    source, teacher, rules = training_source(config), load_teacher(config, device="cpu"), slot_rules(config)
    started = time.monotonic()
    with Counter("steps", config.train.steps, say, done=step) as counter:
        while step < config.train.steps:
            slots = range(step * config.train.global_batch, (step + 1) * config.train.global_batch)
            batch = teach_block(teacher, make_block(source, slots, rules, actor="c"), lambda: source, rules, actor="c")
            assert not batch.fault, batch.fault
            _update(network, adam, batch, config, step)
            step += 1
            counter.show(step, name)
            over = ends is not None and time.monotonic() >= ends
            if over or step % SAVE_EVERY == 0 or step == config.train.steps:
                _save(state, network, adam, step, seconds + time.monotonic() - started)
            if over:
                return f"{name} was {TIME_OVER}"
    write_cell(folder, _scored(config, network.eval(), name, seconds + time.monotonic() - started), own)
    return ""


def _update(network: nn.Module, adam: torch.optim.Adam, batch: DistillationBatch, config: RunConfig, step: int) -> None:
    torch.manual_seed(config.seed + 1_000_003 * step)  # dropout is a function of the step
    rate = config.optimizer
    adam.param_groups[0]["lr"] = learning_rate(
        step, schedule=rate.schedule, base=rate.learning_rate, warmup_steps=rate.warmup_steps,
        total_steps=config.train.steps, final_fraction=rate.final_fraction,
    )  # fmt: skip
    adam.zero_grad()
    logits = network.train()(torch.from_numpy(batch.video)).mask_logits
    F.binary_cross_entropy_with_logits(logits, torch.from_numpy(decode(batch.teacher_prob))).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), rate.clip_norm)
    adam.step()


def _save(path: Path, network: nn.Module, adam: torch.optim.Adam, step: int, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    torch.save({"network": network.state_dict(), "adam": adam.state_dict(), "step": step, "seconds": seconds}, half)
    half.replace(path)


def _load(path: Path, network: nn.Module, adam: torch.optim.Adam) -> tuple[int, float]:
    """Step and seconds of an earlier sitting, whose state is taken; 0 of none."""
    if not path.exists():
        return 0, 0.0
    kept: dict[str, Any] = torch.load(path, weights_only=True)
    network.load_state_dict(kept["network"])
    adam.load_state_dict(kept["adam"])
    return kept["step"], kept["seconds"]


def _scored(config: RunConfig, network: nn.Module, name: str, seconds: float) -> RunRows:
    """The rows of its cell: every case, scored as a student's."""
    scorer, step = CaseScorer(config, "cpu"), config.train.steps
    model = ScoredModel(
        OTHER, step, "", lambda case: predict_student(network, case.video, classes=["LV"], device="cpu")
    )
    found = [scorer.score(number, [model], teacher=False) for number in range(config.evaluation.cases)]
    empty = pa.table({"student": pa.array([], pa.string())})
    size = {"parameters": count_parameters(network), "macs_per_frame": macs_per_frame(network, STATED_SIZE)}
    return RunRows(
        config={**asdict(config), "name": name, "students": {OTHER: {}}},
        run={"machine": machine_line(), "teacher_id": scorer.teacher_id, "students": {OTHER: size}},
        identity={},
        manifests=(),
        scores=pa.Table.from_pylist([asdict(row) for one in found for row in one.scores], schema=schemas.SCORE_SCHEMA),
        ledger=empty,
        quarantine=empty,
        spans=pa.Table.from_pylist(
            [asdict(StageSpan("students", OTHER, 0.0, seconds, 1, 1))], schema=schemas.SPAN_SCHEMA
        ),
        training=empty,
        cases=pa.Table.from_pylist([one.case for one in found if one.case], schema=schemas.CASE_SCHEMA),
    )
