"""teacher.sees: the teacher gets another rendering of a clip, and its masks lie on the student's frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.evaluated import run_options
from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.config.identity import config_hash
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.sees import SeesConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.mask_codes import decode
from echodfkd.runtime.stream.builders import drafting_source, evaluation_source, slot_rules, training_source
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.sources.video.augment import augment_clip
from echodfkd.storage.files import RunStorage
from echodfkd.storage.ledger import LedgerBuffer
from echodfkd.storage.schemas import LEDGER_SCHEMA, read_part
from echodfkd.teaching.blocks import fuse_block, make_block, member_block, teach_block
from echodfkd.teaching.cache import CachedTeacher
from echodfkd.teaching.clip_block import ClipBlock
from echodfkd.teaching.ensemble import Ensemble, Member
from tests.helpers.echonet import beating_clip, write_echonet_folder, write_small_folder
from tests.helpers.teachers import FloatTeacher

SMALL = ["students={a: {blocks: 2, layers: 1}}", "window.frames=2", "window.size=32", "train.steps=2"]
HANDHELD = [*SMALL, "source.domain=handheld"]


class Ramp(FloatTeacher):
    """A fake whose probability is the place of the pixel's centre along the row; it keeps what it is shown."""

    class_names = ("background", "LV")

    def __init__(self, bad: int = -1, name: str = "ramp") -> None:
        self.teacher_id, self.bad = name, bad
        self.shown: list[np.ndarray] = []
        self.ids: list[str] = []

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        self.shown.append(video_NTHW)
        place = (np.arange(video_NTHW.shape[3], dtype=np.float32) + 0.5) / video_NTHW.shape[3]
        return np.broadcast_to(place, video_NTHW.shape).copy()

    def lost_rows(self, clips):  # type: ignore[no-untyped-def]
        self.ids += [clip.clip_id for clip in clips]
        return {row: "lost" for row, clip in enumerate(clips) if clip.index == self.bad}


def block_of(config: RunConfig, slots: range = range(2)) -> ClipBlock:
    return make_block(drafting_source(config), slots, slot_rules(config), actor="s")


@pytest.mark.parametrize(
    ("domain", "sees"),
    [
        ("handheld", SeesConfig(domain="clear")),
        ("handheld", SeesConfig(domain="default", noise=False, dropout=False)),
        ("clear", SeesConfig(domain="handheld", size=96)),
        ("default", SeesConfig(noise=False, size=96)),
        ("wild", SeesConfig(size=96)),
    ],
)
def test_both_renderings_show_every_tissue_at_the_same_place(domain: str, sees: SeesConfig) -> None:
    own = default_phantom(seed=3, num_frames=2, fps=24.0, size=32, case_frames=4, domain=domain)
    other = own.seen_as(sees)
    for index in range(3):
        mine, seen = own.clip(index), other.clip(index)
        times = len(seen.video[0]) // 32
        # of three pixels in place of one, the middle one has its centre; float32 decides on a border
        labels = seen.truth_labels[:, times // 2 :: times, times // 2 :: times]
        assert np.mean(labels != mine.truth_labels) <= (0 if times == 1 else 0.002)
        assert (mine.conditions, mine.ed_frames, mine.es_frames) == (seen.conditions, seen.ed_frames, seen.es_frames)
        assert seen.spacing_mm * times == pytest.approx(mine.spacing_mm)
        assert not np.array_equal(seen.video[:, ::times, ::times], mine.video)


def test_noise_and_dropout_are_left_out() -> None:
    own = default_phantom(seed=0, num_frames=6, fps=400.0, size=32, case_frames=4, domain="handheld")
    quiet, whole = own.seen_as(SeesConfig(noise=False)), own.seen_as(SeesConfig(dropout=False))
    flicker, wall = np.zeros(2), np.zeros(2)
    for index in range(6):
        clips = [source.clip(index) for source in (own, quiet, whole)]
        blood = clips[0].truth_labels[0] == 1
        flicker += [np.abs(np.diff(clip.video[:, blood].astype(float), axis=0)).mean() for clip in clips[:2]]
        muscle = clips[0].truth_labels == clips[0].class_names.index("myocardium")
        wall += [clip.video[muscle].mean() for clip in (clips[0], clips[2])]
    assert flicker[1] < 0.3 * flicker[0]  # 2.5 ms from frame to frame: tissue hardly moves, noise is new
    assert wall[1] > 1.2 * wall[0]


def test_masks_are_those_of_the_larger_frame_at_the_students_pixels() -> None:
    config = load_config(None, [*HANDHELD, "teacher.sees={domain: clear, size: 80}"])
    block, teacher, rules = block_of(config), Ramp(), slot_rules(config)
    batch = teach_block(teacher, block, lambda: training_source(config), rules, actor="t")
    assert [video.shape for video in teacher.shown] == [(2, 2, 80, 80)]
    plain = load_config(None, HANDHELD)
    np.testing.assert_array_equal(batch.video, block_of(plain).video)  # the student's clip stays as it was
    clear = default_phantom(seed=0, num_frames=2, fps=config.window.fps, size=80, case_frames=4, domain="handheld")
    np.testing.assert_array_equal(teacher.shown[0][1], clear.seen_as(config.teacher.sees).clip(1).video)
    expected = np.broadcast_to((np.arange(32) + 0.5) / 32, (2, 2, 1, 32, 32))  # a ramp is resized without error
    np.testing.assert_allclose(decode(batch.teacher_prob)[..., 2:-2], expected[..., 2:-2], atol=2.1 / 255)


@pytest.mark.parametrize("code", ["probability", "logit"])
def test_an_ensemble_in_pools_and_in_one_process_agrees_on_what_it_sees(code: str) -> None:
    config = load_config(None, [*HANDHELD, "teacher.sees={domain: clear, size: 48}", f"teacher.mask_code={code}"])
    rules = dataclasses.replace(slot_rules(config), confidence=True)
    ensemble = Ensemble([Member("a", Ramp(), 1.0), Member("b", Ramp(name="b"), 2.0)], method="mean_prob", code=code)
    source = lambda: training_source(config)  # noqa: E731
    one = teach_block(ensemble, block_of(config), source, rules, actor="t")
    block = block_of(config)
    for member in ensemble.members:
        columns = member_block(member.name, member.teacher, block, rules, actor="t").to_columns()
        block = ClipBlock.from_columns(columns)
    known = ensemble.teacher_id
    many = fuse_block(ensemble.fusion, block, lambda: ensemble, source, rules, actor="t", teacher_id=known)
    assert one.teacher_prob.shape == (2, 2, 1, 32, 32)
    for name in ("teacher_prob", "teacher_confidence", "video"):
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
    assert one.seen_id == many.seen_id == tuple(f"{name}+clear-48px" for name in one.clip_id)


def test_a_replacement_is_taught_by_its_own_rendering_and_the_ledger_names_both(tmp_path: Path) -> None:
    config = load_config(None, [*HANDHELD, "teacher.sees.domain=clear"])
    teacher, source = Ramp(bad=1), training_source(config)
    batch = teach_block(teacher, block_of(config), lambda: source, slot_rules(config), actor="t")
    replaced = 1 + config.plan_slots
    assert (list(batch.index), [row.index for row in batch.quarantined]) == ([0, replaced], [1])
    np.testing.assert_array_equal(teacher.shown[1][0], source.clip(replaced).seen_video)
    names = [f"phantom-handheld-s0-i{index}-e0-w0" for index in (0, 1, replaced)]
    assert teacher.ids == [f"{name}+clear" for name in names]
    storage = RunStorage(str(tmp_path))
    buffer = LedgerBuffer(storage, rank=0, attempt="a")
    buffer.add_trained(batch, 1)
    (part,) = buffer.flush(1, ["ledger"])["ledger"]
    rows = read_part(storage, part, LEDGER_SCHEMA).to_pylist()
    assert [(row["clip_id"], row["seen_id"]) for row in rows] == [(n, f"{n}+clear") for n in (names[0], names[2])]


def test_a_slot_without_a_clip_keeps_the_columns_of_the_stream() -> None:
    config = load_config(None, [*HANDHELD, "teacher.sees.size=48", "data.max_attempts=1"])
    usual = block_of(config).to_columns()
    rules = dataclasses.replace(slot_rules(config), rejects=lambda video: "no")
    faulty = make_block(drafting_source(config), range(2), rules, actor="s")
    assert faulty.fault
    columns = faulty.to_columns()
    assert {name: (c.shape, c.dtype) for name, c in columns.items()} == {
        n: (c.shape, c.dtype) for n, c in usual.items()
    }


def test_the_students_clip_may_be_augmented_after_the_teacher_and_masks_move_with_it() -> None:
    geometry = ["augment={where: after_teacher, rotate_deg: 20, gain: 0.3}"]
    sees = [*HANDHELD, "teacher.sees={domain: clear, size: 64}"]
    still, moved = (load_config(None, [*sees, *more]) for more in ([], geometry))
    teachers = [Ramp(), Ramp()]
    plain, batch = (
        teach_block(teacher, block_of(config), lambda: training_source(still), slot_rules(config), actor="t")
        for teacher, config in zip(teachers, (still, moved), strict=True)
    )
    np.testing.assert_array_equal(teachers[0].shown[0], teachers[1].shown[0])  # the teacher saw it before
    for row in range(2):
        video, masks = augment_clip(
            plain.video[row], decode(plain.teacher_prob[row]), moved.augment, seed=0, index=row, epoch=0
        )
        np.testing.assert_array_equal(batch.video[row], video)
        np.testing.assert_allclose(decode(batch.teacher_prob[row]), masks, atol=0.51 / 255)


def test_a_cache_keeps_what_was_seen_apart_from_the_clip(tmp_path: Path) -> None:
    plain, other = (load_config(None, [*HANDHELD, *more]) for more in ([], ["teacher.sees.domain=clear"]))
    for config, counts in ((plain, {"new": 2}), (other, {"new": 2}), (other, {"hit": 2}), (plain, {"hit": 2})):
        teacher = CachedTeacher(Ramp(), str(tmp_path))
        teach_block(teacher, block_of(config), lambda: training_source(plain), slot_rules(config), actor="t")
        assert teacher.counts == counts


def test_without_it_nothing_changes() -> None:
    plain, off = load_config(None, HANDHELD), load_config(None, [*HANDHELD, "teacher.sees={domain: '', size: 0}"])
    assert config_hash(plain) == config_hash(off) != config_hash(load_config(None, [*HANDHELD, "teacher.sees.size=64"]))
    block = block_of(plain)
    assert (block.seen_video, block.seen_id, "seen_video" in block.to_columns()) == (None, ("", ""), False)
    seen = load_config(None, [*HANDHELD, "teacher.sees.domain=clear"])
    case, same = evaluation_source(plain).case(0), evaluation_source(seen).case(0)
    assert (same.clip_id, same.seen_video) == (case.clip_id, None)
    np.testing.assert_array_equal(case.video, same.video)


def recorded(root: Path, *more: str) -> RunConfig:
    source = ["source.kind=recorded", f"source.path={root / 'own'}", "window.fps=32", "evaluation.enabled=false"]
    return load_config(None, [*SMALL, *source, *more])


def test_recorded_videos_are_paired_by_name(tmp_path: Path) -> None:
    clips = write_small_folder(str(tmp_path / "own"), videos=3, size=32)
    bright = [dataclasses.replace(clip, video=255 - clip.video) for clip in reversed(clips)]
    write_echonet_folder(str(tmp_path / "clean"), bright, split="TEST")
    config = recorded(tmp_path, f"teacher.sees={{path: {tmp_path / 'clean'}, size: 64}}")
    source = training_source(config)
    for index in range(6):
        clip = source.clip(index)
        assert clip.seen_id == f"{clip.clip_id}+clean-64px"
        shrunk = clip.seen_video.reshape(2, 32, 2, 32, 2).mean((2, 4))  # type: ignore[union-attr]
        inner = np.s_[:, 2:-2, 2:-2]
        assert np.abs(shrunk[inner] + clip.video[inner] - 255.0).mean() < 6  # of the same video at the same time
    larger = training_source(recorded(tmp_path, "teacher.sees.size=64")).clip(0)
    assert larger.seen_video.shape == (2, 64, 64)  # type: ignore[union-attr]


def test_a_recording_without_its_pair_is_refused_and_one_of_another_length_quarantined(tmp_path: Path) -> None:
    clips = write_small_folder(str(tmp_path / "own"), videos=2, size=32)
    write_echonet_folder(str(tmp_path / "less"), clips[:1])
    with pytest.raises(InputError, match=r"teacher.sees.path: .*/less has no video of the name of 1 of 2 .*'0XA1'"):
        training_source(recorded(tmp_path, f"teacher.sees.path={tmp_path / 'less'}"))
    write_echonet_folder(str(tmp_path / "long"), [clips[0], beating_clip("0XA1", num_frames=41, size=32)])
    block = block_of(recorded(tmp_path, f"teacher.sees.path={tmp_path / 'long'}"))
    (row,) = {row.clip_id: row for row in block.quarantined}.values()
    assert row.clip_id.startswith("recorded-0XA1-")
    assert "has 41 frames of 32 x 32 at 50 fps, the student's has 40 of 32 x 32 at 50" in row.reason


def test_an_evaluation_of_the_run_takes_its_teacher_without_the_rendering(tmp_path: Path) -> None:
    config = recorded(tmp_path, f"teacher={{kind: embedded_chambers, sees: {{path: {tmp_path / 'clean'}}}}}")
    RunStorage(str(tmp_path / "run")).write("config.yaml", config_to_yaml(config).encode())
    teacher = run_options({"evaluate": {"run": str(tmp_path / "run")}})["teacher"]
    assert teacher["kind"] == "embedded_chambers"
    assert "sees" not in teacher


RECORDED = ["source.kind=recorded", "source.path=here"]
ONNX = ["teacher.kind=recorded", "teacher.weights=here"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([*RECORDED, "teacher.sees.domain=clear"], "sees.domain: only the phantom has it, but source.kind is recorded"),
        (["source.domain=wild", "teacher.sees.noise=false"], "sees.noise: source.domain is wild, whose hearts"),
        (
            ["source.kind=latent_video", "teacher.sees.size=64"],
            "a clip of a generator has one rendering, but source.kind",
        ),
        (["teacher.sees.path=there"], "sees.path: pairs the videos of a recorded source by name, but source.kind is"),
        (
            [*RECORDED, "teacher.sees={path: x, noise: false}"],
            "sees.path: got a folder, but teacher.sees has options of",
        ),
        ([*ONNX, "teacher.sees.domain=clear"], "teacher.sees: has no effect on masks of kind recorded,"),
        (["teacher.sees.view=A2C"], "sees.view: unknown option; .*; another view is another cut through the heart, so"),
        (["augment.gain=0.1", "teacher.sees.size=64"], "but augment.where is before_teacher"),
        (["teacher.feature_layer=up.0", "teacher.sees.size=64"], "sees.size: got 64, but teacher.feature_layer is set"),
        (
            [
                "source={kind: mixture, parts: {a: {}, b: {kind: folder, path: x}}}",
                "teacher.sees.domain=clear",
            ],
            "sees.domain: only the phantom has it, but source.parts.b.kind is folder",
        ),
    ],
)
def test_a_rendering_that_cannot_be_had_is_one_sentence(options: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, [*SMALL, *options])


def test_a_mixture_shows_the_rendering_of_each_part() -> None:
    parts = "source={kind: mixture, parts: {clear: {domain: clear}, hand: {domain: handheld}}}"
    source = training_source(load_config(None, [*SMALL, parts, "teacher.sees.domain=clear"]))
    clips = {clip.source: clip for clip in map(source.clip, range(2))}
    np.testing.assert_array_equal(clips["clear"].video, clips["clear"].seen_video)
    assert np.abs(clips["hand"].video.astype(float) - clips["hand"].seen_video).mean() > 5
    assert clips["hand"].seen_id == f"{clips['hand'].clip_id}+clear"
