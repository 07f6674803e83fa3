"""The teacher's features on their way to a student's objective, and the adapter that trains with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.objective import TermConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import DistillationBatch, VideoClip
from echodfkd.losses.features import attention_transfer
from echodfkd.losses.targets import soft_mask_bce
from echodfkd.models.students.build import build_student
from echodfkd.models.students.convlstm import count_parameters
from echodfkd.models.students.output import StudentOutput
from echodfkd.models.teachers.build import build_teacher
from echodfkd.models.teachers.network_spec import NetworkSpec, PixelStatistics
from echodfkd.models.teachers.teacher_features import FeatureTeacher, pool_features
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.runtime.stream.builders import load_teacher
from echodfkd.storage.checkpoints import read_resume, read_student
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import latest_checkpoint, list_checkpoints
from echodfkd.teaching.blocks import SlotRules, make_block, teach_block
from echodfkd.training.engine import PrecisionModule
from echodfkd.training.feature_tap import attach_tap
from echodfkd.training.objective import BatchTensors, Objective, Totals, batch_tensors
from tests.helpers.teachers import lv_prob
from tests.helpers.training import ENGINES, Workers, run_training, save_result, small_config, training_rows

CHANNELS = 2
FEATURES = {
    kind: {"bce": TermConfig(), "features": TermConfig(kind=kind)} for kind in ("attention", "matching", "projected")
}
ONE_STUDENT = "students.a={blocks: 2, layers: 1, filters: 4}"
WITH_TERM = "students.a.objective={bce: {}, features: {kind: matching}}"


def student_of(kind: str, **options: object) -> StudentConfig:
    return StudentConfig(**{"blocks": 2, "filters": 3, "norm": "batch", "objective": FEATURES[kind], **options})


def feature_config(students: dict[str, StudentConfig], **options: object) -> RunConfig:
    teacher = TeacherConfig(feature_layer="any", feature_channels=CHANNELS, feature_size=3)
    return dataclasses.replace(small_config(students=students, **options), teacher=teacher)


def with_features(batch: DistillationBatch) -> DistillationBatch:
    """Features that follow from the masks: their means over squares, and what is left to 1."""
    prob = torch.from_numpy(batch.teacher_prob[:, :, 0].astype(np.float32) / 255)
    small = F.adaptive_avg_pool2d(prob, (3, 3))
    return dataclasses.replace(batch, teacher_features=torch.stack([small, 1 - small], dim=2).half().numpy())


def test_pooled_features_are_means_by_a_slow_loop() -> None:
    """Six channels of 4 x 6 cells down to four of 2 x 3: uneven groups overlap, as torch's adaptive pooling has it."""
    maps = torch.randn(2, 6, 4, 6, generator=torch.Generator().manual_seed(0))
    wanted = np.zeros((2, 4, 2, 3))
    for n, c, y, x in np.ndindex(wanted.shape):
        group = slice(c * 6 // 4, -(-(c + 1) * 6 // 4))
        wanted[n, c, y, x] = maps[n, group, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
    found = pool_features(maps, (4, 2, 3))
    assert found.dtype == torch.float16
    assert np.abs(found.numpy() - wanted).max() < 2**-11 * 2  # half precision of values below 2
    assert torch.equal(pool_features(maps, (6, 4, 6)), maps.half())
    assert torch.isfinite(pool_features(torch.full((1, 1, 1, 1), 1e6), (1, 1, 1))).all()


def test_the_embedded_teacher_shows_its_layer() -> None:
    """The same module's output, caught here by another pass, clip by clip; masks and id are those without features."""
    plain = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=3)
    teacher = FeatureTeacher(
        build_teacher(kind="embedded", weights="", device="cpu", batch_frames=3),
        layer="up.0",
        shape=(16, 4, 4),
        size=16,
    )
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16), np.uint8)
    output = teacher.teach(video)
    assert np.array_equal(output.masks[:, :, 0], lv_prob(plain, video))
    assert teacher.teacher_id == plain.teacher_id
    assert (output.features.shape, output.features.dtype) == ((2, 4, 16, 4, 4), np.float16)
    caught = []
    plain.network.up[0].register_forward_hook(lambda module, inputs, output: caught.append(output))
    for clip in range(2):
        for t in range(4):
            lv_prob(plain, video[clip : clip + 1, t : t + 1])
            wanted = caught.pop()[0].reshape(16, 3, 4, 4).mean(1)  # 48 channels, three neighbours each
            assert np.abs(output.features[clip, t] - wanted.numpy()).max() < 4e-3  # half precision of values up to 4


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        ("up.9", (1, 1, 1), "teacher.feature_layer: the network has no module 'up.9'; it has down,"),
        ("up.0", (64, 4, 4), "up.0 gives (48, 4, 4) (channels, rows, columns) a frame, less than the (64, 4, 4) of"),
        (
            "up.0",
            (16, 8, 8),
            "less than the (16, 8, 8) of teacher.feature_channels and teacher.feature_size; lower these",
        ),
        ("down", (1, 1, 1), "teacher.feature_layer: down gave 0 maps for 1 frames; name a module that runs once"),
    ],
)
def test_a_layer_that_will_not_do_is_refused(layer: str, shape: tuple[int, int, int], words: str) -> None:
    teacher = build_teacher(kind="embedded", weights="", device="cpu", batch_frames=3)
    with pytest.raises(ConfigError) as caught:
        FeatureTeacher(teacher, layer=layer, shape=shape, size=16)
    assert words in str(caught.value)


class FakeNetwork(nn.Module):
    """Probability 0.5 everywhere; its layer shows the frame itself, and NaN for frames that begin with 7."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shown = torch.where(x[:, :, :1, :1] == 7, torch.full_like(x, torch.nan), x)
        return 0 * torch.nan_to_num(self.layer(shown))


class FakeSource:
    """Grey level of a clip = its index."""

    name = "fake"
    num_cases = None

    def clip(self, index: int) -> VideoClip:
        return VideoClip(f"f{index}", index, 0, 0, 0, np.full((2, 4, 4), index, np.uint8), 32.0, "fake", "fake")

    def case(self, index: int) -> VideoClip:
        return self.clip(index)


def test_features_travel_with_their_clips_and_are_replaced_with_them() -> None:
    """Slot 7's clip has features that are not finite: it is quarantined, and its slot shows those of index 17."""
    network = TorchTeacher(
        FakeNetwork(), NetworkSpec("fake", PixelStatistics((0.0,), (1.0,))), device="cpu", batch_frames=3
    )
    teacher = FeatureTeacher(network, layer="layer", shape=(1, 2, 2), size=4)
    rules = SlotRules(10, 3, (2, 4, 4))
    block = make_block(FakeSource(), [6, 7, 8], rules, actor="s")
    batch = teach_block(teacher, block, FakeSource, rules, actor="t")
    assert batch.teacher_features is not None
    assert batch.teacher_features.shape == (3, 2, 1, 2, 2)
    assert batch.teacher_features[:, 0, 0, 0, 0].tolist() == [6, 17, 8]
    assert [(row.index, row.stage) for row in batch.quarantined] == [(7, "teacher")]
    assert batch.quarantined[0].reason.endswith("gave features that are not finite")
    assert batch_tensors(batch, torch.device("cpu")).features.dtype == torch.float32
    faulty = teach_block(teacher, dataclasses.replace(block, fault="x"), FakeSource, rules, actor="t")
    assert (faulty.teacher_features == 0).all()
    assert faulty.teacher_features.shape == batch.teacher_features.shape


@pytest.mark.parametrize(("layer", "widths"), [("", (6, 4)), ("encoder.0", (3, 8)), ("decoder.0", (3, 8))])
def test_the_tap_hands_out_the_layer_that_is_named(layer: str, widths: tuple[int, int]) -> None:
    """Two blocks of 3 and 6 channels at 8 x 8 pixels; logits stay those of the student alone."""
    student = build_student(**student_of("attention").network)
    video = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    plain = student.eval()(video).mask_logits
    attach_tap(student, TermConfig(layer=layer), CHANNELS)
    output = PrecisionModule(student, precision="fp32", device=torch.device("cpu"))(video)
    assert isinstance(output, StudentOutput)
    assert torch.equal(output.mask_logits, plain)
    assert output.features.shape == (2, 3, widths[0], widths[1], widths[1])
    assert count_parameters(student) == count_parameters(build_student(**student_of("attention").network))


def test_the_term_is_weighed_beside_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, own, shown = (
        torch.randn(*s, generator=generator) for s in ((2, 3, 1, 8, 8), (2, 3, 4, 4, 4), (2, 3, 5, 2, 2))
    )
    weight = torch.tensor([1.0, 2.0])
    batch = BatchTensors(torch.zeros(2, 3, 8, 8), torch.rand(2, 3, 1, 8, 8), weight, None, None, features=shown)
    terms = {"bce": TermConfig(), "features": TermConfig(weight=0.5, ramp=2)}
    objective = Objective(terms=terms)
    for step, share in ((0, 0.25), (1, 0.5), (None, 0.5)):
        measured = objective.measure(StudentOutput(logits, None, None, own), batch, Totals(3.0), step=step)
        bce = soft_mask_bce(logits, batch.mask_prob, weight, total_weight=3.0)
        attention = attention_transfer(own, shown, weight, total_weight=3.0)
        assert float(measured.loss) == pytest.approx(float(bce + share * attention), rel=1e-6)
        assert set(measured.terms) == {"bce", "features"}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_resumed_run_has_the_unbroken_ones_adapter_bit_for_bit(tmp_path: Path, ema_decay: float) -> None:
    """Every kind at once. The adapter trains, lies in the resume state alone, and what is published loads strictly."""
    students = {kind: student_of(kind) for kind in FEATURES} | {"plain": StudentConfig(blocks=2, filters=3)}
    config = feature_config(students, ema_decay=ema_decay)
    whole, broken = RunStorage(str(tmp_path / "whole")), RunStorage(str(tmp_path / "broken"))
    assert "error" not in run_training(config, whole.root, change=with_features)
    assert "ended early" in run_training(config, broken.root, change=with_features, stop=7)["error"]
    assert run_training(config, broken.root, change=with_features, attempt="second")["start_step"] == 5
    for name in students:
        states = [read_resume(storage, latest_checkpoint(storage), name) for storage in (whole, broken)]
        for part in ("weights", "average"):
            one, other = (getattr(state, part) or {} for state in states)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)
        assert all(torch.equal(m, states[1].optimizer.exp_avg[k]) for k, m in states[0].optimizer.exp_avg.items())
        adapter = [key for key in states[0].weights if key.startswith("feature_tap.")]
        assert len(adapter) == (2 if name in ("matching", "projected") else 0)
        first, last = list_checkpoints(whole)
        moved = read_resume(whole, first, name).weights
        assert all(not torch.equal(moved[key], states[0].weights[key]) for key in adapter)
        published = read_student(whole, last, name)
        build_student(**students[name].network).load_state_dict(published)
    logged = [row["terms"] for row in training_rows(whole.root) if row["student"] == "matching"]
    assert all(dict(terms).keys() == {"bce", "features"} for terms in logged)


def test_the_term_does_not_touch_the_initial_weights_nor_its_neighbours(tmp_path: Path) -> None:
    """A student without the term is bit for bit what it is without such a neighbour."""
    plain = {"plain": StudentConfig(blocks=2, filters=3)}
    alone, beside = RunStorage(str(tmp_path / "alone")), RunStorage(str(tmp_path / "beside"))
    run_training(small_config(students=plain), alone.root)
    run_training(feature_config({"m": student_of("matching"), **plain}), beside.root, change=with_features)
    one, other = (read_student(storage, latest_checkpoint(storage), "plain") for storage in (alone, beside))
    assert all(torch.equal(one[key], other[key]) for key in one)


def train_engines(rank: int, folder: str) -> None:
    for engine in ENGINES:
        students = {kind: student_of(kind, norm="group", filters=8) for kind in FEATURES}
        config = feature_config(students, engine=engine, workers=2)
        config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, eps=1e-2))
        result = run_training(config, f"{folder}/{engine}", rank=rank, change=with_features)
        save_result(folder, engine, rank, result.get("error", ""))


@pytest.mark.slow
def test_adapters_train_alike_under_every_engine(two_workers: Workers, tmp_path: Path) -> None:
    """fp32, 1e-6: only the order of sums over workers differs; eps is large, so that mere rounding moves nothing."""
    two_workers.run(train_engines, tmp_path)
    for kind in FEATURES:
        weights = {}
        for engine in ENGINES:
            storage = RunStorage(str(tmp_path / engine))
            weights[engine] = read_resume(storage, latest_checkpoint(storage), kind).weights
        for engine in ENGINES:
            assert weights[engine].keys() == weights["plain"].keys()
            gaps = [float((weights[engine][key] - w).abs().max()) for key, w in weights["plain"].items()]
            assert max(gaps) < 1e-6, (engine, kind)


def test_a_config_names_teacher_layer_and_students_term() -> None:
    config = load_config(None, [ONE_STUDENT, WITH_TERM, "teacher.feature_layer=up.0", "window.size=32"])
    assert config.feature_shape == (16, 4, 4)
    plain = load_config(None, [ONE_STUDENT, "window.size=32"])
    assert config.clip_bytes - plain.clip_bytes == 2 * config.window.frames * 16 * 4 * 4
    assert load_teacher(config, "cpu").feature_shape == (16, 4, 4)
    hashes = {config_hash(config), config_hash(plain)}
    for other in (
        "teacher.feature_layer=up.1",
        "teacher.feature_channels=8",
        "students.a.objective.features.layer=encoder.0",
    ):
        hashes.add(
            config_hash(
                load_config(None, [ONE_STUDENT, WITH_TERM, "teacher.feature_layer=up.0", other, "window.size=32"])
            )
        )
    assert len(hashes) == 5
    assert config_hash(load_config(None, [ONE_STUDENT, "teacher.feature_size=3", "window.size=32"])) == config_hash(
        plain
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([WITH_TERM], "students.a.objective.features: needs a layer of the teacher; set teacher.feature_layer"),
        (["teacher.feature_layer=up.0"], "teacher.feature_layer: got 'up.0', but no student's objective has the term"),
        (
            [WITH_TERM, "teacher={feature_layer: x, kind: onnx, weights: w, pixel_mean: [1], pixel_std: [1]}"],
            "teacher.feature_layer: a teacher of kind onnx shows masks and no features; kinds that can are embedded,",
        ),
        (
            [WITH_TERM, "teacher={feature_layer: x, kind: recorded, weights: w}"],
            "teacher.feature_layer: a teacher of kind recorded shows masks and no features",
        ),
        (
            [WITH_TERM, "teacher={feature_layer: x, kind: ensemble, members: {a: {}, b: {}}}"],
            "teacher.feature_layer: a teacher of kind ensemble shows masks and no features",
        ),
        (
            [WITH_TERM, "teacher.feature_layer=up.0", "teacher.compile=true"],
            "teacher.feature_layer: a network that teacher.compile is set for cannot be looked into",
        ),
        (
            [WITH_TERM, "teacher.feature_layer=up.0", "teacher.cache=/tmp/cache"],
            "teacher.feature_layer: teacher.cache keeps masks and no features; set one of the two",
        ),
        (
            [WITH_TERM, "teacher.feature_layer=up.0", "teacher.feature_size=28"],
            "16 channels of 28 x 28 are 12544 numbers a frame, at most window.size squared (3136) are allowed",
        ),
        ([WITH_TERM, "teacher.feature_layer=up.0", "teacher.feature_channels=0"], "teacher.feature_channels: got 0"),
        (
            ["teacher.feature_layer=up.0", "students.a.objective={bce: {}, features: {kind: copied}}"],
            "students.a.objective.features.kind: got 'copied', allowed are attention, matching, projected",
        ),
        (
            ["teacher.feature_layer=up.0", "students.a.objective={bce: {}, features: {layer: encoder.2}}"],
            "features.layer: got 'encoder.2', this student has encoder.0, encoder.1, decoder.0",
        ),
        (
            ["teacher.feature_layer=up.0", "students.a.objective={features: {}}"],
            "students.a.objective.features: says nothing of masks; name another term beside it, e.g. bce",
        ),
        (
            ["students.a.objective={bce: {layer: encoder.0}}"],
            "students.a.objective.bce.layer: bce has no such option; it belongs to features",
        ),
    ],
)  # fmt: skip
def test_features_that_cannot_be_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [ONE_STUDENT, *overrides])
    assert words in str(caught.value)
