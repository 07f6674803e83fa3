"""teacher.route: each clip is taught by the members that its route names, in one process and in pools alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.stats import entropy

from echodfkd.config.file import load_config
from echodfkd.config.rules.heads import check_routes_give
from echodfkd.config.rules.route import check_routed_parts
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.route import RouteConfig
from echodfkd.core.errors import ConfigError
from echodfkd.core.mask_codes import decode
from echodfkd.core.records import Conditions, DistillationBatch, VideoClip
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.runtime.stream.builders import drafting_source, load_member, load_teacher, slot_rules, training_source
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import LedgerBuffer
from echodfkd.storage.schemas import LEDGER_SCHEMA, read_part
from echodfkd.teaching.blocks import fuse_block, make_block, member_block, teach_block
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.teaching.ensemble import Ensemble, Member
from echodfkd.teaching.routing import Router
from tests.helpers.teachers import FloatTeacher

SMALL = ["students={a: {blocks: 2, layers: 1}}", "window.frames=2", "window.size=32", "train.steps=2"]
TWO = "source={kind: mixture, parts: {clear: {domain: clear}, hand: {domain: handheld}}}"
MEMBERS = ["teacher.kind=ensemble", "teacher.members={c: {}, h: {kind: embedded_chambers}}"]
BY_DOMAIN = "teacher.route={by: domain, to: {clear: c, handheld: h}, default: h}"


class Constant(FloatTeacher):
    """A fake with one probability everywhere; it keeps the ids of the clips that it is shown."""

    def __init__(self, value: float, classes: tuple[str, ...] = ("LV",), bad: tuple[int, ...] = ()) -> None:
        self.value, self.teacher_id, self.bad = value, f"constant-{value}", bad
        self.class_names = ("background", *classes)
        self.ids: list[str] = []

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        return np.full(video_NTHW.shape, self.value, np.float32)

    def lost_rows(self, clips):  # type: ignore[no-untyped-def]
        self.ids += [clip.clip_id for clip in clips]
        return {row: "lost" for row, clip in enumerate(clips) if clip.index in self.bad}


def clip_of(**facts: object) -> VideoClip:
    own = {name: facts.pop(name) for name in ("source", "domain") if name in facts}
    fields = {"source": "part", "domain": "clear", **own, "conditions": Conditions(**facts)}
    return VideoClip("c", 0, 0, 0, 0, np.zeros((1, 1, 1), np.uint8), 32.0, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("by", "to", "clips"),
    [
        ("domain", {"clear": "a"}, [({"domain": "clear"}, "a"), ({"domain": "wild"}, "d")]),
        ("source", {"x": "a"}, [({"source": "x"}, "a"), ({}, "d")]),
        ("view", {"A2C": "a,b"}, [({"view": "A2C"}, "a,b"), ({"view": "A4C"}, "d"), ({}, "d")]),
        (
            "image_quality",
            {"..0.25": "a", "0.25..0.5": "b"},
            [({"image_quality": q}, m) for q, m in ((0.0, "a"), (0.24, "a"), (0.25, "b"), (0.5, "d"))] + [({}, "d")],
        ),
        ("esv_ml", {"-1..50": "b", "50..": "a"}, [({"esv_ml": 50.0}, "a"), ({"esv_ml": 49.9}, "b")]),
        ("", {}, [({}, "")]),
    ],
)
def test_a_clip_goes_by_its_property(by: str, to: dict[str, str], clips: list[tuple[dict[str, object], str]]) -> None:
    route = RouteConfig(by=by, to=to, default="d" if by else "")
    assert [Router(route)(clip_of(**facts)) for facts, _ in clips] == [members for _, members in clips]


def routed(config: RunConfig, teacher: Ensemble, *, pools: bool) -> DistillationBatch:
    rules, source = slot_rules(config), training_source(config)
    block = make_block(drafting_source(config), range(4), rules, actor="s")
    if not pools:
        return teach_block(teacher, block, lambda: source, rules, actor="t")
    for member in teacher.members:
        block = ClipBlock.from_columns(member_block(member.name, member.teacher, block, rules, actor="t").to_columns())
    known = teacher.teacher_id
    return fuse_block(teacher.fusion, block, lambda: teacher, lambda: source, rules, actor="t", teacher_id=known)


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize(
    ("to", "work", "levels"),
    [
        ({"clear": "c", "handheld": "h"}, (2, 2), {"clear": 0.2, "handheld": 0.8}),
        ({"clear": "c,h"}, (2, 4), {"clear": 0.5, "handheld": 0.8}),
        ({"clear": "h", "handheld": "h"}, (0, 4), {"clear": 0.8, "handheld": 0.8}),
    ],
)
def test_members_teach_only_the_clips_that_go_to_them(
    pools: bool, to: dict[str, str], work: tuple[int, int], levels: dict[str, float]
) -> None:
    options = ", ".join(f"{value}: '{members}'" for value, members in to.items())
    config = load_config(None, [*SMALL, TWO, *MEMBERS, f"teacher.route={{by: domain, to: {{{options}}}, default: h}}"])
    members = [Member("c", Constant(0.2), 1.0), Member("h", Constant(0.8), 1.0)]
    batch = routed(config, Ensemble(members, method="mean_prob", route=config.teacher.route), pools=pools)
    for domain, route, masks in zip(batch.domain, batch.route, batch.teacher_prob, strict=True):
        assert route == to.get(domain, "h")
        np.testing.assert_allclose(decode(masks), levels[domain], atol=1 / 255)
    shown = tuple(len(member.teacher.ids) for member in members)  # type: ignore[attr-defined]
    spans = tuple(sum(s.clips for s in batch.spans if s.stage == f"teacher.{name}") for name in "ch")
    assert shown == spans == work
    assert batch.dropped == ()


@pytest.mark.parametrize("pools", [False, True])
def test_a_replacement_has_a_route_of_its_own_and_the_ledger_has_it(pools: bool, tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = load_config(None, [*SMALL, TWO, *MEMBERS, BY_DOMAIN, "train.steps=1", "train.global_batch=5"])
    good, bad = Constant(0.2), Constant(0.8, bad=(1, 3))
    ensemble = Ensemble([Member("c", good, 1.0), Member("h", bad, 1.0)], method="mean_prob", route=config.teacher.route)
    batch = routed(config, ensemble, pools=pools)
    moved = [int(index) for index in batch.index]
    assert sorted(row.index for row in batch.quarantined) == [i for i in (1, 3) if i not in moved] != []
    assert all(index in (slot, slot + 5) for slot, index in enumerate(moved))
    routes = ["c" if domain == "clear" else "h" for domain in batch.domain]
    assert list(batch.route) == routes
    assert routes[moved.index(6)] == ("c" if training_source(config).clip(6).domain == "clear" else "h")
    storage = RunStorage(str(tmp_path))
    buffer = LedgerBuffer(storage, rank=0, attempt="a")
    buffer.add_trained(batch, 1)
    (part,) = buffer.flush(1, ["ledger"])["ledger"]
    assert [row["route"] for row in read_part(storage, part, LEDGER_SCHEMA).to_pylist()] == routes


def test_a_member_that_a_clip_does_not_go_to_cannot_spoil_it() -> None:
    config = load_config(None, [*SMALL, TWO, *MEMBERS, BY_DOMAIN])
    everything_lost = Constant(0.8, bad=tuple(range(100)))
    members = [Member("c", Constant(0.2), 1.0), Member("h", everything_lost, 1.0)]
    rules = slot_rules(config)
    ensemble = Ensemble(members, method="mean_prob", route=config.teacher.route)
    block = make_block(drafting_source(config), range(4), rules, actor="s")
    output = ensemble.teach(block.shown, block.keys(), classes=("LV",), code="probability")
    assert sorted(output.faults) == [row for row, domain in enumerate(block.domain) if domain == "handheld"]


def test_the_route_is_part_of_the_teachers_id_and_whole_routes_of_the_cases() -> None:
    configs = [load_config(None, [*SMALL, TWO, *MEMBERS, *more]) for more in ([], [BY_DOMAIN])]
    fused, routed_ = (load_teacher(config, "cpu") for config in configs)
    assert fused.teacher_id != routed_.teacher_id
    case = training_source(configs[1]).case(0)
    route = Router(configs[1].teacher.route)(case)
    one = next(member.teacher for member in routed_.members if member.name == route)  # type: ignore[attr-defined]
    key = ClipKey(case.clip_id, 0, 0, is_case=True, route=route)
    video = case.video[None, :2]
    masks = routed_.teach(video, [key], classes=("LV",)).masks
    np.testing.assert_allclose(masks, one.teach(video, classes=("LV",)).masks, atol=0.5 / 255 + 1e-6)
    assert np.abs(masks - fused.teach(video, classes=("LV",)).masks).max() > 0.05


def test_a_route_without_a_class_that_students_ask_for_is_refused() -> None:
    config = load_config(None, [*SMALL, TWO, *MEMBERS, BY_DOMAIN, "students.a.classes=[LV, LA]"])
    with pytest.raises(
        ConfigError, match=r"teacher.route: clips that go to c would have no LA, which students ask for"
    ):
        check_routes_give(config, {"c": ("background", "LV"), "h": ("background", "LV", "LA")})
    members = [Member("c", Constant(0.2), 1.0), Member("h", Constant(0.8), 1.0)]
    ensemble = Ensemble(members, method="mean_prob", route=dataclasses.replace(config.teacher.route))
    ensemble.members[1].teacher.class_names = ("background", "LV", "LA")
    video = np.zeros((1, 2, 8, 8), np.uint8)
    faults = ensemble.teach(video, [ClipKey("x", 0, 0, route="c")], classes=("LA",), code="probability").faults
    assert faults == {0: "no member that it is routed to gives LA"}


def test_a_gate_sends_the_clips_that_it_is_certain_of_to_one_member() -> None:
    gate = "teacher.route={by: certainty, gate: c, to: {'0.75..': c}, default: h}"
    config = load_config(None, [*SMALL, TWO, *MEMBERS, gate])
    block = make_block(drafting_source(config), range(6), slot_rules(config), actor="s")
    masks = load_member(config, "c").teach(block.video, classes=("LV",)).masks
    values = []
    for mask in masks:  # the entropy of a pixel in bits, by scipy
        lv = mask[mask >= 0.5].astype(np.float64)
        values.append(1 - entropy([lv, 1 - lv], base=2).mean() if len(lv) else 0.0)
    assert 0.0 in values  # a clip in which it finds nothing
    assert list(block.route) == ["c" if value >= 0.75 else "h" for value in values]
    assert set(block.route) == {"c", "h"}
    assert Router(config.teacher.route, lambda: Constant(0.9, bad=(0,)))(clip_of()) == "h"  # it has no mask of it


@pytest.mark.parametrize(
    ("source", "sentence"),
    [([], "got 'x', but source.kind is phantom"), ([TWO], "got 'x', but source.parts has clear, hand")],
)
def test_a_route_of_a_part_that_the_run_does_not_have_is_refused(source: list[str], sentence: str) -> None:
    config = load_config(None, [*SMALL, *source, *MEMBERS, "teacher.route={by: source, to: {x: c}, default: c}"])
    with pytest.raises(ConfigError, match=f"teacher.route.to: {sentence}"):
        check_routed_parts(config)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["teacher.route={by: domain, to: {clear: a}, default: a}"],
            "teacher.route: has no effect if teacher.kind is emb",
        ),
        (
            [*MEMBERS, "teacher.route={by: domain, to: {clear: c}}"],
            "route.default: empty, but teacher.route.by is domain",
        ),
        ([*MEMBERS, "teacher.route={by: domain, default: c}"], "route.to: empty, but teacher.route.by is domain"),
        (
            [*MEMBERS, "teacher.route={by: certainty, to: {0.5..: c}, default: h}"],
            "route.gate: got '', allowed are members",
        ),
        ([*MEMBERS, "teacher.route={by: view, gate: c, to: {A4C: c}, default: h}"], "only certainty has a gate"),
        (
            [
                "source.kind=latent_video",
                *MEMBERS,
                "teacher.route={by: certainty, gate: c, to: {0.5..: c}, default: h}",
            ],
            "a generator makes clips after they are drawn",
        ),
        ([*MEMBERS, "teacher.route={to: {clear: c}}"], "route.by: empty, but teacher.route.to or .default is set"),
        (
            [*MEMBERS, "teacher.route={by: view, to: {A2C: 'c,x'}, default: c}"],
            "route.to.A2C: got 'x', allowed are members",
        ),
        (
            [*MEMBERS, "teacher.route={by: view, to: {A4C: c}, default: x}"],
            "route.default: got 'x', allowed are members",
        ),
        ([*MEMBERS, "teacher.route={by: view, to: {A3C: c}, default: c}"], "got 'A3C', but view is one of A4C, A2C"),
        (
            [*MEMBERS, "teacher.route={by: domain, to: {cleer: c}, default: c}"],
            "got 'cleer', but domain is one of default",
        ),
        (
            [*MEMBERS, "teacher.route={by: ef_percent, to: {low: c}, default: c}"],
            "got 'low', expected a range LOW..HIGH",
        ),
        ([*MEMBERS, "teacher.route={by: ef_percent, to: {5..1: c}, default: c}"], "got '5..1', expected a range"),
        (
            [*MEMBERS, "teacher.route={by: ef_percent, to: {..40: c, 39..: h}, default: c}"],
            "route.to: ..40 and 39.. overlap, a clip has one route",
        ),
    ],
)
def test_routes_that_lead_nowhere_are_one_sentence(options: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, [*SMALL, *options])
