"""A mask against the tracings of several readers.

Legend: A annotators, H rows, W columns.
"""

from __future__ import annotations

import re

import numpy as np

from echodfkd.core.errors import InputError
from echodfkd.core.records import VideoClip
from echodfkd.evaluation.against_truth import MetricValue
from echodfkd.metrics.annotators import against_annotators, pairwise_dice
from echodfkd.sources.clip_source import ClipSource
from echodfkd.sources.recorded import RecordedSource
from echodfkd.sources.video.annotations import AnnotationFolder
from echodfkd.sources.video.windows import resize_labels

ANNOTATED_SIDE = 112
"""The authors' tracings belong to frames of 112 x 112 pixels, the size of EchoNet-Dynamic."""
_RECORDED = re.compile(r"recorded-(?P<name>.+)-s-?\d+-case-w\d+")


def against_readers(mask: np.ndarray, case: VideoClip, folder: AnnotationFolder) -> list[MetricValue]:
    """Dice with each reader of ED and ES (``readers_dice_*``, their mean) and with their consensus
    (``consensus_dice_*``), and Dice between readers (``interreader_dice_*``). ``n`` counts readers, or pairs.
    """
    rows = []
    name, size = video_name(case), mask.shape[1]
    for phase, frames in (("ed", case.ed_frames), ("es", case.es_frames)):
        readers = folder.masks(name, phase, ANNOTATED_SIDE, ANNOTATED_SIDE)
        if not frames or not len(readers):
            continue
        masks_AHW = resize_labels(readers.astype(np.uint8), size) == 1
        found = against_annotators(mask[frames[0]], masks_AHW)
        rows.append(MetricValue(f"readers_dice_{phase}", found.mean, len(readers), "readers"))
        rows.append(MetricValue(f"consensus_dice_{phase}", found.consensus, len(readers), "readers"))
        pairs = pairwise_dice(masks_AHW)
        if len(pairs):
            rows.append(MetricValue(f"interreader_dice_{phase}", float(pairs.mean()), len(pairs), "readers", None))
    return rows


def check_readers(folder: AnnotationFolder, source: ClipSource) -> None:
    """Raise `InputError` if no reader has traced any case of the source."""
    cases = range(source.num_cases or 0)
    named = [source.video_name(case, is_case=True) for case in cases] if isinstance(source, RecordedSource) else []
    if not folder.videos & {*named}:
        raise InputError(
            f"evaluate.annotations: none of its {len(folder.videos)} videos, e.g. {min(folder.videos)}, is among the"
            f" {len(cases)} cases of evaluation.source"
        )


def video_name(case: VideoClip) -> str:
    """Name of the recorded video that the case was cut from. Raises `InputError` for cases of other sources."""
    found = _RECORDED.fullmatch(case.clip_id)
    if found is None:
        raise InputError(
            f"evaluate.masks and evaluate.annotations belong to videos of a recorded source, got {case.clip_id}"
        )
    return found["name"]
