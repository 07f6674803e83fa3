"""Slots, replacement and quantisation: what one source task and one teacher actor do, without Ray."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from echodfkd.core.errors import ClipError, InputError, RunError
from echodfkd.core.mask_codes import MASK_CODES, encode, quantise
from echodfkd.core.records import DistillationBatch, DroppedMember, Quarantined, StageSpan, VideoClip
from echodfkd.models.teachers.network_spec import NetworkSpec, PixelStatistics
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.teaching.blocks import SlotRules, make_block, teach_block
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.teaching.members import MemberOutput
from tests.helpers.teachers import FloatTeacher, lv_prob, masks_of

RULES = SlotRules(plan_slots=10, max_attempts=3, video_shape=(2, 4, 4))


class FakeSource:
    """Grey level of a clip = its index; the indices in ``bad`` cannot be used."""

    name = "fake"
    num_cases = None

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad

    def clip(self, index: int) -> VideoClip:
        if index in self.bad:
            raise ClipError(f"clip {index} is broken")
        video = np.full((2, 4, 4), index, np.uint8)
        return VideoClip(f"fake-{index}", index, 0, 0, 0, video, 32.0, "fake", "fake")

    def case(self, index: int) -> VideoClip:
        return self.clip(index)


class FakeTeacher(FloatTeacher):
    """Probability = grey level / 100, NaN for clips whose level is in ``nan``, or masks of a wrong shape."""

    teacher_id = "fake-1"
    class_names = ("background", "LV")

    def __init__(self, nan: tuple[int, ...] = (), wrong_shape: bool = False) -> None:
        self.nan = nan
        self.wrong_shape = wrong_shape

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        prob = video_NTHW.astype(np.float32) / 100
        prob[np.isin(video_NTHW[:, 0, 0, 0], self.nan)] = np.nan
        return prob[:, :1] if self.wrong_shape else prob


def taught(source: FakeSource, teacher: FakeTeacher, slots: list[int]) -> DistillationBatch:
    block = make_block(source, slots, RULES, actor="source-1")
    return teach_block(teacher, block, lambda: source, RULES, actor="teacher-1")


def test_a_block_without_faults_is_its_slots_in_order() -> None:
    batch = taught(FakeSource(), FakeTeacher(), [3, 4, 5])
    assert batch.slot.tolist() == batch.index.tolist() == [3, 4, 5]
    assert batch.clip_id == ("fake-3", "fake-4", "fake-5")
    assert batch.teacher_prob[:, 0, 0, 0, 0].tolist() == [round(255 * level / 100) for level in (3, 4, 5)]
    assert [(span.stage, span.actor, span.clips, span.frames) for span in batch.spans] == [
        ("source", "source-1", 3, 6),
        ("teacher", "teacher-1", 3, 6),
    ]
    assert (batch.quarantined, batch.fault) == ((), "")


def test_a_bad_index_is_quarantined_and_replaced_by_the_slots_next_one() -> None:
    batch = taught(FakeSource(bad=(4, 14)), FakeTeacher(), [3, 4])
    assert batch.slot.tolist() == [3, 4]
    assert batch.index.tolist() == [3, 24]
    assert [(row.slot, row.index, row.stage) for row in batch.quarantined] == [(4, 4, "source"), (4, 14, "source")]
    assert batch.quarantined[0].reason == "clip 4 is broken"
    assert batch.fault == ""


def test_a_mask_that_is_not_finite_is_quarantined_and_its_clip_replaced() -> None:
    batch = taught(FakeSource(), FakeTeacher(nan=(4,)), [3, 4])
    assert batch.index.tolist() == [3, 14]
    assert batch.clip_id == ("fake-3", "fake-14")
    assert batch.video[1, 0, 0, 0] == 14
    assert batch.teacher_prob[1, 0, 0, 0, 0] == round(255 * 14 / 100)
    assert [(row.index, row.stage) for row in batch.quarantined] == [(4, "teacher")]
    assert "not finite" in batch.quarantined[0].reason


class TwoParts(FakeTeacher):
    """Two parts in clips of even level, of 2 and 1 pixels a frame; one part in the others."""

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        prob = np.zeros(video_NTHW.shape, np.float32)
        prob[:, :, 0, :2] = 1.0
        prob[video_NTHW[:, 0, 0, 0] % 2 == 0, :, 3, 3] = 1.0
        return prob


@pytest.mark.parametrize("code", MASK_CODES)
def test_a_mask_with_too_large_a_stray_share_is_quarantined_and_its_clip_replaced(code: str) -> None:
    source = FakeSource()
    for limit, indices in ((1.0, [3, 4]), (0.34, [3, 4]), (0.33, [3, 7])):
        rules = dataclasses.replace(RULES, plan_slots=3, stray_limit=limit, mask_code=code)
        block = make_block(source, [0, 1], dataclasses.replace(rules, plan_slots=10), actor="a")
        block = block.with_clip(0, source.clip(3), 1).with_clip(1, source.clip(4), 2)
        batch = teach_block(TwoParts(), block, lambda: source, rules, actor="b")
        assert batch.index.tolist() == indices
        assert len(batch.quarantined) == (indices[1] == 7)
    assert (batch.quarantined[0].index, batch.quarantined[0].stage) == (4, "teacher")
    assert "33.3% of its left ventricle lies outside" in batch.quarantined[0].reason
    assert "more than teacher.stray_limit (33.0%)" in batch.quarantined[0].reason


@pytest.mark.parametrize(
    ("source", "teacher"),
    [(FakeSource(bad=(4, 14, 24)), FakeTeacher()), (FakeSource(), FakeTeacher(nan=(4, 14, 24)))],
    ids=["source", "teacher"],
)
def test_a_slot_without_any_usable_clip_leaves_a_sentence(source: FakeSource, teacher: FakeTeacher) -> None:
    batch = taught(source, teacher, [3, 4])
    assert batch.fault.startswith("slot 4 found no usable clip in 3 attempts (data.max_attempts)")
    assert [row.index for row in batch.quarantined] == [4, 14, 24]


def test_a_teacher_of_another_shape_is_an_error() -> None:
    with pytest.raises(RunError, match=r"masks of shape \(1, 1, 1, 4, 4\) for video \(1, 2, 4, 4\)"):
        taught(FakeSource(), FakeTeacher(wrong_shape=True), [3])


def test_the_input_block_is_not_changed() -> None:
    source = FakeSource()
    columns = make_block(source, [3, 4], RULES, actor="a").to_columns()
    for column in columns.values():
        column.flags.writeable = False  # as Ray Data hands it over
    block = ClipBlock.from_columns(columns)
    batch = teach_block(FakeTeacher(nan=(4,)), block, lambda: source, RULES, actor="b")
    assert block.index.tolist() == [3, 4]
    assert batch.index.tolist() == [3, 14]


def test_quantisation_rounds_to_the_nearest_level() -> None:
    prob = np.linspace(0, 1, 1001, dtype=np.float32)
    assert np.abs(quantise(prob) / 255.0 - prob).max() <= 0.5 / 255 + 1e-7  # half a level, and float32 rounding
    assert quantise(np.array([0.0, 1.0])).tolist() == [0, 255]


class Brightness(nn.Module):
    """Logit = mean over channels of the normalised grey level."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1, keepdim=True) * self.scale


def test_a_torch_teacher_normalises_per_channel_and_does_not_depend_on_its_chunks() -> None:
    statistics = PixelStatistics(mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    video = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    results = []
    for batch_frames in (1, 4, 100):
        teacher = TorchTeacher(Brightness(), NetworkSpec("b", statistics), device="cpu", batch_frames=batch_frames)
        results.append(lv_prob(teacher, video))
    level = video.astype(np.float64)
    expected = 1 / (1 + np.exp(-(level - 10 + (level - 20) / 2 + (level - 30) / 4) / 3))
    for prob in results:
        assert prob.shape == video.shape
        np.testing.assert_allclose(prob, expected, atol=1e-6)  # float32 sigmoid


def test_a_teacher_with_its_own_input_size_returns_the_clips_size() -> None:
    statistics = PixelStatistics(mean=(0.0,), std=(255.0,))
    teacher = TorchTeacher(Brightness(), NetworkSpec("b", statistics, input_size=16), device="cpu", batch_frames=8)
    video = np.full((1, 2, 8, 8), 128, np.uint8)
    prob = lv_prob(teacher, video)
    assert prob.shape == (1, 2, 8, 8)
    np.testing.assert_allclose(prob, 1 / (1 + np.exp(-128 / 255)), atol=1e-6)


def test_the_teacher_id_follows_the_weights() -> None:
    def name_of(network: nn.Module) -> str:
        statistics = PixelStatistics(mean=(0.0,), std=(1.0,))
        return TorchTeacher(network, NetworkSpec("b", statistics), device="cpu", batch_frames=8).teacher_id

    same, other = Brightness(), Brightness()
    with torch.no_grad():
        other.scale.fill_(2.0)
    assert name_of(same) == name_of(Brightness())
    assert name_of(same) != name_of(other)


def test_truth_does_not_cross_to_the_students() -> None:
    assert set(taught(FakeSource(), FakeTeacher(), [1]).to_columns()) == {
        *("slot", "index", "clip_id", "epoch", "window_start", "video", "teacher_prob", "sample_weight"),
        *("source", "domain", "seen_id", "route", "stratum", "quarantined", "spans", "fault", "dropped"),
    }


def test_blocks_come_out_of_their_columns_as_they_went_in() -> None:
    block = ClipBlock.of(
        [FakeSource().clip(1), FakeSource().clip(12)],
        slots=[1, 2],
        attempts=[1, 2],
        quarantined=[Quarantined(2, 2, "fake-2", "source", "broken")],
        spans=[StageSpan("source", "a", 1.0, 2.0, 2, 4)],
        fault="stop",
    )
    member = MemberOutput("m-1", ("LV",), np.full((2, 2, 1, 4, 4), 7, np.uint8), {1: "lost"}, "broken")
    block = dataclasses.replace(block, members={"m": member})
    again = ClipBlock.from_columns(block.to_columns())
    assert again.members["m"].to_columns("m").keys() == member.to_columns("m").keys()
    assert (again.members["m"].faults, again.members["m"].error) == ({1: "lost"}, "broken")
    batch = dataclasses.replace(
        taught(FakeSource(), FakeTeacher(), [1, 2]), dropped=(DroppedMember(1, 1, "fake-1", "m", "lost"),)
    )
    for one, other in ((block, again), (batch, DistillationBatch.from_columns(batch.to_columns()))):
        for field in dataclasses.fields(one):
            if field.name != "members":
                np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name), field.name)


class FakeChambersTeacher(FakeTeacher):
    """Three classes: LA at half the LV's probability, RV at a quarter."""

    class_names = ("background", "LA", "LV", "RV")

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        lv = super().prob(video_NTHW)
        return np.stack([lv / 2, lv, lv / 4], axis=2)


@pytest.mark.parametrize(
    ("classes", "shares"),
    [(("LV",), [1]), (("RV",), [0.25]), (("RV", "LV"), [0.25, 1]), (("LV", "LA", "RV"), [1, 0.5, 0.25])],
)
def test_only_the_classes_that_are_asked_for_cross_by_name(classes: tuple[str, ...], shares: list[float]) -> None:
    rules = dataclasses.replace(RULES, classes=classes)
    block = make_block(FakeSource(), [40, 60], rules, actor="s")
    batch = teach_block(FakeChambersTeacher(), block, FakeSource, rules, actor="t")
    prob = batch.teacher_prob
    assert prob.dtype == np.uint8
    wanted = np.stack([np.rint(255 * np.array(shares) * level) for level in (0.4, 0.6)])
    assert prob.shape == (2, 2, len(classes), 4, 4)
    assert prob[:, 1, :, 2, 3].tolist() == wanted.tolist()
    assert batch.teacher_phase is None
    assert batch.teacher_ef is None


def test_a_mask_of_several_classes_that_is_not_finite_is_replaced_too() -> None:
    rules = dataclasses.replace(RULES, classes=("LV", "RV"))
    block = make_block(FakeSource(), [3, 4], rules, actor="s")
    batch = teach_block(FakeChambersTeacher(nan=(4,)), block, FakeSource, rules, actor="t")
    assert batch.index.tolist() == [3, 14]
    assert batch.teacher_prob[1, 0, :, 0, 0].tolist() == [round(255 * 0.14), round(255 * 0.035)]


class BeatingSource(FakeSource):
    """Clip i: a bright disc that beats i times per second; clip 0 stands still."""

    def clip(self, index: int) -> VideoClip:
        t = np.arange(48) / 24
        radius = 10 - 3 * (1 - np.cos(2 * np.pi * index * t)) / 2
        y, x = np.mgrid[:32, :32] - 15.5
        video = (100 * (np.hypot(x, y)[None] < radius[:, None, None])).astype(np.uint8)
        return VideoClip(f"fake-{index}", index, 0, 0, 0, video, 24.0, "fake", "fake")


BEATING = SlotRules(10, 3, (48, 32, 32), tasks=("ef", "phase"), fps=24.0)


def test_phase_and_ef_come_from_the_teachers_own_masks() -> None:
    block = make_block(BeatingSource(), [0, 1], BEATING, actor="s")
    batch = teach_block(FakeTeacher(), block, BeatingSource, BEATING, actor="t")
    assert (batch.teacher_phase.dtype, batch.teacher_ef.dtype) == (np.float32, np.float32)
    assert np.isnan(batch.teacher_phase[0]).all()
    assert np.isnan(batch.teacher_ef[0])
    assert batch.teacher_phase[1, [0, 12, 24]].tolist() == [1, 0, 1]
    # a disc's area over its length: r^2 r^2 / r; 0.03: a disc of whole pixels
    assert batch.teacher_ef[1] == pytest.approx(1 - (7 / 10) ** 3, abs=0.03)


@pytest.mark.parametrize("tasks", [("phase",), ("ef",)])
def test_only_the_tasks_that_are_asked_for_cross(tasks: tuple[str, ...]) -> None:
    rules = dataclasses.replace(BEATING, tasks=tasks)
    columns = teach_block(
        FakeTeacher(), make_block(BeatingSource(), [1], rules, actor="s"), BeatingSource, rules, actor="t"
    )
    assert {"teacher_phase", "teacher_ef"} & set(columns.to_columns()) == {f"teacher_{tasks[0]}"}


def test_a_block_with_a_fault_has_the_columns_of_the_others() -> None:
    """Blocks of one stream must fit together in Arrow, whatever happened to them."""
    rules = dataclasses.replace(BEATING, classes=("LV", "RV"))
    teacher = FakeChambersTeacher()

    def teach(source: FakeSource) -> dict[str, np.ndarray]:
        block = make_block(source, [1, 2], rules, actor="s")
        return teach_block(teacher, block, lambda: source, rules, actor="t").to_columns()

    good, bad = teach(BeatingSource()), teach(BadSource())
    assert str(bad["fault"][0])
    assert {name: (column.shape, column.dtype) for name, column in good.items()} == {
        name: (column.shape, column.dtype) for name, column in bad.items()
    }


class BadSource(FakeSource):
    def clip(self, index: int) -> VideoClip:
        raise ClipError(f"clip {index} is broken")


class Darkness(nn.Module):
    """Logits of two classes; of a white pixel, none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.where(x >= 2.55, torch.nan, x)
        return torch.cat([x - 1, 1 - x], dim=1)


@pytest.mark.parametrize("code", MASK_CODES)
def test_masks_that_are_rounded_where_they_are_made_are_those_that_are_rounded_later(code: str) -> None:
    """A network's masks are encoded by torch, other teachers' by numpy: no level differs, no fault either."""
    teacher = TorchTeacher(
        Darkness(),
        NetworkSpec("b", PixelStatistics(mean=(0.0,), std=(100.0,)), class_names=("background", "LV", "LA")),
        device="cpu",
        batch_frames=3,
    )

    class Later(FloatTeacher):
        teacher_id, class_names = teacher.teacher_id, teacher.class_names

        def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
            return teacher._prob(video_NTHW).numpy()

    video = np.random.default_rng(0).integers(0, 255, (3, 4, 8, 8), dtype=np.uint8)
    video[1, 2, 3, 4] = 255
    codes, faults = masks_of(teacher, video, (), code)
    expected, expected_faults = masks_of(Later(), video, (), code)
    np.testing.assert_array_equal(codes, expected)
    assert faults == expected_faults == {1: f"the teacher {teacher.teacher_id} gave a mask that is not finite"}
    assert codes.shape == (3, 4, 2, 8, 8)
    assert (codes[1] == encode(np.zeros(()), code)).all()
    assert len(np.unique(codes[[0, 2]])) > 20


def test_a_torch_teacher_of_several_classes_keeps_their_order() -> None:
    class Levels(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x + 1, x - 1], dim=1)

    teacher = TorchTeacher(
        Levels(),
        NetworkSpec("b", PixelStatistics(mean=(0.0,), std=(100.0,)), class_names=("background", "LV", "LA", "RV")),
        device="cpu",
        batch_frames=3,
    )
    video = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8), dtype=np.uint8)
    prob, _ = masks_of(teacher, video)
    assert prob.shape == (2, 4, 3, 8, 8)
    logits = video[:, :, None] / 100 + np.array([0, 1, -1])[:, None, None]
    np.testing.assert_allclose(prob, 1 / (1 + np.exp(-logits)), atol=1e-6)  # float32 sigmoid


def test_pixels_of_0_to_1_are_at_fault_and_floats_are_refused() -> None:
    teacher = TorchTeacher(
        Brightness(), NetworkSpec("b", PixelStatistics(mean=(0.0,), std=(255.0,))), device="cpu", batch_frames=8
    )
    video = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8), dtype=np.uint8)
    video[1] = np.rint(video[1] / 255)
    video[2] = 0
    output = teacher.teach(video)
    assert output.faults == {1: "its largest grey level is 1, as of pixels of 0..1 in place of 0..255"}
    assert not output.masks[1].any()
    assert output.masks[0].any()
    with pytest.raises(InputError, match=r"grey levels 0..255 as uint8, got float32"):
        teacher.teach((video / 255).astype(np.float32))
