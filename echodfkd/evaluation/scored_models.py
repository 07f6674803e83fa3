"""Models that predict cases: students of published checkpoints, and masks that are stored in a folder.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from echodfkd.config.sections.evaluate import EVERY_STEP, EvaluateConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.stored import stored_students
from echodfkd.core.errors import InputError
from echodfkd.core.mask_codes import quantise
from echodfkd.core.records import CLASS_NAMES, PublishedCheckpoint, VideoClip
from echodfkd.evaluation.predictions import Prediction, predict_student, predict_teacher
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.models.students.build import build_student
from echodfkd.sources.clip_source import ClipSource
from echodfkd.storage.checkpoints import read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import list_checkpoints
from echodfkd.teaching.placement import SourcePlacement, has_videos
from echodfkd.teaching.recorded import RecordedMasks

MASKS_NAME = "masks"
"""Name of the model of ``evaluate.masks``."""


@dataclass(frozen=True)
class ScoredModel:
    """A model that predicts cases. ``step`` is its checkpoint's, or 0 if it has none."""

    name: str
    step: int
    weights_id: str
    """Changes with its weights, or stored masks."""
    predict: Callable[[VideoClip], Prediction]

    @property
    def label(self) -> str:
        """Name among several checkpoints of a student."""
        return f"{self.name}@{self.step}" if self.step else self.name


def load_student(
    storage: RunStorage, checkpoint: PublishedCheckpoint, name: str, options: StudentConfig, device: str
) -> ScoredModel:
    """A student of a published checkpoint, built with the options of its run. Raises `InputError`."""
    network = build_student(**options.network)
    weights = read_student(storage, checkpoint, name)
    load_weights(network, weights, what=f"{storage.root}/{checkpoint.folder}/{name}")
    network.to(device).eval()
    weights_id = str(checkpoint.files[f"{name}/student.safetensors"]["sha256"])
    return ScoredModel(
        name,
        checkpoint.step,
        weights_id,
        lambda case: predict_student(network, case.video, classes=options.classes, device=device),
    )


def load_students(options: EvaluateConfig, device: str) -> tuple[list[ScoredModel], dict[str, StudentConfig]]:
    """The students of the checkpoints of ``evaluate.run``, and their options in that run's own config.

    Raises:
        InputError: the folder holds no such checkpoint, or no config that fits it.
    """
    if not options.run:
        return [], {}
    storage, wanted = RunStorage(options.run), options.step
    commits = [c for c in list_checkpoints(storage) if wanted in (EVERY_STEP, 0, c.step)]
    if not commits:
        which = f"of step {wanted}" if wanted > 0 else "at all"
        raise InputError(f"evaluate.run: {storage.root} holds no published checkpoint {which} (evaluate.step)")
    known = stored_students(storage)
    models = []
    for checkpoint in commits if wanted == EVERY_STEP else commits[-1:]:
        for name in checkpoint.students:
            if name not in known:
                raise InputError(f"{storage.root}/config.yaml has no student {name!r}, but the checkpoint has")
            models.append(load_student(storage, checkpoint, name, known[name], device))
    return models, {model.name: known[model.name] for model in models}


def stored_masks(options: EvaluateConfig, source: ClipSource) -> list[ScoredModel]:
    """The model of ``evaluate.masks``; none if that option is empty. They are read as a teacher's recorded masks are.

    Raises:
        InputError: no such folder, or the source has no videos that masks could belong to.
    """
    if not options.masks:
        return []
    masks = RecordedMasks(
        options.masks,
        source_classes=("LV",),
        channels=(0,),
        class_names=CLASS_NAMES,
        place=SourcePlacement(lambda clip: source) if has_videos(source) else None,
        option="evaluate.masks",
    )

    def predict(case: VideoClip) -> Prediction:
        prob = predict_teacher(masks, case, classes=("LV",), tasks=()).lv_prob
        return Prediction(quantise(prob) / 255.0)  # float64: codes come back exactly

    return [ScoredModel(MASKS_NAME, 0, masks.teacher_id, predict)]
