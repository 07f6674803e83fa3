"""What `evaluation` scores: students of published checkpoints, masks that were made before; and readers' tracings.

Legend: A annotators, T frames, H rows, W columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from echodfkd.config.file import config_from_dict
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.evaluate import EVERY_STEP
from echodfkd.config.sections.student import StudentConfig
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import VideoClip
from echodfkd.evaluation.against_truth import Measured
from echodfkd.evaluation.heads import Prediction, predict_with_heads
from echodfkd.metrics.annotators import against_annotators, pairwise_dice
from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm import count_parameters
from echodfkd.models.students.weights import load_weights
from echodfkd.sources.video.annotations import AnnotationFolder
from echodfkd.sources.video.decode import MAX_VIDEO_BYTES
from echodfkd.sources.video.windows import resize_labels, resize_video
from echodfkd.storage.checkpoints import read_student
from echodfkd.storage.files import RunStorage, read_inside
from echodfkd.storage.manifests import list_checkpoints
from echodfkd.storage.object_store import open_filesystem
from echodfkd.storage.untrusted import parse_yaml
from echodfkd.teaching.mask_files import decode_npz

ANNOTATED_SIDE = 112
"""Frames that the authors' tracings and masks belong to have 112 x 112 pixels, as all of EchoNet-Dynamic."""
MASKS_NAME = "masks"
"""Name of the model behind ``evaluate.masks``."""
_RECORDED = re.compile(r"recorded-(?P<name>.+)-s-?\d+-case-w\d+")


@dataclass(frozen=True)
class ScoredModel:
    """Something that predicts cases. ``step`` is its checkpoint's, -1 for the teacher, 0 where there is none."""

    name: str
    step: int
    predict: Callable[[VideoClip], Prediction]


def load_students(config: RunConfig, device: str) -> tuple[list[ScoredModel], dict[str, StudentConfig], dict[str, int]]:
    """The students of ``evaluate.run``'s checkpoints, as its own config built them; their options; sizes."""
    if not config.evaluate.run:
        return [], {}, {}
    storage, wanted = RunStorage(config.evaluate.run), config.evaluate.step
    commits = [c for c in list_checkpoints(storage) if wanted in (EVERY_STEP, 0, c.step)]
    if not commits:
        said = f"of step {wanted}" if wanted > 0 else "at all"
        raise InputError(f"evaluate.run: {storage.root} holds no published checkpoint {said} (evaluate.step)")
    where = f"{storage.root}/config.yaml"
    try:
        values = parse_yaml(storage.read("config.yaml"), where)
    except FileNotFoundError as error:
        raise InputError(f"evaluate.run: {storage.root} holds no config.yaml") from error
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold `key: value` lines, got a {type(values).__name__}")
    known = config_from_dict(values).students
    models, sizes = [], {}
    for checkpoint in commits if wanted == EVERY_STEP else commits[-1:]:
        for name in checkpoint.students:
            if name not in known:
                raise InputError(f"{where} has no student {name!r}, but the checkpoint has")
            network = build_student(**known[name].network)
            weights = read_student(storage, checkpoint, name)
            load_weights(network, weights, what=f"{storage.root}/{checkpoint.folder}/{name}")
            models.append(ScoredModel(name, checkpoint.step, _runner(network, known[name].classes, device)))
            sizes[name] = count_parameters(network)
    return models, {name: known[name] for name in sizes}, sizes


def _runner(network: Any, classes: list[str], device: str) -> Callable[[VideoClip], Prediction]:
    return lambda case: predict_with_heads(network, case.video, classes=classes, device=device)


def stored_masks(config: RunConfig) -> list[ScoredModel]:
    """The model whose masks lie in ``evaluate.masks``."""
    root = config.evaluate.masks
    if not root:
        return []
    try:
        fs, base = open_filesystem(root.rstrip("/"))
        if not fs.isdir(base):
            raise InputError(f"evaluate.masks: there is no folder {root}")
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"evaluate.masks: {root} cannot be read: {error}") from error

    def predict(case: VideoClip) -> Prediction:
        file = f"{_video_name(case)}.seg.npz"
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


def against_readers(mask: np.ndarray, case: VideoClip, folder: AnnotationFolder) -> list[Measured]:
    """Rows against every reader of ED and ES: ``readers_dice_*`` (their mean), ``consensus_dice_*``, and how far the
    readers agree among themselves, ``interreader_dice_*``. ``n`` is the number of readers (of pairs).
    """
    rows = []
    name, size = _video_name(case), mask.shape[1]
    for phase, frames in (("ed", case.ed_frames), ("es", case.es_frames)):
        readers = folder.masks(name, phase, ANNOTATED_SIDE, ANNOTATED_SIDE)
        if not frames or not len(readers):
            continue
        masks_AHW = resize_labels(readers.astype(np.uint8), size) == 1
        found = against_annotators(mask[frames[0]], masks_AHW)
        rows.append(Measured(f"readers_dice_{phase}", found.mean, len(readers), "readers"))
        rows.append(Measured(f"consensus_dice_{phase}", found.consensus, len(readers), "readers"))
        pairs = pairwise_dice(masks_AHW)
        if len(pairs):
            rows.append(Measured(f"interreader_dice_{phase}", float(pairs.mean()), len(pairs), "readers", None))
    return rows


def _video_name(case: VideoClip) -> str:
    found = _RECORDED.fullmatch(case.clip_id)
    if found is None:
        raise InputError(
            f"evaluate.masks and evaluate.annotations belong to videos of a recorded source, got {case.clip_id}"
        )
    return found["name"]
