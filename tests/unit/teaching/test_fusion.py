"""Fusion of several teachers' masks: each way against a slow loop or a closed form, and ensembles out of a config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from echodfkd.config.file import config_from_dict, config_to_yaml, load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.teaching.build import build_configured_teacher
from echodfkd.teaching.ensemble import Ensemble, Member
from echodfkd.teaching.fusion import EPS, FUSIONS, STAPLE_START, confidence, fuse_by_name, staple_frames
from tests.helpers.teachers import FloatTeacher, masks_of

RNG = np.random.default_rng(0)
PROB = RNG.uniform(size=(3, 2, 4, 5))
WEIGHTS = np.array([1.0, 2.0, 0.5])
HALF_LEVEL = 0.5 / 255 + 1e-6
"""How far a mean of masks may lie from that of the members' own, which are rounded to 256 levels; float32."""


def pixel(method: str, p: list[float], w: list[float]) -> float:
    """One pixel by the formula's text, in Python floats."""
    if method == "mean_prob":
        trust = [1.0] * len(p)
    elif method == "mean_logit":
        mean = sum(b * math.log(a / (1 - a)) for a, b in zip(p, w, strict=True)) / sum(w)
        return 1 / (1 + math.exp(-mean))
    elif method == "entropy":
        trust = [1 - (-a * math.log(a) - (1 - a) * math.log(1 - a)) / math.log(2) + EPS for a in p]
    else:
        trust = []
        for m, a in enumerate(p):
            rest = [k for k in range(len(p)) if k != m]
            others = sum(w[k] * p[k] for k in rest) / sum(w[k] for k in rest)
            trust.append(1 - abs(a - others) + EPS)
    share = [a * b for a, b in zip(w, trust, strict=True)]
    return sum(a * b for a, b in zip(share, p, strict=True)) / sum(share)


@pytest.mark.parametrize("method", ["mean_prob", "mean_logit", "entropy", "agreement"])
def test_a_pixel_is_what_its_formula_says(method: str) -> None:
    fused = FUSIONS[method](PROB, WEIGHTS)
    for place in product(*map(range, PROB.shape[1:])):
        wanted = pixel(method, [float(p) for p in PROB[:, *place]], list(WEIGHTS))
        assert fused[place] == pytest.approx(wanted, abs=1e-12)  # double precision


@pytest.mark.parametrize("method", sorted(FUSIONS))
def test_what_all_agree_on_stays_and_their_order_does_not_matter(method: str) -> None:
    binary = (PROB[:1] > 0.5).astype(float).repeat(3, axis=0)
    np.testing.assert_allclose(FUSIONS[method](binary, WEIGHTS), binary[0], atol=2 * EPS)  # logits are cut at EPS
    turned = FUSIONS[method](PROB[[2, 0, 1]], WEIGHTS[[2, 0, 1]])
    np.testing.assert_allclose(turned, FUSIONS[method](PROB, WEIGHTS), atol=1e-9)
    np.testing.assert_allclose(FUSIONS[method](PROB, 7 * WEIGHTS), FUSIONS[method](PROB, WEIGHTS), atol=1e-9)
    for edge in (0.0, 1.0):
        fused = FUSIONS[method](np.full((3, 1, 4, 5), edge), WEIGHTS)
        np.testing.assert_allclose(fused, edge, atol=2 * EPS)


def test_one_teacher_against_two_that_agree_loses_its_vote() -> None:
    prob = np.array([1.0, 1.0, 0.0]).reshape(3, 1, 1)
    fused = FUSIONS["agreement"](prob, np.ones(3))
    assert fused.item() == pytest.approx(1.0, abs=1e-5)  # its trust is 1 - |0 - 1| + EPS
    assert FUSIONS["mean_prob"](prob, np.ones(3)).item() == pytest.approx(2 / 3)


def test_the_gate_takes_each_clip_of_its_most_certain_teacher() -> None:
    """Three clips of three pixels and two teachers, by hand. 1 - H(p) / log 2 of .9 is .531, of .8 .278, of .6 .029."""
    sure_of_first = np.array([[0.9, 0.9, 0.4], [0.6, 0.6, 0.5], [0.1, 0.4, 0.2]])
    other = np.array([[0.8, 0.8, 0.0], [0.8, 0.4, 0.5], [0.4, 0.1, 0.2]])
    prob = np.stack([sure_of_first, other])[:, :, None, None]  # (2, 3, 1, 1, 3): clips, frames, rows, columns
    fused = FUSIONS["gate"](prob, np.ones(2))[:, 0, 0]
    # clip 0: .531 against .278 where either sees it; the third pixel, where the other is sure, does not count.
    # clip 1: (.029 + .029 + 0) / 3 against (.278 + .029 + 0) / 3. clip 2: nobody sees it, so all three pixels: a tie
    np.testing.assert_array_equal(fused, [sure_of_first[0], other[1], sure_of_first[2]])
    trusted = FUSIONS["gate"](prob, np.array([1.0, 2.0]))[:, 0, 0]
    np.testing.assert_array_equal(trusted, [other[0], other[1], other[2]])  # 2 x .278 is more than .531


def test_the_gate_decides_class_by_class_and_clip_by_clip() -> None:
    rng = np.random.default_rng(5)
    sharp, soft = rng.integers(0, 2, (2, 3, 2, 4, 4)).astype(float), rng.uniform(0.3, 0.7, (2, 3, 2, 4, 4))
    sharp[0, :, :, 0, 0] = 1.0  # each clip and class shows something
    one, two = sharp.copy(), soft.copy()
    one[1], two[1] = soft[1], sharp[1]  # clip 1 is the other teacher's
    one[:, :, 1], two[:, :, 1] = two[:, :, 1].copy(), one[:, :, 1].copy()  # and so is the second class of both
    fused, _ = fuse_by_name([one, two], [("LV", "LA")] * 2, [1.0, 1.0], method="gate", class_names=("LV", "LA"))
    np.testing.assert_array_equal(fused, sharp.astype(np.float32))


def slow_staple(
    decisions: np.ndarray, weights: list[float], rounds: int
) -> tuple[list[float], list[float], list[float]]:
    """The paper's algorithm for one frame, pixel by pixel: products of probabilities, no logarithms."""
    M, P = decisions.shape
    times = [w * M / sum(weights) for w in weights]
    f = sum(t * d for t, d in zip(times, decisions.mean(1), strict=True)) / M
    p, q = [STAPLE_START] * M, [STAPLE_START] * M
    truth = [0.0] * P
    for _ in range(rounds):
        for i in range(P):
            a, b = f, 1 - f
            for j in range(M):
                d = decisions[j, i]
                a *= (p[j] ** d * (1 - p[j]) ** (1 - d)) ** times[j]
                b *= (q[j] ** (1 - d) * (1 - q[j]) ** d) ** times[j]
            truth[i] = a / (a + b)
        for j in range(M):
            p[j] = sum(t * d for t, d in zip(truth, decisions[j], strict=True)) / sum(truth)
            q[j] = sum((1 - t) * (1 - d) for t, d in zip(truth, decisions[j], strict=True)) / (P - sum(truth))
    return truth, p, q


@pytest.mark.parametrize(
    ("soft", "weights"), [(False, [1.0, 1.0, 1.0, 1.0]), (True, [1.0, 1.0, 1.0, 1.0]), (False, [1.0, 2.0, 1.0, 0.5])]
)
def test_staple_is_the_papers_algorithm_frame_by_frame(soft: bool, weights: list[float]) -> None:
    rng = np.random.default_rng(3)
    hidden = rng.uniform(size=(2, 40)) < np.array([[0.3], [0.6]])
    flips = rng.uniform(size=(4, 2, 40)) < np.array([0.05, 0.1, 0.15, 0.3])[:, None, None]
    decisions = (hidden ^ flips).astype(float)
    if soft:
        decisions = 0.1 + 0.8 * decisions
    truth, sensitivity, specificity = staple_frames(decisions, np.array(weights))
    for frame in range(2):
        slow = slow_staple(decisions[:, frame], weights, rounds=300)
        # both have converged: the fast one stops where no pixel moves by more than 1e-6, of a linear convergence
        np.testing.assert_allclose(truth[frame], slow[0], atol=1e-4)
        np.testing.assert_allclose(sensitivity[:, frame], slow[1], atol=1e-4)
        np.testing.assert_allclose(specificity[:, frame], slow[2], atol=1e-4)


def test_staple_finds_how_good_each_teacher_is() -> None:
    """Teachers with planted sensitivity and specificity: what is estimated lies within three standard errors."""
    rng = np.random.default_rng(4)
    planted_p, planted_q = np.array([0.95, 0.9, 0.7, 0.8]), np.array([0.98, 0.9, 0.95, 0.75])
    hidden = rng.uniform(size=20_000) < 0.4
    chance = np.where(hidden, planted_p[:, None], 1 - planted_q[:, None])
    decisions = (rng.uniform(size=chance.shape) < chance).astype(float)
    truth, sensitivity, specificity = staple_frames(decisions[:, None], np.ones(4))
    error = (
        3 * math.sqrt(0.25 / 8000) + 0.01
    )  # of a share of the 8,000 pixels inside; 0.01: the hidden truth is estimated
    np.testing.assert_allclose(sensitivity[:, 0], planted_p, atol=error)
    np.testing.assert_allclose(specificity[:, 0], planted_q, atol=error)
    majority = decisions.mean(0) > 0.5
    assert ((truth[0] > 0.5) == hidden).mean() > (majority == hidden).mean()  # better than a vote


def test_confidence_is_one_where_all_agree_and_zero_at_an_even_split() -> None:
    assert confidence(np.full((3, 1, 1), 0.3), WEIGHTS).item() == pytest.approx(1.0)
    assert confidence(np.array([0.0, 1.0]).reshape(2, 1, 1), np.ones(2)).item() == pytest.approx(0.0)
    two = confidence(np.array([0.2, 0.6]).reshape(2, 1, 1), np.ones(2)).item()
    assert two == pytest.approx(1 - 2 * 0.2)  # two values lie half their distance from their mean
    assert ((confidence(PROB, WEIGHTS) >= 0) & (confidence(PROB, WEIGHTS) <= 1)).all()


def test_classes_are_fused_by_name_over_those_who_give_them() -> None:
    a, b = RNG.uniform(size=(2, 3, 2, 4, 4)), RNG.uniform(size=(2, 3, 1, 4, 4))
    fused, sure = fuse_by_name(
        [a, b], [("LA", "LV"), ("LV",)], [1.0, 3.0], method="mean_prob", class_names=("LA", "LV")
    )
    assert (fused.shape, fused.dtype, sure.shape) == ((2, 3, 2, 4, 4), np.float32, (2, 3, 2, 4, 4))
    np.testing.assert_allclose(fused[:, :, 0], a[:, :, 0], atol=1e-6)  # float32
    np.testing.assert_allclose(fused[:, :, 1], (a[:, :, 1] + 3 * b[:, :, 0]) / 4, atol=1e-6)
    np.testing.assert_allclose(sure[:, :, 0], 1.0, atol=1e-6)


class Fake(FloatTeacher):
    """Probability = grey level / 255 times its share; LA beside LV where ``two``. Clips in ``lost`` have no mask."""

    def __init__(self, share: float, *, two: bool = False, lost: tuple[str, ...] = ()) -> None:
        self.teacher_id, self.share, self.lost = f"fake-{share}", share, lost
        self.class_names = ("background", "LV", "LA") if two else ("background", "LV")

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        lv = video_NTHW.astype(np.float32) / 255 * self.share
        return lv if len(self.class_names) == 2 else np.stack([lv, lv / 2], axis=2)

    def lost_rows(self, clips: Sequence[ClipKey]) -> dict[int, str]:
        return {i: "lost" for i, clip in enumerate(clips) if clip.clip_id in self.lost}


VIDEO = RNG.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)


def test_an_ensemble_is_a_teacher_of_all_classes() -> None:
    ensemble = Ensemble([Member("a", Fake(1.0), 1.0), Member("b", Fake(0.5, two=True), 1.0)], method="mean_prob")
    assert ensemble.class_names == ("background", "LV", "LA")
    assert ensemble.member_classes == {"a": ("background", "LV"), "b": ("background", "LV", "LA")}
    prob, _ = masks_of(ensemble, VIDEO)
    level = VIDEO / 255
    np.testing.assert_allclose(prob, np.stack([0.75 * level, 0.25 * level], axis=2), atol=HALF_LEVEL)
    other = Ensemble([Member("a", Fake(1.0), 2.0), Member("b", Fake(0.5, two=True), 1.0)], method="mean_prob")
    assert ensemble.teacher_id != other.teacher_id


def test_a_clip_that_one_member_has_no_mask_of_has_none() -> None:
    ensemble = Ensemble([Member("a", Fake(1.0), 1.0), Member("b", Fake(1.0, lost=("y",)), 1.0)], method="mean_logit")
    prob, faults = masks_of(ensemble, VIDEO, [ClipKey("x", 0, 0), ClipKey("y", 1, 0)])
    assert faults == {1: "b: lost"}
    assert prob.shape == (2, 3, 1, 8, 8)
    assert prob[0].max() > 0.9
    assert not prob[1].any()


def run_config(*overrides: str) -> RunConfig:
    return load_config(None, ["students.a.blocks=2", *overrides])


MEMBERS = ("teacher.kind=ensemble", "teacher.members.one.kind=embedded", "teacher.members.two.kind=embedded_chambers")


def test_a_config_builds_an_ensemble_of_shipped_teachers() -> None:
    config = run_config(*MEMBERS, "teacher.members.two.weight=3", "teacher.fusion=mean_prob")
    teacher = build_configured_teacher(config.teacher, device="cpu")
    assert teacher.class_names == ("background", "LV", "myocardium", "LA", "RV", "RA")
    video = RNG.integers(0, 256, (1, 2, 48, 48), dtype=np.uint8)
    one, two = (
        masks_of(build_configured_teacher(run_config(f"teacher.kind={kind}").teacher, device="cpu"), video)[0]
        for kind in ("embedded", "embedded_chambers")
    )
    fused, _ = masks_of(teacher, video)
    np.testing.assert_allclose(fused[:, :, 0], (one[:, :, 0] + 3 * two[:, :, 0]) / 4, atol=HALF_LEVEL)
    np.testing.assert_allclose(fused[:, :, 1:], two[:, :, 1:], atol=HALF_LEVEL)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["teacher.kind=ensemble", "teacher.members.a.kind=embedded"],
            r"teacher.members: an ensemble has at least two",
        ),
        ([*MEMBERS, "teacher.members.two.weight=0"], r"teacher.members.two.weight: got 0.0, must be above 0"),
        ([*MEMBERS, "teacher.members.two.kind=ensemble"], r"two.kind: got 'ensemble', a member is a single teacher"),
        ([*MEMBERS, "teacher.fusion=vote"], r"teacher.fusion: got 'vote', allowed are mean_prob, mean_logit, staple"),
        ([*MEMBERS, "teacher.members.two.kind=onnx"], r"teacher.members.two.weights: empty, but"),
        ([*MEMBERS[1:]], r"teacher.members: has no effect if teacher.kind is embedded"),
        (["teacher.pixel_mean=[3]"], r"teacher.pixel_mean: has no effect if teacher.kind is embedded"),
        (
            ["teacher.kind=onn"],
            r"teacher.kind: got 'onn', allowed are embedded, embedded_chambers, embedded_wild, echo",
        ),
        (["teacher.kind=exported", "teacher.weights=/x.pt2"], r"teacher.sha256: empty, but teacher.kind is exported"),
        (["teacher.kind=onnx", "teacher.weights=/x"], r"teacher.pixel_mean: got 0 numbers and 0 in teacher.pixel_std"),
        (
            ["teacher.kind=onnx", "teacher.weights=/x", "teacher.pixel_mean=[1]", "teacher.pixel_std=[0]"],
            r"teacher.pixel_std\[0\]: got 0.0, must be above 0",
        ),
        (["teacher.kind=recorded"], r"teacher.weights: empty, but teacher.kind is recorded; name the folder of masks"),
        (["teacher.kind=recorded", "teacher.weights=/m", "teacher.cache=/c"], r"teacher.cache: has no use if"),
        (
            ["teacher.kind=recorded", "teacher.weights=/m", "teacher.outputs=[a]", "teacher.classes={b: LV}"],
            r"teacher.classes: 'b' is none of teacher.outputs \(a\)",
        ),
        (
            ["teacher.kind=recorded", "teacher.weights=/m", "teacher.outputs=[a, b]", "teacher.classes={a: LV, b: LV}"],
            r"teacher.classes: LV, LV is left; expected at least one, each under a name of its own",
        ),
    ],
)
def test_a_teacher_that_cannot_work_is_one_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_config(*overrides)


def test_a_file_with_an_ensemble_survives_its_own_dump(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "students: {a: {blocks: 2}}\n"
        "teacher:\n"
        "  kind: ensemble\n"
        "  fusion: staple\n"
        "  members:\n"
        "    deeplab: {kind: echonet_deeplabv3, weights: /d.pt, weight: 2}\n"
        "    mine: {kind: onnx, weights: /x.onnx, pixel_mean: [33], pixel_std: [50], input_size: 112, "
        "outputs: [background, lv], classes: {lv: LV}, activation: softmax}\n"
    )
    config = load_config(str(path))
    assert config.teacher.members["mine"].classes == {"lv": "LV"}
    assert (config.teacher.members["deeplab"].weight, config.teacher.members["mine"].weight) == (2.0, 1.0)
    assert config_from_dict(yaml.safe_load(config_to_yaml(config))) == config


def test_a_member_at_fault_is_named() -> None:
    config = run_config(*MEMBERS, "teacher.members.two.weights=/nowhere")
    with pytest.raises(InputError, match=r"teacher.members.two: teacher.weights: /nowhere cannot be read"):
        build_configured_teacher(config.teacher, device="cpu")


def test_where_files_lie_is_no_part_of_a_runs_identity_and_how_masks_are_made_is() -> None:
    base = config_hash(run_config(*MEMBERS))
    moved: list[Any] = ["teacher.members.two.weights=/x", "teacher.cache=/c", "teacher.reference=/r"]
    for same in moved:
        assert config_hash(run_config(*MEMBERS, same)) == base, same
    for other in ("teacher.fusion=staple", "teacher.members.two.weight=2"):
        assert config_hash(run_config(*MEMBERS, other)) != base, other
