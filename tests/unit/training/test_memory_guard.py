"""What students take is counted before they are built; a family that does not fit is refused by name."""

from pathlib import Path

import pytest
import torch

from echodfkd.config.sections.objective import TermConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.training import TrainConfig
from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm import count_parameters, macs_per_frame
from echodfkd.storage.files import RunStorage
from echodfkd.training import memory_guard
from echodfkd.training.engine import AdamSettings, PrecisionModule
from echodfkd.training.free_memory import cgroup_free, free_memory
from echodfkd.training.memory_guard import find_misfits
from echodfkd.training.objective import BatchTensors, Objective, Totals
from echodfkd.training.student import build_engine
from echodfkd.training.student_costs import SavedBytes, StudentCost, measure_student
from tests.helpers.training import PAIR, run_training, small_config

MB = 1_000_000


def saved_by(module: torch.nn.Module, logits: torch.Tensor) -> int:
    """Walk the graph of a real forward pass: bytes of every tensor that its nodes hold, by storage."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, int] = {}
    seen, waiting = set(), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
        for name in dir(node):
            if (
                not name.startswith("_saved_") and name != "saved_tensors"
            ):  # the latter in autograd functions of our own
                continue
            value = getattr(node, name)
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in own:
                    found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("student", "clips", "frames", "size"),
    [
        (StudentConfig(blocks=1, layers=1, filters=3), 4, 4, 24),
        (StudentConfig(blocks=2, layers=2, filters=3, norm="group"), 3, 5, 16),
        (StudentConfig(blocks=4, layers=1, filters=2), 5, 3, 40),
        (StudentConfig(blocks=3, layers=3, filters=2), 1, 2, 32),
    ],
)
def test_activations_are_those_that_a_real_pass_saves(precision, student, clips, frames, size):
    cost = measure_student(student, clips=clips, frames=frames, size=size, precision=precision)
    module = build_student(**vars(student)).train()
    network = PrecisionModule(module, precision=precision, device=torch.device("cpu"))
    logits = network(torch.zeros(clips, frames, size, size, dtype=torch.uint8))
    # beside the graph of the network the estimate counts the loss: logits, targets and what it derives from them
    loss_bytes = 2 * 4 * clips * frames * size**2
    real = saved_by(module, logits)
    assert 0 <= cost.activation_bytes - real <= loss_bytes + 8 * clips + 16
    assert cost.parameters == count_parameters(module)


@pytest.mark.parametrize("term", ["bce", "kl", "focal", "dice", "lovasz", "boundary", "temporal"])
def test_activations_include_what_the_objective_saves(term):
    """Counted at the size asked for, where the estimate takes three tiny passes: equal but for a few scalars."""
    objective = {"bce": TermConfig(), term: TermConfig()}
    student = StudentConfig(blocks=2, layers=1, filters=2, objective=objective)
    cost = measure_student(student, clips=3, frames=4, size=12, precision="fp32")
    module = build_student(**vars(student)).train()
    video, target = torch.zeros(3, 4, 12, 12, dtype=torch.uint8), torch.zeros(3, 4, 12, 12)
    saved = SavedBytes(module)
    with saved.counting():
        batch = BatchTensors(video, target, torch.ones(3), None, None)
        loss = Objective(terms=objective)(module(video).float(), batch, Totals(1.0))
    assert loss.requires_grad
    assert cost.activation_bytes == pytest.approx(saved.total, abs=256)


def test_an_average_is_one_more_copy_of_the_weights():
    plain, averaged = (StudentCost(1000, 24, 0, 0).state_bytes(TrainConfig(ema_decay=decay)) for decay in (0, 0.9))
    assert averaged == plain + 4 * 1000 + 24


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_macs_are_the_closed_form_s(blocks):
    layers, filters, frames, size, clips = 2, 3, 5, 16, 2
    student = StudentConfig(blocks=blocks, layers=layers, filters=filters)
    wanted = clips * frames * macs_per_frame(blocks, layers, filters, size)
    assert measure_student(student, clips=clips, frames=frames, size=size, precision="fp32").macs == wanted


def test_the_state_is_what_an_engine_holds():
    student = PAIR["a"]
    module = build_student(**vars(student))
    adam = AdamSettings(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False, clip_norm=1.0)
    options = {"zero_stage": 0, "precision": "fp32", "accumulation": 1, "micro_batch": 2, "torch_adam": True}
    engine = build_engine("plain", module, adam=adam, device=torch.device("cpu"), **options)
    engine.backward(engine.forward(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).mean())
    held = sum(p.numel() * 4 + p.grad.numel() * 4 for p in module.parameters())
    held += sum(b.numel() * b.element_size() for b in module.buffers())
    engine.average_gradients()
    engine.step(0.1)
    moments = engine.optimizer_state()
    held += sum(t.numel() * 4 for part in (moments.exp_avg, moments.exp_avg_sq) for t in part.values())
    cost = measure_student(student, clips=2, frames=3, size=8, precision="fp32")
    assert cost.state_bytes(TrainConfig(engine="plain", workers=4, zero_stage=3)) == held


@pytest.mark.parametrize(("stage", "words_per_weight"), [(0, 4), (1, 2.75), (2, 2), (3, 1.25)])
def test_zero_divides_states_by_the_workers(stage, words_per_weight):
    """4 workers: weights 1, gradients 1, moments 2, and from stage 1 a copy of the weights; divided parts count 1/4."""
    train = TrainConfig(engine="deepspeed", workers=4, zero_stage=stage)
    assert StudentCost(1000, 24, 0, 0).state_bytes(train) == 4 * 1000 * words_per_weight + 24


@pytest.mark.parametrize(
    ("budget", "misfits"),
    [(None, []), (160, []), (159, ["big"]), (79, ["big", "mid"]), (9, ["big", "mid", "small"])],
)
def test_the_hungriest_are_left_out_until_the_others_fit(budget, misfits):
    """States add up, activations do not: 10 + 20 + 30 and 100 at once; then 10 + 20 and 50; then 10 and 0."""
    students = {"mid": (20, 50), "big": (30, 100), "small": (10, 0)}
    assert find_misfits(students, budget) == misfits


def guarded(monkeypatch, free: int, root: Path, **options):
    monkeypatch.setattr(memory_guard, "free_memory", lambda device: ("a small machine", free))
    return run_training(small_config(students=PAIR, **options), root)


def test_a_family_too_large_is_refused_by_name_before_it_trains(monkeypatch, tmp_path):
    costs = {
        name: measure_student(student, clips=4, frames=3, size=8, precision="fp32") for name, student in PAIR.items()
    }
    needs = {
        name: cost.state_bytes(TrainConfig(engine="plain")) + cost.activation_bytes for name, cost in costs.items()
    }
    assert needs["a"] > needs["b"]
    free = int(needs["a"] / 0.9)  # for a alone, but not for b's state beside it
    error = guarded(monkeypatch, free, tmp_path / "run")["error"]
    assert error.startswith(
        "student a does not fit the memory of worker 0 (a small machine) beside 1 other(s): a needs"
    )
    assert f"a needs {needs['a'] / MB:,.1f} MB" in error
    assert "at 4 clips a pass, and the worker may fill" in error
    assert "train.accumulation=2 would fit" in error
    assert "train.placement=spread" in error
    assert RunStorage(str(tmp_path / "run")).list("") == []
    assert "error" not in guarded(monkeypatch, free, tmp_path / "run", accumulation=2)
    assert "error" not in guarded(monkeypatch, free, tmp_path / "unguarded", memory_share=0)
    tiny = guarded(monkeypatch, 100, tmp_path / "tiny")["error"]
    assert tiny.startswith("students a, b do not fit")
    assert "a smaller train.global_batch or window would take less" in tiny


def test_a_group_of_processes_may_have_less_than_the_machine(tmp_path):
    (tmp_path / "proc").write_text("4:memory:/job/step\n3:cpu:/job\n0::/unit\n")
    one, two = tmp_path / "memory/job/step", tmp_path / "unit"
    for folder in (one, two):
        folder.mkdir(parents=True)
    (one / "memory.limit_in_bytes").write_text("1000\n")
    (one / "memory.usage_in_bytes").write_text("700\n")
    (one / "memory.stat").write_text("cache 300\ntotal_inactive_file 200\n")
    (two / "memory.max").write_text("max\n")
    (two / "memory.current").write_text("5\n")
    (two / "memory.stat").write_text("inactive_file 1\n")
    for name, text in (("memory.max", "400"), ("memory.current", "150"), ("memory.stat", "inactive_file 50\nanon 7")):
        (tmp_path / name).write_text(text)
    assert cgroup_free(tmp_path, tmp_path / "proc") == [1000 - 700 + 200, 400 - 150 + 50]
    assert cgroup_free(tmp_path, tmp_path / "nowhere") == []


def test_this_machine_has_free_memory():
    place, free = free_memory(torch.device("cpu"))
    assert place
    assert free is not None
    assert free > 50 * MB
