"""Rank agreement of the judge, which sees no truth, with Dice.

Masks of several students, and degraded truth masks, are scored by the judge and by Dice with the truth. Degraded masks
span the whole range of Dice, which trained students do not: agreement on them shows that the judge sees gross faults,
agreement on the students' masks shows whether it can choose among students. Both are given.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.evaluation.against_truth import LV
from echodfkd.evaluation.mask_faults import unseen_faults
from echodfkd.metrics.overlap import dice
from echodfkd.metrics.ranks import RankAgreement, RankingAgreement, rank_agreement, ranking_agreement
from echodfkd.models.judges.degradations import erode, shift
from echodfkd.models.judges.protocol import REFERENCE_SIDE, Judge, dilate

_SCORES = ("dice", "judge_score", "judge_motion")
SWAPPED = ("LA", "RV", "RA", "myocardium")
"""Structures that replace the left ventricle, if the truth has them."""


CLOSE_DICE = 0.1
"""Students whose mean Dice lies within this of the best student's are those that a user has to choose among."""
BANDS = (0.7, 0.9)
"""Least Dice of the masks of a band. A user has to choose among good masks, and gross faults put any judge in order."""
WATCHED = ("truth", "late 3", "late 6", "frozen at ED", "frozen at ES")
"""Masks of the control over time: all but the truth keep their shape, and are wrong in time."""


@dataclass(frozen=True)
class JudgedMask:
    """One mask of one case; ``spoiled`` for a degraded truth mask, else a model's.

    ``unseen``: spoiled as in no training of the embedded judge. ``judge_motion`` is NaN if the judge sees no time.
    """

    clip_id: str
    mask: str
    spoiled: bool
    dice: float
    judge_score: float
    unseen: bool = False
    judge_motion: float = math.nan


@dataclass(frozen=True)
class AgreementStudy:
    """Every mask with both scores, and their agreement over all masks, the degraded ones, and the students'.

    ``ranking`` is about models and not masks: mean judge score against mean Dice, of every student and every kind of
    degraded mask (``all``), of the students (``students``), and of those within `CLOSE_DICE` of the best (``close``).
    None of these counts unseen faults. ``bands`` are of degraded masks by the way that they are spoiled and their least
    Dice, such as "unseen, Dice >= 0.7". ``over_time`` has both scores of `WATCHED` masks, each a mean over the cases.
    An agreement over fewer than two masks or models, or over ones that are all equal, is NaN.
    """

    judge_id: str
    rows: tuple[JudgedMask, ...]
    overall: RankAgreement
    spoiled: RankAgreement
    students: RankAgreement
    ranking: Mapping[str, RankingAgreement]
    bands: Mapping[str, RankAgreement]
    over_time: Mapping[str, Mapping[str, float | None]]

    def to_json(self) -> dict[str, object]:
        """Plain values for JSON."""
        found = {name: getattr(self, name).to_json() for name in ("overall", "spoiled", "students")}
        ranking = {name: agreement.to_json() for name, agreement in self.ranking.items()}
        bands = {name: agreement.to_json() for name, agreement in self.bands.items()}
        rows = [{**asdict(row), "judge_motion": _known(row.judge_motion)} for row in self.rows]
        more = {"ranking": ranking, "bands": bands, "over_time": self.over_time}
        return {"judge_id": self.judge_id, **found, **more, "rows": rows}


def agreement_study(
    judge: Judge,
    cases: Iterable[tuple[VideoClip, Mapping[str, np.ndarray]]],
    *,
    seed: int = 0,
) -> AgreementStudy:
    """Score the masks of every case with the judge and against the truth.

    Only annotated frames count, for both scores; Dice is the mean over them. Cases without truth are left out.

    Args:
        judge: any judge.
        cases: each with students' masks by name, bool (T, H, W).
        seed: of the bootstrap over cases.
    """
    rows = [row for case, masks in cases for row in judge_case(judge, case, masks)]
    return agreement_of(judge.judge_id, rows, seed=seed)


def agreement_of(judge_id: str, rows: Sequence[JudgedMask], *, seed: int = 0) -> AgreementStudy:
    """The study of masks already scored (`judge_case`)."""

    def agree(chosen: Sequence[JudgedMask]) -> RankAgreement:
        score, overlap = (np.array([getattr(row, key) for row in chosen]) for key in ("judge_score", "dice"))
        return rank_agreement(score, overlap, [row.clip_id for row in chosen], seed=seed)

    usual = [row for row in rows if not row.unseen]
    return AgreementStudy(
        judge_id,
        tuple(rows),
        agree(usual),
        agree([row for row in usual if row.spoiled]),
        agree([row for row in usual if not row.spoiled]),
        _rankings(usual, seed),
        {
            f"{name}, Dice >= {least}": agree([r for r in rows if r.spoiled and r.unseen == unseen and r.dice >= least])
            for unseen, name in ((False, "as in training"), (True, "unseen"))
            for least in BANDS
        },
        _over_time(rows),
    )


def _over_time(rows: Sequence[JudgedMask]) -> dict[str, dict[str, float | None]]:
    found = {}
    for name in WATCHED:
        mine = [row for row in rows if row.spoiled and row.mask == name]
        if mine:
            found[name] = {key: _known(float(np.mean([getattr(row, key) for row in mine]))) for key in _SCORES}
    return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _rankings(rows: Sequence[JudgedMask], seed: int) -> dict[str, RankingAgreement]:
    """Agreement on the order of models. A student and a degraded mask of one name are two models."""
    models = sorted({(row.spoiled, row.mask) for row in rows})
    cases = sorted({row.clip_id for row in rows})
    place = {model: number for number, model in enumerate(models)}, {case: number for number, case in enumerate(cases)}
    judge_MN, dice_MN = np.full((2, len(models), len(cases)), np.nan)
    for row in rows:
        at = place[0][row.spoiled, row.mask], place[1][row.clip_id]
        judge_MN[at], dice_MN[at] = row.judge_score, row.dice
    student_M = np.array([not spoiled for spoiled, _ in models], bool)
    mean_M = np.array([np.nanmean(line) if np.isfinite(line).any() else np.nan for line in dice_MN])
    best = np.nanmax(mean_M[student_M], initial=-np.inf)
    chosen = {"all": student_M | True, "students": student_M, "close": student_M & (mean_M >= best - CLOSE_DICE)}
    return {name: ranking_agreement(judge_MN[which], dice_MN[which], seed=seed) for name, which in chosen.items()}


def spoil(labels: np.ndarray, class_names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The truth's mask of the left ventricle and worse ones by name, bool (T, H, W).

    Eroded and dilated by squares, shifted, and replaced by each other structure that the labels have. Lengths
    are in pixels of a 112-pixel frame, in proportion on others, at least 1.

    Args:
        labels: uint8 (T, H, W) into ``class_names``.
        class_names: "background", "LV" and further structures.
    """
    truth = torch.from_numpy(labels == LV)
    scale = min(labels.shape[1:]) / REFERENCE_SIDE

    def px(length: float) -> int:
        return max(1, round(length * scale))

    found = {"truth": truth}
    found |= {f"eroded {length}": erode(truth, px(length)) for length in (2, 4, 8)}
    found |= {f"dilated {length}": dilate(truth, px(length)) for length in (4, 8, 16)}
    found |= {f"shifted {length}": shift(truth, px(0.7 * length), px(0.7 * length)) for length in (4, 12, 30)}
    masks = {name: mask.numpy() for name, mask in found.items()}
    for name in SWAPPED:
        other = labels == class_names.index(name) if name in class_names else np.zeros(0, bool)
        if other.any():
            masks[f"swapped for {name}"] = other
    return masks


def judge_case(judge: Judge, case: VideoClip, masks: Mapping[str, np.ndarray]) -> list[JudgedMask]:
    """Both scores of the degraded truth masks of a case and of students' ``masks``; empty without truth."""
    if case.truth_labels is None:
        return []
    known = case.truth_labels != TRUTH_UNKNOWN
    frames = np.flatnonzero(known.any(axis=(1, 2)))
    if not len(frames):
        return []
    truth, known, video = case.truth_labels[frames] == LV, known[frames], np.ascontiguousarray(case.video[frames])
    candidates = [
        (name, mask, True, False) for name, mask in spoil(case.truth_labels[frames], case.class_names).items()
    ]
    candidates += [(name, mask, True, True) for name, mask in _unseen(case, frames).items()]
    candidates += [(name, mask[frames], False, False) for name, mask in masks.items()]
    is_whole = len(frames) == len(case.video)  # else frames are missing between those that the judge is shown
    rows = []
    for name, mask, spoiled, unseen in candidates:
        scores = judge.score(video, mask)
        motion = float(scores.get("judge_motion", math.nan)) if is_whole else math.nan
        overlap = float(dice(mask & known, truth).mean())
        rows.append(JudgedMask(case.clip_id, name, spoiled, overlap, float(scores["judge_score"]), unseen, motion))
    return rows


def _unseen(case: VideoClip, frames: np.ndarray) -> dict[str, np.ndarray]:
    """`unseen_faults` of the truth in these frames."""
    assert case.truth_labels is not None
    labels = case.truth_labels[frames]
    place = {int(frame): number for number, frame in enumerate(frames)}
    ed, es = (
        next((place[at] for at in known or () if at in place), None) for known in (case.ed_frames, case.es_frames)
    )
    others = {name: labels == case.class_names.index(name) for name in SWAPPED if name in case.class_names}
    return unseen_faults(labels == LV, others, ed=ed, es=es)
