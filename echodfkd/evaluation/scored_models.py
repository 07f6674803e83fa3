"""Models that predict cases: students of published checkpoints, and masks that are stored in a folder.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from echodfkd.config.sections.evaluate import EVERY_STEP, EvaluateConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.stored import stored_students
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import PublishedCheckpoint, VideoClip
from echodfkd.evaluation.against_readers import video_name
from echodfkd.evaluation.predictions import Prediction, predict_student
from echodfkd.models.students.build import build_student
from echodfkd.models.students.weights import load_weights
from echodfkd.sources.video.container import MAX_VIDEO_BYTES
from echodfkd.sources.video.windows import resize_video
from echodfkd.storage.checkpoints import read_student
from echodfkd.storage.files import RunStorage, read_inside
from echodfkd.storage.manifests import list_checkpoints
from echodfkd.storage.object_store import open_filesystem
from echodfkd.teaching.mask_files import decode_npz

MASKS_NAME = "masks"
"""Name of the model of ``evaluate.masks``."""


@dataclass(frozen=True)
class ScoredModel:
    """A model that predicts cases. ``step`` is its checkpoint's, or 0 if it has none."""

    name: str
    step: int
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
    return ScoredModel(
        name, checkpoint.step, lambda case: predict_student(network, case.video, classes=options.classes, device=device)
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


def stored_masks(options: EvaluateConfig) -> list[ScoredModel]:
    """The model of ``evaluate.masks``; none if that option is empty. Raises `InputError`."""
    root = options.masks
    if not root:
        return []
    try:
        fs, base = open_filesystem(root.rstrip("/"))
        if not fs.isdir(base):
            raise InputError(f"evaluate.masks: there is no folder {root}")
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"evaluate.masks: {root} cannot be read: {error}") from error

    def predict(case: VideoClip) -> Prediction:
        file = f"{video_name(case)}.seg.npz"
        try:
            codes = decode_npz(read_inside(fs, base, file, MAX_VIDEO_BYTES), file)
        except OSError as error:
            raise ClipError(f"evaluate.masks: {file} cannot be used: {error}") from error
        return Prediction(_codes_to_prob(codes, case, file))

    return [ScoredModel(MASKS_NAME, 0, predict)]


def _codes_to_prob(codes: np.ndarray, case: VideoClip, file: str) -> np.ndarray:
    """Masks of the case's frames, float64 (T, H, W)."""
    T, H, W = case.video.shape
    if len(codes) < case.window_start + T:
        raise ClipError(
            f"evaluate.masks: {file} holds {codes.dtype} {codes.shape}, expected uint8 (frames, height, width) with at"
            f" least {case.window_start + T} frames"
        )
    assert H == W, "cases are square"
    stretch = codes[case.window_start : case.window_start + T]
    return resize_video(np.ascontiguousarray(stretch), H) / 255.0  # float64: codes come back exactly
