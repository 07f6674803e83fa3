"""Composed objectives, schedules, AdamW and averaged weights in the loop: resumed, on two workers, under DeepSpeed."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from echodfkd.config.run import RunConfig
from echodfkd.config.sections.objective import TermConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import OptimizerConfig, TrainConfig
from echodfkd.core.errors import InputError
from echodfkd.models.students.build import build_student
from echodfkd.storage.checkpoints import StudentState, read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints
from echodfkd.training.engine import EngineSettings
from echodfkd.training.objective import ramped_weight
from echodfkd.training.student import build_engine, student_seed
from echodfkd.training.weight_average import WeightAverage
from tests.helpers.training import Workers, loss_curve, run_training, small_config, training_rows

EVERY_TERM = {
    "bce": TermConfig(confidence="entropy"),
    "kl": TermConfig(weight=0.5, temperature=3.0),
    "focal": TermConfig(weight=0.5, gamma=1.0),
    "dice": TermConfig(weight=0.3, ramp=8),
    "lovasz": TermConfig(weight=0.2, start=4),
    "boundary": TermConfig(weight=0.1, start=2, ramp=6, threshold=0.4),
    "temporal": TermConfig(weight=2.0),
}
GROUP = StudentConfig(blocks=2, layers=1, filters=3, norm="group")
STUDENTS = {
    "every": dataclasses.replace(GROUP, objective=EVERY_TERM),
    "plain": dataclasses.replace(GROUP, norm="batch", blocks=1),
    "dice": dataclasses.replace(GROUP, objective={"dice": TermConfig()}),
}
ENGINES = ("plain", "zero0", "zero1", "zero2")
TOLERANCE = 5e-6
"""As in test_training_workers: sums in another order, enlarged by Adam's division by sqrt(v)."""


def config_of(engine: str = "plain", **options: object) -> RunConfig:
    config = small_config(engine=engine, students=STUDENTS, **{"ema_decay": 0.7, **options})
    recipe = {"kind": "adamw", "schedule": "linear", "weight_decay": 0.1}
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **recipe))


def two_processes(rank: int, folder: str) -> None:
    for engine in ENGINES:
        run_training(config_of(engine, workers=2), f"{folder}/{engine}", rank=rank, stop=7)
        run_training(config_of(engine, workers=2), f"{folder}/{engine}", rank=rank, attempt="second")


@pytest.fixture(scope="module")
def folder(two_workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes, cut after seven steps and resumed from five; and one process, unbroken."""
    folder = tmp_path_factory.mktemp("recipe")
    two_workers.start(two_processes, folder)
    run_training(config_of(), folder / "alone")
    two_workers.join()
    return folder


def final(root: Path, student: str) -> StudentState:
    storage = RunStorage(str(root))
    newest = latest_checkpoint(storage)
    assert newest is not None
    assert newest.step == 10
    return read_resume(storage, newest, student)


def parts(state: StudentState) -> dict[str, torch.Tensor]:
    """Every tensor of a state."""
    assert state.average is not None
    kinds = (state.weights, state.optimizer.exp_avg, state.optimizer.exp_avg_sq, state.average)
    return {f"{kind}/{name}": tensor for kind, tensors in enumerate(kinds) for name, tensor in tensors.items()}


@pytest.mark.parametrize("student", list(STUDENTS))
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(folder: Path, tmp_path: Path, student: str) -> None:
    run_training(config_of(), tmp_path / "run", stop=7)
    assert run_training(config_of(), tmp_path / "run", attempt="second")["start_step"] == 5
    ours, theirs = parts(final(tmp_path / "run", student)), parts(final(folder / "alone", student))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert loss_curve(tmp_path / "run", student) == loss_curve(folder / "alone", student)


@pytest.mark.parametrize("student", list(STUDENTS))
@pytest.mark.parametrize("name", ENGINES)
def test_engines_and_two_workers_agree_with_one(folder: Path, name: str, student: str) -> None:
    """The whole recipe on halves of the batch, resumed: global normalisation of every term, AdamW, the average."""
    ours, theirs = parts(final(folder / name, student)), parts(final(folder / "alone", student))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=TOLERANCE, rtol=0, msg=lambda text, k=key: f"{k}: {text}")


@pytest.mark.parametrize("name", ["alone", "plain", "zero1"])
def test_the_log_has_every_term_and_their_weighted_sum_is_the_loss(folder: Path, name: str) -> None:
    """A term that has not begun is not there; between rows of one and two workers only the order of sums differs."""
    rows = {(row["student"], row["step"]): row for row in training_rows(folder / name)}
    alone = {(row["student"], row["step"]): dict(row["terms"]) for row in training_rows(folder / "alone")}
    assert len(rows) == 30
    for (student, step), row in rows.items():
        terms, objective = dict(row["terms"]), STUDENTS[student].objective or {"bce": TermConfig()}
        weights = {term: ramped_weight(options, step - 1) for term, options in objective.items()}
        assert set(terms) == {term for term, weight in weights.items() if weight > 0}
        total = math.fsum(weights[term] * value for term, value in terms.items())
        assert row["loss"] == pytest.approx(total, rel=1e-6)  # the loss is summed in float32
        assert terms == pytest.approx(alone[student, step], rel=1e-4)
    assert [len(dict(rows["every", step]["terms"])) for step in (1, 2, 3, 4, 5, 10)] == [5, 5, 6, 6, 7, 7]


def test_weights_ramp_and_then_stay() -> None:
    term = TermConfig(weight=3.0, start=2, ramp=3)
    assert [ramped_weight(term, step) for step in range(7)] == pytest.approx([0, 0, 1, 2, 3, 3, 3])
    assert [ramped_weight(TermConfig(start=1), step) for step in range(3)] == [0, 1, 1]


def test_a_term_that_has_not_begun_changes_nothing(tmp_path: Path) -> None:
    """Bit for bit, until it begins."""
    late = dataclasses.replace(GROUP, objective={"bce": TermConfig(), "lovasz": TermConfig(start=6)})
    for name, student in (("plain", GROUP), ("late", late)):
        run_training(small_config(students={"a": student}), tmp_path / name)
    plain, found = loss_curve(tmp_path / "plain", "a"), loss_curve(tmp_path / "late", "a")
    assert found[:6] == plain[:6]
    assert all(a != b for a, b in zip(found[6:], plain[6:], strict=True))


def test_what_is_published_is_the_average_and_what_is_resumed_the_newest(tmp_path: Path) -> None:
    """The average of all ten updates, taken again in float64 from the newest weights of every step."""
    config = config_of(checkpoint_every=1, keep_resume=10)
    run_training(config, tmp_path / "run")
    storage = RunStorage(str(tmp_path / "run"))
    commits = list_checkpoints(storage)
    assert [commit.meta["ema_decay"] for commit in commits] == [0.7] * 10
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(student_seed(config.seed, "plain"))
        module = build_student(**STUDENTS["plain"].network)
    average = {name: tensor.double() for name, tensor in module.state_dict().items()}
    for step, commit in enumerate(commits, start=1):
        decay = min(0.7, (1 + step) / (10 + step))
        newest = read_resume(storage, commit, "plain").weights
        published = read_student(storage, commit, "plain")
        for name, value in newest.items():
            whole = not value.is_floating_point()
            average[name] = value.double() if whole else decay * average[name] + (1 - decay) * value.double()
            np.testing.assert_allclose(published[name].double(), average[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(published[name], newest[name]) for name in newest)


def test_averaging_leaves_training_itself_alone(folder: Path, tmp_path: Path) -> None:
    run_training(config_of(ema_decay=0.0), tmp_path / "run")
    ours, theirs = final(tmp_path / "run", "plain"), final(folder / "alone", "plain")
    assert ours.average is None
    assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in theirs.weights)


def test_an_average_of_another_architecture_is_refused() -> None:
    module, other = torch.nn.Linear(2, 1), torch.nn.Linear(3, 1)
    with pytest.raises(InputError, match=r"the average does not fit the student: weight has shape \(1, 3\)"):
        WeightAverage(module, 0.9, other.state_dict())


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_is_adam_s_or_adamw_s(decoupled: bool) -> None:
    """Against the papers' updates, written out in float64; float32's rounding over five steps."""

    class Scale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

        def forward(self, video_BTHW: torch.Tensor) -> torch.Tensor:
            return video_BTHW.float() * self.weight.sum()

    kind = "adamw" if decoupled else "adam"
    adam = OptimizerConfig(kind=kind, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.3, clip_norm=0.0)
    settings = EngineSettings(adam, TrainConfig(engine="plain"), micro_batch=1, device=torch.device("cpu"))
    engine = build_engine(Scale(), settings)
    weight, first, second = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    for step in range(1, 6):
        engine.backward((engine.module.weight**2).sum())
        engine.average_gradients()
        engine.step(0.05)
        gradient = 2 * weight + (0 if decoupled else 0.3 * weight)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        adaptive = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        weight = weight - 0.05 * (adaptive + (0.3 * weight if decoupled else 0))
    np.testing.assert_allclose(engine.weights()["weight"].numpy(), weight, rtol=1e-5)
