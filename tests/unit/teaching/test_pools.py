"""An ensemble's stages without Ray: pools of their own give what one actor gives, and who is left out of a clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.rules.heads import check_members_give
from echodfkd.config.run import RunConfig
from echodfkd.core.errors import ConfigError, RunError
from echodfkd.core.mask_codes import quantise
from echodfkd.core.records import DistillationBatch, StageSpan, VideoClip
from echodfkd.models.teachers.protocol import ClipKey, Teacher
from echodfkd.runtime.stream.builders import load_member, load_teacher, slot_rules, training_source
from echodfkd.sources.clip_source import ClipSource
from echodfkd.teaching.blocks import fuse_block, make_block, member_block, teach_block
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.teaching.ensemble import Ensemble, Member
from echodfkd.teaching.fusion import fuse_by_name
from echodfkd.teaching.members import Fusion, MemberOutput, MemberRule
from echodfkd.teaching.slots import SlotRules
from echodfkd.training.progress import Progress
from tests.helpers.teachers import FloatTeacher, masks_of
from tests.helpers.training import make_batch

RULES = SlotRules(plan_slots=10, max_attempts=3, video_shape=(2, 4, 4), confidence=True)


class FakeSource:
    """Clip i is noise of the seed i, but for its first pixel, which is i."""

    name = "fake"
    num_cases = None

    def clip(self, index: int) -> VideoClip:
        video = np.random.default_rng(index).integers(0, 256, (2, 4, 4), dtype=np.uint8)
        video[0, 0, 0] = index
        return VideoClip(f"fake-{index}", index, 0, 0, 0, video, 32.0, "fake", "fake")

    case = clip


class FakeTeacher(FloatTeacher):
    """A share of the grey level for each class. Clips in ``lost`` have no mask, those in ``nan`` one of NaN, and a
    block that holds a clip in ``raises`` an explained error.
    """

    def __init__(
        self,
        share: float,
        classes: Sequence[str] = ("LV",),
        *,
        lost: Sequence[int] = (),
        nan: Sequence[int] = (),
        raises: Sequence[int] = (),
    ) -> None:
        self.teacher_id, self.share = f"fake-{share}", share
        self.class_names = ("background", *classes)
        self.lost, self.nan, self.raises = lost, nan, raises
        self.shown = 0

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        first = video_NTHW[:, 0, 0, 0]
        self.shown += len(first)
        if np.isin(first, self.raises).any():
            raise RunError("the fake is out of order")
        lv = video_NTHW.astype(np.float32) / 255 * self.share
        lv[np.isin(first, self.nan)] = np.nan
        count = len(self.class_names) - 1
        return lv if count == 1 else np.stack([lv / (place + 1) for place in range(count)], axis=2)

    def lost_rows(self, clips: Sequence[ClipKey]) -> dict[int, str]:
        return {row: "lost" for row, clip in enumerate(clips) if clip.index in self.lost}


def ensemble(*members: Member, method: str = "mean_prob") -> Ensemble:
    return Ensemble(members, method=method)


def in_one(teacher: Ensemble, slots: Sequence[int], rules: SlotRules = RULES) -> DistillationBatch:
    source = FakeSource()
    return teach_block(teacher, make_block(source, slots, rules, actor="s"), lambda: source, rules, actor="t")


def in_stages(
    teacher: Ensemble, slots: Sequence[int], rules: SlotRules = RULES, source: ClipSource | None = None
) -> DistillationBatch:
    """As pools of their own do it, each with the columns of the one before, which none may change."""
    source = source or FakeSource()
    block = make_block(source, slots, rules, actor="s")
    for member in teacher.members:
        block = member_block(member.name, member.teacher, frozen(block), rules, actor=f"t-{member.name}")
    known, fusion = teacher.teacher_id, teacher.fusion
    return fuse_block(fusion, frozen(block), lambda: teacher, lambda: source, rules, actor="t", teacher_id=known)


def frozen(block: ClipBlock) -> ClipBlock:
    """As Ray Data hands blocks over."""
    columns = block.to_columns()
    for column in columns.values():
        column.flags.writeable = False
    return ClipBlock.from_columns(columns)


def same(first: DistillationBatch, second: DistillationBatch) -> None:
    one, other = first.to_columns(), second.to_columns()
    assert set(one) == set(other)
    for name in set(one) - {"spans"}:  # who did it, and when
        assert (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape), name
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_stages_give_bit_for_bit_what_one_actor_gives() -> None:
    """Of different classes, with a clip that is replaced and one that a member is left out of."""
    teacher = ensemble(
        Member("lv", FakeTeacher(0.9, nan=(3,)), 2.0),
        Member("both", FakeTeacher(0.5, ("LA", "LV")), 1.0),
        Member("late", FakeTeacher(0.7, lost=(4,)), 1.0, required=False),
        method="mean_logit",
    )
    rules = dataclasses.replace(RULES, classes=("LV", "LA"))
    batch = in_stages(teacher, [2, 3, 4], rules)
    same(batch, in_one(teacher, [2, 3, 4], rules))
    limited = dataclasses.replace(rules, stray_limit=0.5, max_attempts=8)
    strict = in_stages(teacher, [2, 3, 4], limited)
    same(strict, in_one(teacher, [2, 3, 4], limited))
    assert any("more than teacher.stray_limit (50.0%)" in row.reason for row in strict.quarantined)
    assert not strict.fault
    assert batch.index.tolist() == [2, 13, 4]
    assert batch.teacher_prob.shape == batch.teacher_confidence.shape == (3, 2, 2, 4, 4)
    assert [(row.index, row.stage, row.reason) for row in batch.quarantined] == [
        (3, "teacher", "lv: the teacher fake-0.9 gave a mask that is not finite")
    ]
    assert [(row.slot, row.index, row.clip_id, row.member, row.reason) for row in batch.dropped] == [
        (4, 4, "fake-4", "late", "lost")
    ]
    assert [(span.stage, span.actor, span.clips, span.frames) for span in batch.spans] == [
        ("source", "s", 3, 6),
        ("teacher.lv", "t-lv", 3, 6),
        ("teacher.both", "t-both", 3, 6),
        ("teacher.late", "t-late", 3, 6),
        ("teacher", "t", 3, 6),
    ]


def test_what_is_fused_are_the_members_levels_and_the_classes_that_are_asked_for() -> None:
    """Against the fusion of the unrounded masks: half a level of each member, and half of what comes out of it."""
    members = [FakeTeacher(0.9), FakeTeacher(0.5, ("LA", "LV"))]
    teacher = ensemble(Member("a", members[0], 2.0), Member("b", members[1], 1.0))
    video = np.stack([FakeSource().clip(index).video for index in (2, 3)])
    plain, sure = fuse_by_name(
        [masks_of(one, video)[0] for one in members],
        [("LV",), ("LA", "LV")],
        [2.0, 1.0],
        method="mean_prob",
        class_names=("LV",),
    )
    batch = in_stages(teacher, [2, 3])
    assert batch.teacher_prob.shape == (2, 2, 1, 4, 4)
    assert np.abs(batch.teacher_prob - 255 * plain).max() <= 1.0 + 1e-4  # float32
    # 1 - 2 sqrt(2)/3 |p - q| of two with shares 2/3 and 1/3: p - q is off by a level at most
    assert np.abs(batch.teacher_confidence - 255.0 * sure).max() <= 2 * np.sqrt(2) / 3 + 0.5 + 1e-4


@pytest.mark.parametrize("slots", [[4], [2, 4, 6]])
def test_a_member_that_is_left_out_leaves_the_fusion_of_the_others(slots: list[int]) -> None:
    late = Member("late", FakeTeacher(0.2, lost=(4,), nan=(6,)), 5.0, required=False)
    others = [Member("a", FakeTeacher(1.0), 1.0), Member("b", FakeTeacher(0.6), 3.0)]
    batch = in_stages(ensemble(*others, late), slots)
    alone = in_stages(ensemble(*others), slots)
    for row, slot in enumerate(slots):
        assert np.array_equal(batch.teacher_prob[row], alone.teacher_prob[row]) == (slot in (4, 6))
        assert np.array_equal(batch.teacher_confidence[row], alone.teacher_confidence[row]) == (slot in (4, 6))
    assert [(row.slot, row.member) for row in batch.dropped] == [(slot, "late") for slot in slots if slot in (4, 6)]
    assert batch.quarantined == alone.quarantined == alone.dropped == ()


def test_a_block_that_a_member_fails_at_is_taught_without_it_or_ends_the_run() -> None:
    """An explained error: a service that is gone, masks of another shape."""
    broken = FakeTeacher(0.5, raises=(3,))
    fine = Member("fine", FakeTeacher(1.0), 1.0)
    optional = ensemble(fine, Member("mine", broken, 1.0, required=False))
    batch = in_stages(optional, [2, 3])
    same(batch, in_one(optional, [2, 3]))
    assert [(row.slot, row.member, row.reason) for row in batch.dropped] == [
        (2, "mine", "the fake is out of order"),
        (3, "mine", "the fake is out of order"),
    ]
    assert batch.index.tolist() == [2, 3]
    required = ensemble(fine, Member("mine", broken, 1.0))
    for teach in (in_stages, in_one):
        with pytest.raises(RunError, match=r"^teacher.members.mine: the fake is out of order$"):
            teach(required, [2, 3])


@pytest.mark.parametrize(
    ("rules", "members", "fault"),
    [
        # nobody is left
        ([("a", False), ("b", False)], [("LV",), ("LV",)], "a: lost; b: lost"),
        # a required one is missing, no matter which else are
        ([("a", False), ("b", True)], [("LV",), ("LV",)], "b: lost"),
        # nobody is left who knows LA
        ([("a", False), ("b", False)], [("LA", "LV"), ("LV",)], "a: lost; b: lost"),
    ],
)
def test_a_clip_that_cannot_be_fused_is_at_fault(
    rules: list[tuple[str, bool]], members: list[tuple[str, ...]], fault: str
) -> None:
    wanted = tuple(dict.fromkeys(name for names in members for name in names))
    fusion = Fusion("mean_prob", tuple(MemberRule(name, 1.0, required) for name, required in rules))
    said = [
        MemberOutput(f"t-{place}", names, np.full((2, 1, len(names), 2, 2), 51, np.uint8), {1: "lost"})
        for place, names in enumerate(members)
    ]
    taught = fusion.fuse(said, wanted, None)
    assert (taught.faults, taught.dropped) == ({1: fault}, {})
    np.testing.assert_allclose(taught.masks[0], 0.2, atol=1e-6)  # 51 / 255
    assert not taught.masks[1].any()


def test_only_a_class_that_is_asked_for_must_have_somebody_left() -> None:
    fusion = Fusion("mean_prob", (MemberRule("a", 1.0, False), MemberRule("b", 1.0, False)))
    la_lv = MemberOutput("t-a", ("LA", "LV"), np.zeros((1, 1, 2, 2, 2), np.uint8), {0: "lost"})
    lv = MemberOutput("t-b", ("LV",), np.full((1, 1, 1, 2, 2), 255, np.uint8))
    assert fusion.fuse([la_lv, lv], ("LA", "LV"), None).faults == {0: "a: lost"}
    taught = fusion.fuse([la_lv, lv], ("LV",), None)
    assert (taught.faults, taught.dropped) == ({}, {0: {"a": "lost"}})
    assert (taught.masks == 1).all()
    assert (taught.confidence == 255).all()  # one voice alone does not disagree


def test_members_are_asked_again_for_a_clip_that_takes_anothers_place_only() -> None:
    slow = FakeTeacher(1.0, nan=(3, 13))
    teacher = ensemble(Member("a", slow, 1.0), Member("b", FakeTeacher(0.5, lost=(23,)), 1.0, required=False))
    batch = in_stages(teacher, [2, 3])
    assert batch.index.tolist() == [2, 23]
    assert slow.shown == 2 + 2  # the block, and the clips 13 and 23
    assert [row.index for row in batch.quarantined] == [3, 13]
    assert [(row.slot, row.index, row.clip_id) for row in batch.dropped] == [(3, 23, "fake-23")]
    expected = quantise(quantise(masks_of(slow, batch.video[1:])[0]) / np.float32(255))
    assert np.array_equal(batch.teacher_prob[1:], expected)
    bad = ensemble(Member("a", FakeTeacher(1.0, nan=(3, 13, 23)), 1.0), teacher.members[1])
    batch = in_stages(bad, [2, 3])
    assert batch.fault.startswith("slot 3 found no usable clip in 3 attempts")


def test_a_block_that_carries_a_fault_passes_all_stages_with_the_columns_of_the_others() -> None:
    class NoSource(FakeSource):
        def clip(self, index: int) -> VideoClip:
            from echodfkd.core.errors import ClipError

            raise ClipError("no clip")

    teacher = ensemble(Member("a", FakeTeacher(1.0), 1.0), Member("b", FakeTeacher(0.5), 1.0, required=False))
    good, bad = in_stages(teacher, [2, 3]), in_stages(teacher, [2, 3], source=NoSource())
    assert bad.fault.startswith("slot 2 found no usable clip")
    assert {name: (c.shape, c.dtype) for name, c in good.to_columns().items()} == {
        name: (c.shape, c.dtype) for name, c in bad.to_columns().items()
    }
    assert bad.dropped == ()


def test_members_of_another_node_that_are_not_the_drivers_are_named() -> None:
    teacher = ensemble(Member("a", FakeTeacher(1.0), 1.0), Member("b", FakeTeacher(0.5), 1.0))
    block = make_block(FakeSource(), [2], RULES, actor="s")
    for name, other in (("a", FakeTeacher(1.0)), ("b", FakeTeacher(0.25))):
        block = member_block(name, other, block, RULES, actor="t")
    words = rf"a fake-1.0, b fake-0.25, which is not the {teacher.teacher_id} that the driver loaded"
    with pytest.raises(RunError, match=words):
        fuse_block(teacher.fusion, block, lambda: teacher, FakeSource, RULES, actor="t", teacher_id=teacher.teacher_id)


def test_an_ensemble_that_is_asked_for_a_case_leaves_out_whom_it_may() -> None:
    teacher = ensemble(
        Member("a", FakeTeacher(1.0), 1.0), Member("b", FakeTeacher(0.5, lost=(3,)), 1.0, required=False)
    )
    video = FakeSource().clip(3).video[None]
    prob, faults = masks_of(teacher, video, [ClipKey("x", 3, 0, is_case=True)])
    assert faults == {}
    np.testing.assert_allclose(prob[:, :, 0], video / 255, atol=1e-6)  # its levels are exact
    nan = ensemble(Member("a", FakeTeacher(1.0, nan=(3,)), 1.0), teacher.members[1])
    prob, faults = masks_of(nan, video)
    assert faults == {0: "a: the teacher fake-1.0 gave a mask that is not finite"}
    assert not prob.any()


MEMBERS = (
    "students.a.blocks=2",
    "teacher.kind=ensemble",
    "teacher.members.one.kind=embedded",
    "teacher.members.two.kind=embedded_chambers",
)
EACH = (*MEMBERS, "teacher.pools=each")


def run_config(*overrides: str) -> RunConfig:
    return load_config(None, overrides)


def test_the_cache_keeps_what_each_member_gives(tmp_path: Path) -> None:
    """So that another fusion, or pools of their own, find what one actor has left."""
    options = ["teacher.confidence=true", f"teacher.cache={tmp_path}", "students.a.objective.bce.confidence=teacher"]
    config = run_config(*MEMBERS, *options)
    source, rules = training_source(config), slot_rules(config)

    def taught(config: RunConfig) -> DistillationBatch:
        block = make_block(source, [0, 1], rules, actor="s")
        return teach_block(load_teacher(config, "cpu"), block, lambda: source, rules, actor="t")

    cold, warm = (taught(config) for _ in range(2))
    np.testing.assert_array_equal(cold.teacher_prob, warm.teacher_prob)
    np.testing.assert_array_equal(cold.teacher_confidence, warm.teacher_confidence)
    kinds = [[s.stage for s in batch.spans if s.stage.startswith(("teacher_c", "teacher_u"))] for batch in (cold, warm)]
    assert kinds == [["teacher_uncached.one", "teacher_uncached.two"], ["teacher_cache.one", "teacher_cache.two"]]
    each = run_config(*EACH, *options, "teacher.fusion=gate")
    member: Teacher = load_member(each, "two")
    block = member_block("two", member, make_block(source, [0, 1], rules, actor="s"), rules, actor="t")
    span = block.spans[-1]
    assert (span.stage, span.clips, span.frames) == ("teacher_cache.two", 2, 32)
    assert span.bytes == sum(p.stat().st_size for p in (tmp_path / member.teacher_id).rglob("*.parquet")) > 0
    plain = taught(run_config(*MEMBERS, *options[::2]))
    np.testing.assert_array_equal(plain.teacher_prob, cold.teacher_prob)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([*MEMBERS, "teacher.pools=two"], r"^teacher.pools: got 'two', allowed are one, each$"),
        (
            [*MEMBERS, "teacher.members.two.num_gpus=1"],
            r"^teacher.members.two.num_gpus: got 1.0, but teacher.pools is one",
        ),
        (
            [*MEMBERS, "teacher.members.one.device=cpu"],
            r"^teacher.members.one.device: got cpu, but teacher.pools is one",
        ),
        (
            [*EACH, "teacher.members.one.device=tpu"],
            r"^teacher.members.one.device: got 'tpu', allowed are auto, cpu, cuda$",
        ),
        ([*EACH, "teacher.members.one.num_cpus=-1"], r"^teacher.members.one.num_cpus: got -1.0, must be at least 0$"),
        (
            [*EACH, "teacher.members.one.min_actors=3"],
            r"^teacher.members.one.max_actors: got 1, must be at least teacher.members.one.min_actors \(3\)$",
        ),
        (
            [*EACH, "teacher.members.one.node_label=gpu"],
            r"^teacher.members.one.node_label: got 'gpu', expected key=value",
        ),
        (
            ["students.a.blocks=2", "teacher.pools=each"],
            r"^teacher.pools: has no effect if teacher.kind is embedded",
        ),
        (
            ["students.a.blocks=2", "teacher.confidence=true"],
            r"^teacher.confidence: has no effect if teacher.kind is",
        ),
        (
            [*MEMBERS, "students.a.objective.kl.confidence=teacher"],
            r"^students.a.objective.kl.confidence: got teacher, but no teacher's confidence crosses to",
        ),
        (
            [*MEMBERS, "teacher.confidence=true", "students.a.objective.dice.confidence=teacher"],
            r"^students.a.objective.dice.confidence: dice has no such option; it belongs to bce, kl, focal$",
        ),
    ],
)
def test_pools_that_cannot_be_are_one_sentence(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_config(*overrides)


def test_a_member_that_nobody_asks_for_is_named() -> None:
    config = run_config(*MEMBERS)
    check_members_give(config, {"one": ("background", "LV"), "two": ("background", "LA", "LV")})
    words = r"^teacher.members.two: gives LA, RA, but the students ask for LV \(students.NAME.classes\); remove it$"
    with pytest.raises(ConfigError, match=words):
        check_members_give(config, {"one": ("background", "LV"), "two": ("background", "LA", "RA")})


def test_where_members_run_is_no_part_of_a_runs_identity_and_who_may_be_left_out_is() -> None:
    base = config_hash(run_config(*MEMBERS))
    for same_run in ("teacher.pools=each", "teacher.confidence=true"):
        assert config_hash(run_config(*MEMBERS, same_run)) == base, same_run
    assert (
        config_hash(run_config(*EACH, "teacher.members.two.max_actors=3", "teacher.members.one.num_cpus=0.5")) == base
    )
    assert config_hash(run_config(*MEMBERS, "teacher.members.two.required=false")) != base


@pytest.mark.parametrize(("pools", "rate"), [("each", 2.0), ("one", 4 / 3.5)])
def test_how_fast_one_teacher_is_depends_on_where_its_members_run(pools: str, rate: float) -> None:
    """Four clips, that the members hold for 2 s and 1 s and the fusion for half a second."""
    sent: list[dict[str, Any]] = []
    progress = Progress(run_config(*MEMBERS, f"teacher.pools={pools}"), sent.append)
    work = {"source": 9.0, "teacher.one": 2.0, "teacher.two": 1.0, "teacher": 0.5, "teacher_cache.one": 2.0}
    spans = tuple(StageSpan(stage, "t", 100.0, 100.0 + seconds, 4, 64) for stage, seconds in work.items())
    batch = dataclasses.replace(make_batch([0, 1, 2, 3]), spans=spans)
    progress.add_step(1, [batch], asked=103.0, started=104.0, losses={}, rate=1e-3)
    progress.report(force=True)
    assert sent[0]["teacher_clips_s"] == pytest.approx(rate)


def test_what_waits_between_the_pools_is_bounded_by_all_of_them() -> None:
    one = run_config(*MEMBERS, "teacher.max_actors=2")
    each = run_config(*EACH, "teacher.max_actors=2", "teacher.members.two.max_actors=3")
    assert list(each.teacher.actor_pools) == ["teacher.members.one", "teacher.members.two", "teacher"]
    assert each.taught_ahead_bound - one.taught_ahead_bound == 2 * (1 + 3) * one.micro_batch
    sure = run_config(*MEMBERS, "teacher.confidence=true")
    assert sure.clip_bytes - one.clip_bytes == 16 * 56 * 56  # a plane more
