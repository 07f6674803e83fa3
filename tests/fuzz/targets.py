"""Every way in for content that others wrote. What each target spoils and demands stands in its own file."""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.fuzz import (
    targets_bundles,
    targets_dicom,
    targets_folders,
    targets_generators,
    targets_judges,
    targets_masks,
    targets_media,
    targets_remote,
    targets_runs,
    targets_text,
    targets_volumes,
)

os.environ["RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA"] = "1"  # as Ray before 2.55 always did
importlib.import_module("ray.data")  # registers types that unpickle, in the whole process


class Target(Protocol):
    """One way in. It is made once in an empty folder of its own."""

    name: str

    def run(self, rng: random.Random) -> None:
        """Make one malformed input and read it; returns where it could be read."""
        ...


TARGETS: dict[str, Callable[[Path], Target]] = {
    "video": targets_media.Video,
    "file_list": targets_media.FileList,
    "tracings": targets_media.Tracings,
    "contours": targets_media.Contours,
    "folder": targets_media.Folder,
    "weights": targets_media.Weights,
    "onnx_student": targets_media.OnnxStudent,
    "dicom": targets_dicom.Dicom,
    "camus": targets_volumes.Camus,
    "arrays": targets_volumes.Arrays,
    "table": targets_text.Table,
    "config": targets_text.ConfigText,
    "overrides": targets_text.Overrides,
    "checkpoint": targets_runs.Checkpoint,
    "report": targets_runs.Report,
    "stored": targets_runs.Stored,
    "run_folder": targets_folders.RunFolder,
    "lease": targets_folders.LeaseFiles,
    "seg_npz": targets_masks.SegNpz,
    "mask_rows": targets_masks.MaskRows,
    "reference": targets_masks.Reference,
    "bundle": targets_bundles.Bundle,
    "generator": targets_generators.PublishedGenerator,
    "privacy": targets_generators.PrivacyReference,
    "painter": targets_generators.PublishedPainter,
    "judge": targets_judges.OnnxJudge,
    "mask_request": targets_remote.MaskRequest,
    "mask_answer": targets_remote.MaskAnswer,
}
