"""One prediction against the truth of its case: overlap, borders, timing, ejection fraction, calibration.

docs/reference/metrics.md defines every metric. A metric appears only if the case has the truth it needs.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from echodfkd.core.records import TRUTH_UNKNOWN, CaseScore, VideoClip
from echodfkd.metrics import cardiac
from echodfkd.metrics.blind_events import detect_events
from echodfkd.metrics.calibration import Reliability, reliability
from echodfkd.metrics.events import match_events
from echodfkd.metrics.overlap import dice, iou
from echodfkd.metrics.surface import surface_distance
from echodfkd.metrics.temporal import area_jitter
from echodfkd.metrics.threshold import dice_by_code
from echodfkd.metrics.volume import area_length_volume, simpson_volume

LV = 1
"""Value of the left ventricle in truth label maps (`records.CLASS_NAMES`)."""

RUN_THRESHOLD = -1.0
"""Placeholder for the run's threshold, which `score_case` fills in."""

PUBLISHED_DICE_CODE = 80
PUBLISHED_AREA_CODE = 25
"""The authors store probabilities as floor(255 p) and cut them above these: for Dice and EF, and for aFD."""

RELIABILITY = "reliability_"
"""How the rows of the reliability curve begin, a bin's number follows. ``value`` is the share of the bin's pixels that
belong to the truth, ``threshold`` their mean probability, to four digits, and ``n`` how many pixels there are."""

_UNITS = {
    "afd_ed": "frames",
    "afd_es": "frames",
    "published_afd_ed": "frames",
    "published_afd_es": "frames",
    "ef_area": "percent",
    "published_ef_area": "percent",
    "ef_area_length": "percent",
    "ef_simpson": "percent",
    "ef_blind": "percent",
    "judge_ef": "percent",
    "ef_head_abs_error": "percent",
}
_UNITS_BY_ENDING = {"_px": "px", "_mm": "mm", "_ms": "ms", "_error_frames": "frames"}


def unit_of(metric: str) -> str:
    """Unit of a metric; "" for a pure number."""
    ending = next((unit for end, unit in _UNITS_BY_ENDING.items() if metric.endswith(end)), "")
    return _UNITS.get(metric, ending)


@dataclass(frozen=True)
class MetricValue:
    """One value before it becomes a `CaseScore`, over ``n`` frames (or events).

    ``threshold`` is None if the probability itself was measured, not a mask.
    """

    metric: str
    value: float
    n: int
    reference: str = "truth"
    threshold: float | None = RUN_THRESHOLD

    def score(
        self, clip_id: str, *, teacher_id: str, student: str, step: int, threshold: float | None = None
    ) -> CaseScore:
        """The row of scores; ``threshold`` is the run's."""
        return CaseScore(
            clip_id=clip_id,
            teacher_id=teacher_id,
            student=student,
            step=step,
            metric=self.metric,
            reference=self.reference,
            unit=unit_of(self.metric),
            threshold=threshold if self.threshold == RUN_THRESHOLD else self.threshold,
            value=self.value,
            n=self.n,
        )


def against_truth(prob: np.ndarray, mask: np.ndarray, case: VideoClip) -> list[MetricValue]:
    """Overlap, borders and calibration on the annotated frames. Pixels of unknown truth count in neither mask.

    Args:
        prob: float (T, H, W).
        mask: bool (T, H, W), ``prob`` above the threshold.
        case: with any truth it has.
    """
    if case.truth_labels is None:
        return []
    known = case.truth_labels != TRUTH_UNKNOWN
    annotated = known.any(axis=(1, 2))
    predicted, truth = mask & known, case.truth_labels == LV
    overlaps = {"dice": dice(predicted, truth), "iou": iou(predicted, truth)}
    unit, spacing = ("mm", case.spacing_mm) if case.spacing_mm else ("px", 1.0)
    every = [int(t) for t in np.flatnonzero(annotated)]
    apart = surface_distance(predicted[every], truth[every], spacing=spacing)
    distances = {"hd95": dict(zip(every, apart.hd95, strict=True)), "assd": dict(zip(every, apart.assd, strict=True))}
    rows = []
    for group, frames in (("all", every), ("ed", case.ed_frames or ()), ("es", case.es_frames or ())):
        chosen = [t for t in frames if annotated[t]]
        if not chosen:
            continue
        for name, values in overlaps.items():
            rows.append(MetricValue(f"{name}_{group}", float(values[chosen].mean()), len(chosen)))
        for name, by_frame in distances.items():
            value = float(np.mean([by_frame[t] for t in chosen]))
            rows.append(MetricValue(f"{name}_{group}_{unit}", value, len(chosen)))
    if every:
        curve = reliability(prob[every], truth[every], known[every])
        rows.append(MetricValue("ece", curve.ece, len(every), threshold=None))
        rows.append(MetricValue("brier", curve.brier, len(every), threshold=None))
        rows += _reliability_rows(curve)
    if annotated.all():
        rows.append(MetricValue("area_jitter", area_jitter(predicted, truth), max(0, len(mask) - 2)))
    return rows


def dice_curve(prob: np.ndarray, case: VideoClip) -> list[np.ndarray]:
    """`metrics.threshold.dice_by_code` of a prediction (T, H, W) on its annotated frames; empty without any."""
    if case.truth_labels is None:
        return []
    known = case.truth_labels != TRUTH_UNKNOWN
    frames = known.any(axis=(1, 2))
    return [dice_by_code(prob[frames], case.truth_labels[frames] == LV, known[frames])] if frames.any() else []


def tuned(prob: np.ndarray, case: VideoClip, *, code: int) -> list[MetricValue]:
    """``tuned_dice_*``: Dice of the mask floor(255 p) > code, with a code that was chosen on other cases."""
    mask = np.floor(255.0 * np.asarray(prob, np.float64)) > code
    return [
        MetricValue(f"tuned_{row.metric}", row.value, row.n, threshold=code / 255.0)
        for row in against_truth(prob, mask, case)
        if row.metric.startswith("dice_")
    ]


def _reliability_rows(curve: Reliability) -> list[MetricValue]:
    """A row per bin that holds a pixel: sums over cases give the curve of all of them."""
    bins = zip(*curve.curve(), curve.count, strict=True)
    return [
        MetricValue(f"{RELIABILITY}{number:02d}", float(share), int(count), threshold=round(float(prob), 4))
        for number, (prob, share, count) in enumerate(bins)
        if count
    ]


def phases(mask: np.ndarray, case: VideoClip) -> list[MetricValue]:
    """ED, ES and EF of the mask (T, H, W) against the known ED and ES frames."""
    area = cardiac.area_curve(mask)
    ed_frames, es_frames = case.ed_frames or (), case.es_frames or ()
    events = {"ed": ed_frames, "es": es_frames}
    detected = dict(zip(events, detect_events(area, fps=case.fps), strict=True))
    rows = [row for phase in events if events[phase] for row in _timing(area, events, detected, phase, case.fps)]
    if case.truth_labels is not None and (case.truth_labels != TRUTH_UNKNOWN).any((1, 2)).all():
        for phase, wanted in events.items():
            if wanted:
                found = match_events(detected[phase], wanted, num_frames=len(mask))
                rows.append(MetricValue(f"{phase}_precision", found.precision, len(detected[phase])))
                rows.append(MetricValue(f"{phase}_recall", found.recall, len(wanted)))
    if ed_frames and es_frames:
        count, volume = len(ed_frames) + len(es_frames), area_length_volume(mask)
        both = len(detected["ed"]) + len(detected["es"])
        rows += [
            MetricValue("ef_area", cardiac.ejection_fraction(area, ed_frames, es_frames), count),
            MetricValue("ef_area_length", cardiac.ejection_fraction(volume, ed_frames, es_frames), count),
            MetricValue("ef_simpson", cardiac.ejection_fraction(simpson_volume(mask), ed_frames, es_frames), count),
            MetricValue("ef_blind", cardiac.ejection_fraction(volume, detected["ed"], detected["es"]), both),
        ]
    return rows


def published(prob: np.ndarray, case: VideoClip) -> list[MetricValue]:
    """Dice, aFD and the naive EF at the authors' own thresholds instead of the run's.

    ``published_dice_*`` and ``published_ef_area`` take codes floor(255 p) above 80, ``published_afd_*`` above 25. Only
    the first frame of each phase counts, as in their evaluation. Like theirs, these rows always have a value: a search
    that finds no frame below the median takes those at it, and the EF of a mask that is empty at ED is 0. The run's own
    ``afd_*`` and ``ef_area`` are NaN there.
    """
    ed, es = (case.ed_frames or ())[:1], (case.es_frames or ())[:1]
    codes = np.floor(255.0 * np.asarray(prob, np.float64))
    large, small = codes > PUBLISHED_DICE_CODE, cardiac.area_curve(codes > PUBLISHED_AREA_CODE)
    dice_at, area_at = PUBLISHED_DICE_CODE / 255.0, PUBLISHED_AREA_CODE / 255.0
    rows = []
    for phase, frames in (("ed", ed), ("es", es)):
        if not frames:
            continue
        distance = cardiac.average_frame_distance(small, frames, phase=phase, at_median=True)
        rows.append(MetricValue(f"published_afd_{phase}", distance, 1, threshold=area_at))
        labels = None if case.truth_labels is None else case.truth_labels[frames[0]]
        if labels is not None and (labels != TRUTH_UNKNOWN).any():
            value = float(dice(large[frames[0]] & (labels != TRUTH_UNKNOWN), labels == LV))
            rows.append(MetricValue(f"published_dice_{phase}", value, 1, threshold=dice_at))
    if ed and es:
        area = cardiac.area_curve(large)
        value = cardiac.ejection_fraction(area, ed, es) if area[ed[0]] > 0 else 0.0
        rows.append(MetricValue("published_ef_area", value, 2, threshold=dice_at))
    return rows


def _timing(
    area: np.ndarray,
    events: Mapping[str, Sequence[int]],
    detected: Mapping[str, Sequence[int]],
    phase: str,
    fps: float,
) -> list[MetricValue]:
    """Distances in time of one phase: oracle-assisted, and blind."""
    wanted = events[phase]
    error = cardiac.detection_error(detected[phase], wanted)
    return [
        MetricValue(f"afd_{phase}", cardiac.average_frame_distance(area, wanted, phase=phase), len(wanted)),
        MetricValue(f"{phase}_error_frames", error, len(wanted)),
        MetricValue(f"{phase}_error_ms", 1000.0 * error / fps, len(wanted)),
    ]
