"""The judge: its score's definition, its shipped weights, and what its training says of a blackout."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.judges import protocol as judge_module
from echodfkd.models.judges.build import load_judge
from echodfkd.models.judges.degradations import erode, halve, shift
from echodfkd.models.judges.embedded import WEIGHTS, WILD_WEIGHTS, embedded_judge, read_towers
from echodfkd.models.judges.protocol import MaskJudge, dilate, dilation_radius
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.training.judge.contrastive import contrastive_loss, finding_chances, train_towers
from echodfkd.training.judge.patients import draw_pools
from jobs import train_judge

HELD_OUT_SEED = 8_123_457


@pytest.fixture(scope="module")
def embedded():
    return load_judge("embedded")


@pytest.fixture(scope="module")
def cases():
    source = default_phantom(seed=HELD_OUT_SEED, num_frames=8, fps=16.0, size=56, case_frames=8)
    clips = [source.case(index) for index in range(4)]
    return [(clip.video, clip.truth_labels == 1) for clip in clips]


def test_the_wild_judge_tells_truth_from_gross_faults_in_the_looks_that_the_other_does_not_know(embedded):
    """The card's rho over all degrees is 0.65 and 0.45: the truth's lead over a shifted mask must be larger too."""
    source = default_phantom(seed=HELD_OUT_SEED, num_frames=8, fps=16.0, size=56, case_frames=8, domain="wild")
    clips = [source.case(index) for index in range(8)]
    masks = [(clip.video, clip.truth_labels == 1) for clip in clips]
    wild = load_judge("embedded_wild")
    assert wild.judge_id != embedded.judge_id
    assert WILD_WEIGHTS.stat().st_size < 8_000_000
    leads = [
        np.mean(
            [judge.score(video, m)["judge_score"] - judge.score(video, shifted(m))["judge_score"] for video, m in masks]
        )
        for judge in (wild, embedded)
    ]
    assert leads[0] > max(0.2, leads[1])


def shifted(mask):
    return shift(torch.from_numpy(mask), 10, -11).numpy()


def test_shipped_files_load_and_are_small(embedded):
    assert embedded.judge_id.startswith("embedded-judge-")
    assert WEIGHTS.stat().st_size < 8_000_000
    recipe = json.loads(WEIGHTS.with_suffix(".json").read_text())
    assert {"steps", "seed", "torch", "date", "agreement_with_dice"} <= recipe.keys()
    for size in ("default_56", "default_112"):
        assert recipe["agreement_with_dice"][size]["spearman"] >= 0.8
        assert recipe["agreement_with_dice"][size]["cases"] >= 20


@pytest.mark.parametrize("fault", ["empty", "inverse", "everything", "shifted", "eroded"])
def test_truth_scores_above_spoiled_masks_on_held_out_cases(embedded, cases, fault):
    """Phantom cases of a seed that neither training nor its measurement has used; means over four cases."""
    spoil = {
        "empty": np.zeros_like,
        "inverse": np.logical_not,
        "everything": np.ones_like,
        "shifted": lambda mask: np.roll(mask, (8, 8), axis=(1, 2)),
        "eroded": lambda mask: ndimage.binary_erosion(mask, np.ones((1, 9, 9))),
    }[fault]
    truth = np.mean([embedded.score(video, mask)["judge_score"] for video, mask in cases])
    spoiled = np.mean([embedded.score(video, spoil(mask))["judge_score"] for video, mask in cases])
    assert truth > spoiled + 0.3


class _CountingTowers:
    """Two towers without weights: a frame's embedding is its mean, its black share and a constant, normalised."""

    def __init__(self) -> None:
        self.captions: list[list[str]] = []
        self.largest = 0

    def embed_frames(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, len(frames_NHW))
        x = frames_NHW.float().flatten(1)
        return torch.nn.functional.normalize(
            torch.stack([x.mean(1) / 255, (x == 0).float().mean(1), torch.full((len(x),), 0.1)], 1), dim=1
        )

    def embed_captions(self, captions: list[str]) -> torch.Tensor:
        self.captions.append(captions)
        return torch.eye(3)


def test_score_follows_its_formula_frame_by_frame():
    """Against a loop over frames with scipy's dilation; 1e-5, the means are taken in another order."""
    rng = np.random.default_rng(0)
    video = rng.integers(1, 256, (300, 112, 112), dtype=np.uint8)
    mask = np.zeros_like(video, bool)
    mask[:, 40:70, 50:80] = rng.random((300, 30, 30)) < 0.02
    towers = _CountingTowers()
    judge = MaskJudge(towers, judge_id="counting")
    got = judge.score(video, mask)

    def embed(frame: np.ndarray) -> np.ndarray:
        values = np.array([frame.mean() / 255, (frame == 0).mean(), 0.1])
        return values / np.linalg.norm(values)

    wall = np.mean([embed(np.where(m, 0, f))[0] for f, m in zip(video, mask, strict=True)])
    grown = [np.where(ndimage.binary_dilation(m, np.ones((5, 5))), 0, f) for f, m in zip(video, mask, strict=True)]
    nothing, ventricle = np.mean([embed(f)[1:] for f in grown], axis=0)
    assert got["judge_wall"] == pytest.approx(wall, abs=1e-5)
    assert got["judge_nothing"] == pytest.approx(nothing, abs=1e-5)
    assert got["judge_left_ventricle"] == pytest.approx(ventricle, abs=1e-5)
    assert got["judge_score"] == pytest.approx(wall + nothing - ventricle, abs=1e-5)
    assert towers.largest <= judge_module.CHUNK_FRAMES  # memory does not grow with the case
    judge.score(video[:2], mask[:2])
    assert towers.captions == [["WALL", "NOTHING", "LEFT VENTRICLE"]]  # embedded once


def test_score_leaves_its_inputs_alone(embedded, cases):
    video, mask = cases[0][0].copy(), cases[0][1].copy()
    embedded.score(video, mask)
    assert np.array_equal(video, cases[0][0])
    assert np.array_equal(mask, cases[0][1])


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_dilation_and_erosion_equal_scipy(radius):
    mask = np.random.default_rng(radius).random((3, 21, 17)) < 0.1
    square = np.ones((1, 2 * radius + 1, 2 * radius + 1), bool)
    assert np.array_equal(dilate(torch.from_numpy(mask), radius).numpy(), ndimage.binary_dilation(mask, square))
    expected = ndimage.binary_erosion(~mask, square, border_value=1)
    assert np.array_equal(erode(torch.from_numpy(~mask), radius).numpy(), expected)


def test_dilation_is_five_by_five_at_112_and_scales():
    assert [dilation_radius(side, side) for side in (16, 56, 84, 112, 224)] == [1, 1, 2, 2, 4]
    assert dilation_radius(112, 300) == 2


@pytest.mark.parametrize(
    ("video", "mask", "words"),
    [
        (np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 9), bool), "must both be"),
        (np.zeros((0, 8, 8), np.uint8), np.zeros((0, 8, 8), bool), "T > 0"),
        (np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8), "lv_mask bool, got uint8 and uint8"),
    ],
)
def test_inputs_that_do_not_fit_are_named(embedded, video, mask, words):
    with pytest.raises(ValueError, match=words):
        embedded.score(video, mask)


def test_absent_or_wrong_weights_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"evaluation.judge: .*echodfkd train-judge makes it again"):
        read_towers(tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"evaluation.judge_weights: .* cannot be loaded from .*bad.safetensors"):
        load_judge("embedded", weights=str(tmp_path / "bad.safetensors"))


def test_training_goes_on_from_a_file_and_a_run_takes_what_it_wrote(tmp_path, embedded, cases, monkeypatch):
    """At a rate of 0 the new file is the old one, bit for bit."""
    out = tmp_path / "again.safetensors"
    words = ["--initial", "shipped", "--learning-rate", "0", "--domains", "wild", "--out", str(out), "--cases", "1"]
    monkeypatch.setattr(sys, "argv", ["train_judge.py", *words, "--steps", "2", "--batch", "4", "--patients", "5"])
    assert train_judge.main() == 0
    card = json.loads(out.with_suffix(".json").read_text())
    assert (card["initial"], card["domains"], card["steps"]) == ("shipped", ["wild"], 2)
    judge = load_judge("embedded", weights=str(out))
    assert judge.judge_id == embedded.judge_id
    assert judge.score(*cases[0]) == embedded.score(*cases[0])
    pools = draw_pools(["default"], 5, seed=1, say=lambda line: None)
    other = train_towers(read_towers(out), pools, steps=2, batch=4, learning_rate=1e-3, seed=1, say=lambda line: None)
    assert embedded_judge(other).judge_id != embedded.judge_id


def test_none_is_no_judge_and_other_names_are_refused():
    assert load_judge("none") is None
    with pytest.raises(
        ConfigError,
        match=r"evaluation.judge: got 'echo', allowed are embedded, embedded_wild, echoclip, echoprime,",
    ):
        load_judge("echo")


def test_chances_of_the_findings_by_hand():
    truth = torch.zeros(1, 10, 10, dtype=torch.bool)
    truth[:, 2:6, 2:7] = True  # 20 pixels
    nothing_black = torch.zeros_like(truth)
    beside = truth.clone()
    beside[:, 7, :10] = True  # 10 pixels more: e = 0.5
    half = torch.zeros_like(truth)
    half[:, 2:4, 2:7] = True  # u = 0.5
    wall, hidden = math.exp(-2.5), 1 - math.exp(-0.4)
    expected = torch.tensor(
        [
            [1 - math.exp(-2.5), math.exp(-2.5), 0, 0],
            [0, 1, 0, 0],
            [0, wall, (1 - wall) * (1 - hidden), (1 - wall) * hidden],
            [1 - math.exp(-1.25), math.exp(-1.25), 0, 0],
        ]
    )
    blackouts = torch.cat([nothing_black, truth, beside, half])
    torch.testing.assert_close(finding_chances(truth.expand(4, -1, -1), blackouts), expected)


def test_contrastive_loss_is_cross_entropy_where_each_pair_stands_alone():
    generator = torch.Generator().manual_seed(2)
    image, text = (torch.randn(5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    scale = torch.tensor(1.7, dtype=torch.float64)
    logits, own = 1.7 * image @ text.T, torch.arange(5)
    expected = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    got = contrastive_loss(image, text, scale, torch.eye(5, dtype=torch.bool))
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_caption_that_is_true_of_nothing_is_only_a_negative():
    """By hand: two images, the first caption true of both, the second half true of the second, the third of none."""
    image, text = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]], dtype=torch.float64)
    true = torch.tensor([[1.0, 0, 0], [1, 0.5, 0]])
    rows = (image @ text.T).log_softmax(1)
    columns = (image @ text.T).log_softmax(0)
    of_images = -(rows[0, 0] + (2 * rows[1, 0] + rows[1, 1]) / 3) / 2
    of_captions = -((columns[0, 0] + columns[1, 0]) / 2 + columns[1, 1]) / 2
    got = contrastive_loss(image, text, torch.tensor(1.0, dtype=torch.float64), true)
    assert got.item() == pytest.approx((of_images + of_captions).item() / 2, rel=1e-6)  # targets are float32


def test_shift_and_halve_by_hand():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 1:4] = True
    assert shift(mask, 2, -1)[0].nonzero().tolist() == [[3, 0], [3, 1], [3, 2]]
    assert shift(mask, -1, 2)[0].nonzero().tolist() == [[0, 3]]
    assert halve(mask, 0.5, 0.0)[0].nonzero().tolist() == [[1, 1], [1, 2]]
