"""Controls of the judge's score, and the score that the authors' script computes in its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from echodfkd.core.records import VideoClip
from echodfkd.evaluation.case import ScoringRules, score_case
from echodfkd.evaluation.predictions import Prediction
from echodfkd.models.judges.build import load_judge
from echodfkd.models.judges.controls import CONTROLS, control_masks, control_scores
from echodfkd.models.judges.protocol import MaskJudge
from echodfkd.sources.phantom.source import default_phantom


class BlackShare:
    """Towers whose "WALL" is 1 less the black share of a frame, "NOTHING" that share, "LEFT VENTRICLE" zero."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def embed_frames(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        black = (frames_NHW == 0).float().mean((1, 2))
        self.seen.append(int((frames_NHW == 0).sum()))
        return torch.stack([1 - black, black, torch.zeros_like(black)], dim=1)

    def embed_captions(self, captions: list[str]) -> torch.Tensor:
        return torch.eye(len(captions))


def published_score(towers: BlackShare, video: np.ndarray, mask: np.ndarray) -> float:
    """Their script's arithmetic: the "expanded" video is a second name for the list of blacked-out frames, and the
    dilated masks are computed and not used, so that all three terms see the tight mask."""
    frames = [frame.copy() for frame in video]
    expanded = frames.copy()
    dilated = mask.copy()
    for frame, own in zip(frames, mask, strict=True):
        frame[own] = 0
    for number, frame in enumerate(expanded):
        dilated[number] = ndimage.binary_dilation(mask[number], np.ones((5, 5)))
        frame[mask[number]] = 0
    tight, wide = (towers.embed_frames(torch.from_numpy(np.stack(part))) for part in (frames, frames))
    return float(tight[:, 0].mean() + wide[:, 1].mean() - wide[:, 2].mean())


def test_the_score_as_meant_differs_from_the_published_script():
    """A square of 20 x 20 on 112 x 112: 400 black pixels in all their terms, 24 x 24 = 576 in the dilated two here."""
    video = np.full((3, 112, 112), 90, np.uint8)
    mask = np.zeros(video.shape, bool)
    mask[:, 40:60, 50:70] = True
    pixels = 112 * 112
    towers = BlackShare()
    assert published_score(towers, video, mask) == pytest.approx(1 - 400 / pixels + 400 / pixels, abs=1e-6)
    assert towers.seen == [1200, 1200]
    towers = BlackShare()
    ours = MaskJudge(towers, judge_id="share").score(video, mask)["judge_score"]
    assert ours == pytest.approx(1 - 400 / pixels + 576 / pixels, abs=1e-6)
    assert towers.seen == [1200, 1728]


def test_control_masks():
    mask = np.zeros((2, 40, 60), bool)
    mask[0, 5:15, 40:50] = True
    mask[1, 6:12, 41:47] = True
    found = control_masks(mask, seed=3)
    assert tuple(found) == CONTROLS
    assert not found["unmasked"].any()
    assert np.array_equal(found["inverse"], ~mask)
    moved = np.zeros_like(mask)  # down by 10 and left by 15, away from the near edges
    moved[0, 15:25, 25:35] = True
    moved[1, 16:22, 26:32] = True
    assert np.array_equal(found["shifted"], moved)
    assert found["random"].sum((1, 2)).tolist() == mask.sum((1, 2)).tolist()
    assert not (found["random"][1] & ~found["random"][0]).any()  # one field: a smaller mask lies in a larger one
    assert np.array_equal(found["random"], control_masks(mask, seed=3)["random"])
    assert not np.array_equal(found["random"], control_masks(mask, seed=4)["random"])
    assert ndimage.label(found["random"][0])[1] <= 8  # patches, not single pixels
    lost = control_masks(np.pad(np.ones((1, 4, 4), bool), ((0, 0), (0, 4), (0, 4))), seed=0)["shifted"]
    assert lost.sum() == 16


def test_controls_of_an_empty_and_a_full_mask():
    empty, full = np.zeros((1, 16, 16), bool), np.ones((1, 16, 16), bool)
    assert {name: int(m.sum()) for name, m in control_masks(empty, seed=0).items()} == {
        "unmasked": 0, "inverse": 256, "shifted": 0, "random": 0,
    }  # fmt: skip
    assert control_masks(full, seed=0)["random"].all()


def test_the_embedded_judge_rates_a_true_mask_above_every_control():
    """Two phantom cases of a seed that its training did not see; the margin is a tenth of its range of 2."""
    judge = load_judge("embedded")
    source = default_phantom(seed=8_123_457, num_frames=6, fps=16.0, size=56, case_frames=6)
    for number in range(2):
        clip = source.case(number)
        mask = clip.truth_labels == 1
        true = judge.score(clip.video, mask)["judge_score"]
        controls = control_scores(judge, clip.video, mask, name=clip.clip_id)
        assert set(controls) == {f"judge_{name}" for name in CONTROLS}
        assert max(controls.values()) < true - 0.2


def test_controls_are_rows_of_a_case_where_they_are_asked_for():
    video = np.full((5, 32, 32), 90, np.uint8)
    prob = np.zeros((5, 32, 32))
    prob[:, 8:20, 8:20] = 1
    case = VideoClip("c", 0, 0, 0, 0, video, 32.0, "test", "test")
    judge = MaskJudge(BlackShare(), judge_id="share")
    plain, rows = (
        {row.metric: row for row in score_case(Prediction(prob), case, ScoringRules("t", 0.5, judge, controls))}
        for controls in (False, True)
    )
    assert set(rows) - set(plain) == {f"judge_{name}" for name in CONTROLS}
    assert rows["judge_unmasked"].value == pytest.approx(1, abs=1e-6)
    assert rows["judge_inverse"].reference == "share"
