"""The loss of students with heads: tables by hand, gradients, and parts that add up to the whole in float64."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.objective import TERM_OPTIONS, TermConfig
from echodfkd.config.sections.student import ObjectiveConfig, StudentConfig
from echodfkd.losses.pixels import entropy_confidence, soft_mask_kl
from echodfkd.losses.regions import lovasz_hinge, soft_dice
from echodfkd.losses.targets import EF_BETA, ef_smooth_l1, phase_bce, soft_mask_bce
from echodfkd.models.students.output import StudentOutput
from echodfkd.training.objective import LV_OBJECTIVE, BatchTensors, Objective, Totals, batch_tensors, own_totals
from tests.helpers.training import make_batch

NAN = math.nan
STUDENTS = {
    "lv": StudentConfig(),
    "pair": StudentConfig(classes=["LA", "LV"]),
    "all": StudentConfig(classes=["LV", "myocardium", "LA"], tasks=["phase", "ef"]),
}
CONFIG = RunConfig(students=STUDENTS, objective=ObjectiveConfig(phase_weight=0.3, ef_weight=2.0))
ALONE = RunConfig(students={"all": STUDENTS["all"]}, objective=CONFIG.objective)
WEIGHTS = [1.0, 0.5, 2.0, 0.0]


def tensors(clips: slice = slice(None), classes: int = 3) -> tuple[StudentOutput, BatchTensors]:
    """Four clips of three frames in float64: one without a known beat, one of weight 0 with broken numbers."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, classes, 4, 4, generator=generator, dtype=torch.float64)
    phase_logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    ef = torch.rand(4, generator=generator, dtype=torch.float64)
    target = torch.rand(4, 3, classes, 4, 4, generator=generator, dtype=torch.float64)
    phase = torch.tensor([[0.0, 0.5, 1.0], [NAN, NAN, NAN], [0.25, NAN, 1.0], [0.5, 0.5, 0.5]], dtype=torch.float64)
    wanted_ef = torch.tensor([0.6, NAN, 0.31, 0.5], dtype=torch.float64)
    phase_logits[3], ef[3] = math.inf, NAN
    video = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    output = StudentOutput(logits[clips], phase_logits[clips], ef[clips])
    return output, BatchTensors(video[clips], target[clips], weight[clips], phase[clips], wanted_ef[clips])


TOTALS = Totals(weight=3.5, phase=1.0 * 3 + 2.0 * 2, ef=3.0)


def test_phase_loss_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 3.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.25], [NAN, 0.5]], dtype=torch.float64)
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)

    def bce(z: float, p: float) -> float:
        q = 1 / (1 + math.exp(-z))
        return -(p * math.log(q) + (1 - p) * math.log(1 - q))

    expected = (bce(0, 1) + bce(2, 0.25) + 3 * bce(3, 0.5)) / 5
    assert float(phase_bce(logits, target, weight, total_weight=5.0)) == pytest.approx(expected, rel=1e-12)


def test_ef_loss_by_hand() -> None:
    """Quadratic below EF_BETA, linear above, and continuous between."""
    ef = torch.tensor([0.50, 0.60, 0.90, 0.10], dtype=torch.float64)
    target = torch.tensor([0.52, 0.40, NAN, 0.15], dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 5.0, 4.0], dtype=torch.float64)
    each = [0.02**2 / (2 * EF_BETA), 0.2 - EF_BETA / 2, 0.05 - EF_BETA / 2]
    expected = (each[0] + 2 * each[1] + 4 * each[2]) / 7
    assert float(ef_smooth_l1(ef, target, weight, total_weight=7.0)) == pytest.approx(expected, rel=1e-12)


def test_nothing_known_is_a_loss_and_a_gradient_of_zero() -> None:
    """Missing gradients would leave ranks waiting for each other."""
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    loss = phase_bce(logits, torch.full((2, 3), NAN), torch.ones(2), total_weight=0.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    ef = torch.rand(2, dtype=torch.float64, requires_grad=True)
    loss = ef_smooth_l1(ef, torch.full((2,), NAN), torch.ones(2), total_weight=0.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(ef.grad, torch.zeros_like(ef))


def test_gradients_by_finite_differences() -> None:
    output, batch = tensors(slice(0, 3))
    objective = Objective.of_student(ALONE, "all")
    leaves = tuple(tensor.clone().requires_grad_(True) for tensor in output[:3])
    assert torch.autograd.gradcheck(lambda *parts: objective(StudentOutput(*parts), batch, TOTALS), leaves)


def test_the_terms_are_weighed_and_summed() -> None:
    output, batch = tensors()
    loss = Objective.of_student(ALONE, "all")(output, batch, TOTALS)
    per_class = [
        soft_mask_bce(output.mask_logits[:, :, c], batch.mask_prob[:, :, c], batch.weight, total_weight=3.5)
        for c in range(3)
    ]
    expected = (
        sum(per_class) / 3
        + 0.3 * phase_bce(output.phase_logits, batch.phase, batch.weight, total_weight=7.0)
        + 2.0 * ef_smooth_l1(output.ef, batch.ef, batch.weight, total_weight=3.0)
    )
    assert math.isfinite(float(loss))
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("cuts", [(2, 2), (1, 3), (1, 1, 1, 1)])
def test_parts_add_up_to_the_whole_with_gradients(cuts: tuple[int, ...]) -> None:
    """One part knows no beat at all; float64, so that 1e-12 is rounding alone."""
    objective = Objective.of_student(ALONE, "all")
    output, batch = tensors()
    leaves = [tensor.clone().requires_grad_(True) for tensor in output[:3]]
    whole = objective(StudentOutput(*leaves), batch, TOTALS)
    whole.backward()
    again = [tensor.clone().requires_grad_(True) for tensor in output[:3]]
    first, total = 0, 0.0
    for count in cuts:
        clips = slice(first, first + count)
        part = objective(StudentOutput(*(leaf[clips] for leaf in again)), tensors(clips)[1], TOTALS)
        part.backward()
        total += part.item()
        first += count
    assert total == pytest.approx(whole.item(), rel=1e-12)
    for one, other in zip(leaves, again, strict=True):
        torch.testing.assert_close(other.grad[:3], one.grad[:3], rtol=1e-12, atol=1e-18)


def test_terms_of_a_composed_objective_are_logged_weighed_and_summed() -> None:
    """Of two classes with heads; each term by its own function, schedules at the third update and after all of them."""
    terms = {
        "kl": TermConfig(weight=0.5, temperature=3.0),
        "bce": TermConfig(confidence="entropy"),
        "dice": TermConfig(weight=2.0, ramp=4),
        "boundary": TermConfig(weight=0.0),
        "lovasz": TermConfig(start=3, threshold=0.3),
    }
    config = RunConfig(
        students={"a": StudentConfig(classes=["LV", "LA", "RV"], tasks=["ef"], objective=terms)},
        objective=ObjectiveConfig(ef_weight=2.0),
    )
    output, batch = tensors()
    output = StudentOutput(output.mask_logits, None, output.ef)
    objective = Objective.of_student(config, "a")
    options = {"total_weight": 3.5}
    masks = (output.mask_logits, batch.mask_prob, batch.weight)
    wanted = {
        "bce": soft_mask_bce(*masks, **options, confidence=entropy_confidence(batch.mask_prob)),
        "kl": soft_mask_kl(*masks, **options, temperature=3.0),
        "dice": soft_dice(*masks, **options),
        "ef": ef_smooth_l1(output.ef, batch.ef, batch.weight, total_weight=3.0),
    }
    third = objective.measure(output, batch, TOTALS, step=2)
    assert tuple(third.terms) == objective.term_names(2) == ("bce", "kl", "dice", "ef")
    assert {name: float(value) for name, value in third.terms.items()} == {n: float(v) for n, v in wanted.items()}
    weights = {"bce": 1.0, "kl": 0.5, "dice": 2.0 * 3 / 4, "ef": 2.0}
    assert float(third.loss) == pytest.approx(sum(weights[n] * float(v) for n, v in wanted.items()), rel=1e-12)
    wanted["lovasz"] = lovasz_hinge(*masks, **options, threshold=0.3)
    weights |= {"dice": 2.0, "lovasz": 1.0}
    whole = sum(weights[n] * float(v) for n, v in wanted.items())
    assert float(objective(output, batch, TOTALS)) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", ["bce", "kl", "focal"])
@pytest.mark.parametrize("student", ["lv", "pair"])
def test_the_teachers_confidence_weighs_pixels_and_parts_add_up(name: str, student: str) -> None:
    """Weighted by hand, pixel by pixel, with the clips in any parts; float64, so that 1e-12 is rounding alone."""
    students = {"first": StudentConfig(), **STUDENTS}  # so that the stream teaches several classes in another order
    students[student] = dataclasses.replace(STUDENTS[student], objective={name: TermConfig(confidence="teacher")})
    objective = Objective.of_student(RunConfig(students=students), student)
    output, batch = tensors()
    sure = torch.rand(batch.mask_prob.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    batch = batch._replace(mask_confidence=sure)
    places = list(objective.places)
    output = StudentOutput(output.mask_logits[:, :, places])

    def loss(clips: slice) -> float:
        part = BatchTensors(*(one[clips] if isinstance(one, torch.Tensor) else one for one in batch))
        return float(objective(StudentOutput(output.mask_logits[clips]), part, TOTALS))

    plain = Objective(objective.places, 0.0, 0.0, {name: TermConfig()})
    by_pixel = torch.zeros_like(sure[:, :, places])
    for place in np.ndindex(*by_pixel.shape):
        one = torch.zeros_like(sure[:, :, places])
        one[place] = 1.0  # the loss of one pixel alone: its share of the sum
        alone = batch._replace(mask_confidence=torch.zeros_like(sure))
        alone.mask_confidence[:, :, places] = one
        by_pixel[place] = objective(output, alone, TOTALS)
    expected = float((by_pixel * sure[:, :, places]).sum())
    assert loss(slice(None)) == pytest.approx(expected, rel=1e-12)
    assert float(by_pixel.sum()) == pytest.approx(float(plain(output, batch, TOTALS)), rel=1e-12)
    assert loss(slice(0, 1)) + loss(slice(1, 4)) == pytest.approx(expected, rel=1e-12)


def test_confidence_comes_out_of_a_batch_as_its_codes_over_255() -> None:
    batch = make_batch([0, 1])
    codes = np.random.default_rng(0).integers(0, 256, batch.teacher_prob.shape, dtype=np.uint8)
    assert batch_tensors(batch, torch.device("cpu")).mask_confidence is None
    found = batch_tensors(dataclasses.replace(batch, teacher_confidence=codes), torch.device("cpu")).mask_confidence
    np.testing.assert_array_equal(found.numpy(), codes.astype(np.float32) / np.float32(255))


def test_every_term_that_the_config_knows_has_a_loss() -> None:
    """And takes the options that the config gives it."""
    output, batch = tensors(classes=1)
    for name in (name for name in TERM_OPTIONS if name != "features"):
        objective = Objective((0,), 0.0, 0.0, {name: TermConfig()})
        assert math.isfinite(float(objective(StudentOutput(output.mask_logits), batch, TOTALS)))


def test_classes_are_found_by_name() -> None:
    """The stream teaches LV, LA, myocardium: the order in which students name them first."""
    assert CONFIG.taught_classes == ("LV", "LA", "myocardium")
    assert CONFIG.taught_tasks == ("phase", "ef")
    _, batch = tensors()
    wanted = {"lv": [0], "pair": [1, 0], "all": [0, 2, 1]}
    for name, places in wanted.items():
        objective = Objective.of_student(CONFIG, name)
        target = batch.mask_prob[:, :, places]
        logits = torch.where(target > 0.5, 3.0, -3.0).double()
        expected = soft_mask_bce(logits, target, batch.weight, total_weight=3.5)
        assert float(objective(StudentOutput(logits), batch, TOTALS)) == pytest.approx(float(expected), rel=1e-12)


def test_the_default_path_is_soft_mask_bce_bit_for_bit() -> None:
    batch = batch_tensors(make_batch([0, 1, 2]), torch.device("cpu"))
    logits = torch.randn(batch.mask_prob.shape, generator=torch.Generator().manual_seed(0))
    plain = soft_mask_bce(logits, batch.mask_prob, batch.weight, total_weight=3.5)
    config = RunConfig(students={"a": StudentConfig()})
    assert Objective.of_student(config, "a").places == LV_OBJECTIVE.places == (0,)
    assert torch.equal(Objective.of_student(config, "a")(StudentOutput(logits), batch, Totals(3.5)), plain)
    # and in a stream that teaches more
    wider = batch._replace(mask_prob=torch.cat([batch.mask_prob, batch.mask_prob * 0], dim=2))
    assert torch.equal(Objective((0,))(StudentOutput(logits), wider, Totals(3.5)), plain)


def test_totals_count_what_is_known() -> None:
    batch = make_batch([0, 1, 2])  # weights 1, 0.5, 2
    phase = np.array([[0.0, 0.5, 1.0], [NAN] * 3, [NAN, 0.5, NAN]], np.float32)
    ef = np.array([NAN, 0.5, 0.25], np.float32)
    assert own_totals([batch]) == Totals(3.5, 0.0, 0.0)
    taught = dataclasses.replace(batch, teacher_phase=phase, teacher_ef=ef)
    assert own_totals([taught]) == Totals(3.5, 3.0 + 2.0, 2.5)
    assert own_totals([taught, taught]) == Totals(7.0, 10.0, 5.0)
