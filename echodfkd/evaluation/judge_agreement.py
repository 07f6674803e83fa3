"""How the embedded judge's score follows Dice over masks that are wrong in known ways.

Legend: T frames, H rows, W columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from echodfkd.core.records import VideoClip
from echodfkd.metrics.ranks import spearman
from echodfkd.models.judges.degradations import erode, halve, shift, wobble
from echodfkd.models.judges.protocol import MaskJudge, dilate
from echodfkd.sources.phantom.source import default_phantom


def held_out_agreement(
    judge: MaskJudge, num_cases: int, domains: Sequence[str], *, seed: int
) -> dict[str, dict[str, object]]:
    """`degradation_agreement` on this seed's cases, by domain and by size: both that the judge is trained on."""
    found = {}
    for domain, size in itertools.product(sorted(set(domains)), (56, 112)):
        source = default_phantom(seed=seed, num_frames=16, fps=32.0, size=size, case_frames=16, domain=domain)
        cases = [source.case(index) for index in range(num_cases)]
        found[f"{domain}_{size}"] = degradation_agreement(judge, cases, seed=1)
    return found


def degradation_agreement(judge: MaskJudge, cases: Sequence[VideoClip], *, seed: int) -> dict[str, object]:
    """How the judge's score follows Dice over spoiled truth masks.

    Returns:
        Spearman's rho over all masks of all cases, its mean within a case, and mean score and Dice by degradation.
    """
    generator = torch.Generator().manual_seed(seed)
    scores, dices, names = [], [], []
    for clip in cases:
        assert clip.truth_labels is not None
        truth = torch.from_numpy(clip.truth_labels == 1)
        for name, mask in spoiled_masks(truth, generator).items():
            scores.append(judge.score(clip.video, mask.numpy())["judge_score"])
            dices.append(float(2 * (mask & truth).sum() / (mask.sum() + truth.sum())))
            names.append(name)
    score, dice = np.array(scores), np.array(dices)
    each = np.array_split(np.arange(len(score)), len(cases))
    table = {
        name: {
            "dice": round(float(dice[[n == name for n in names]].mean()), 3),
            "judge_score": round(float(score[[n == name for n in names]].mean()), 3),
        }
        for name in dict.fromkeys(names)
    }
    return {
        "spearman": round(spearman(score, dice), 4),
        "spearman_within_case": round(float(np.mean([spearman(score[i], dice[i]) for i in each])), 4),
        "masks": len(scores),
        "cases": len(cases),
        "by_degradation": table,
    }


def spoiled_masks(truth: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The truth and its degradations by name, bool (T, H, W); lengths are given in pixels of a 112-pixel frame."""
    scale = truth.shape[1] / 112

    def px(length: float) -> int:
        return max(1, round(length * scale))

    return {
        "truth": truth,
        "eroded 2": erode(truth, px(2)),
        "eroded 4": erode(truth, px(4)),
        "eroded 8": erode(truth, px(8)),
        "dilated 4": dilate(truth, px(4)),
        "dilated 8": dilate(truth, px(8)),
        "dilated 16": dilate(truth, px(16)),
        "shifted 4": shift(truth, px(3), px(3)),
        "shifted 12": shift(truth, -px(8), px(9)),
        "shifted 30": shift(truth, px(20), -px(22)),
        "wobbling 0.2": wobble(truth, 0.2, px(14), generator),
        "wobbling 0.5": wobble(truth, 0.5, px(14), generator),
        "three quarters": halve(truth, 0.75, 0.5),
        "half": halve(truth, 0.5, 2.0),
        "elsewhere": shift(truth, px(40), px(40)),
        "empty": torch.zeros_like(truth),
        "inverse": ~truth,
        "everything": torch.ones_like(truth),
    }
