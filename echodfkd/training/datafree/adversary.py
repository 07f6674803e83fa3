"""The painter of a run with adversarial clips: trained beside the students, published with every checkpoint.

After each update of the students, all workers update the painter too, on label maps of their own and with the gap to
the students as they are then (`play.adversarial_loss`). The actors that make clips read it from the checkpoints
(`PaintingLaw`).

Legend: B clips, T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import save

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.generator import PAINTER
from echodfkd.core.errors import RunError
from echodfkd.core.records import CHAMBER_NAMES, PublishedCheckpoint
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.models.generators.map_painter import initial_painter, painter_noise
from echodfkd.models.generators.painted import PAINTER_FILE, pack_painter
from echodfkd.models.teachers.graded import graded_teacher
from echodfkd.sources.build import build_source
from echodfkd.sources.generated.source import GeneratedSource
from echodfkd.sources.mixture import MixtureSource
from echodfkd.storage.checkpoints import StudentState, load_tensors, pack_state, unpack_state
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import read_verified
from echodfkd.training.collectives import num_workers
from echodfkd.training.datafree.play import adversarial_loss
from echodfkd.training.datafree.settings import Adversary
from echodfkd.training.engine import EngineSettings
from echodfkd.training.plain_engine import PlainEngine
from echodfkd.training.student import Student

_LV = CHAMBER_NAMES.index("LV")
_RESUME = f"{PAINTER}/resume.safetensors"


class PainterTraining:
    """The painter in training.

    Args:
        config: a run with a source of kind adversarial.
        rank: of this worker.
        device: of its students.
        newest: the checkpoint to go on from; None starts anew.

    Raises:
        InputError: the checkpoint's painter is missing or damaged.
    """

    def __init__(self, config: RunConfig, rank: int, device: torch.device, newest: PublishedCheckpoint | None) -> None:
        self._config, self._rank, self._device, self._settings = config, rank, device, Adversary()
        self._teacher = graded_teacher(config.teacher.kind, config.teacher.weights)
        self._teacher.network.to(device)
        self._source = _adversarial_part(config)
        painter, state = initial_painter(), None if newest is None else _read_state(config, newest)
        if state is not None:
            load_weights(painter, state.weights, what="the checkpoint of the painter")
        self._painter = painter.to(device)
        settings = EngineSettings(config.optimizer, config.train, config.micro_batch, device)
        self._engine = PlainEngine(self._painter, settings, None if state is None else state.optimizer)

    def update(self, students: Sequence[Student], step: int) -> None:
        """Update the painter against the students after their update ``step`` (from 1).

        Raises:
            RunError: its gradients are not finite; the same on every worker.
        """
        for student in students:
            student.engine.module.eval()  # running statistics are of a student's own clips
        loss = self._loss(students, step)
        parameters = list(self._painter.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        for student in students:
            student.engine.module.train()
        norm = float(self._engine.average_gradients())
        if not math.isfinite(norm):
            raise RunError(f"the painter's gradients at step {step} are not finite; lower optimizer.learning_rate")
        self._engine.step(self._settings.painter_rate)

    def files(self) -> dict[str, bytes]:
        """Its files in a checkpoint."""
        weights = self._engine.weights()
        state = StudentState(weights, self._engine.optimizer_state())
        return {PAINTER_FILE: pack_painter(weights), _RESUME: save(pack_state(state))}

    def _loss(self, students: Sequence[Student], step: int) -> torch.Tensor:
        batch = self._config.train.global_batch // num_workers()
        first = (step - 1) * self._config.train.global_batch + self._rank * batch
        requests = [self._source.request(number, label_map=True) for number in range(first, first + batch)]
        maps = np.stack([request.label_map == _LV for request in requests if request.label_map is not None])
        mask = torch.from_numpy(maps).to(self._device)
        noise = painter_noise([request.seed for request in requests], self._config.window.size).to(self._device)
        video = self._painter(mask, noise)
        outputs = [
            student.engine.module(video).mask_logits[:, :, self._config.students[student.name].classes.index("LV")]
            for student in students
        ]
        return adversarial_loss(self._teacher.logits(video), outputs, mask, self._settings)


def _adversarial_part(config: RunConfig) -> GeneratedSource:
    """The source of the painter's label maps: that of its clips."""
    source = build_source(
        config.source, config.window, seed=config.seed, case_frames=config.evaluation.frames, pending=True
    )
    if isinstance(source, MixtureSource):
        source = next(part for part in source.parts.values() if part.name == "adversarial")
    assert isinstance(source, GeneratedSource)
    return source


def _read_state(config: RunConfig, newest: PublishedCheckpoint) -> StudentState:
    storage, where = RunStorage(config.root), f"{config.root}/{newest.folder}/{_RESUME}"
    return unpack_state(load_tensors(read_verified(storage, newest, _RESUME), where), where)
