"""The control of a study: students that are taught by the truth of their clips, and clips that come again."""

from __future__ import annotations

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.mask_codes import decode
from echodfkd.core.records import TRUTH_UNKNOWN, VideoClip
from echodfkd.evaluation.scorer import CaseScorer
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.teaching.labels import LabelTeacher
from tests.helpers.echonet import beating_clip, write_small_folder

RUN = [
    *("teacher.kind=labels", "window.size=16", "window.frames=4", "train.global_batch=2", "train.steps=3"),
    *("students.a={blocks: 1, layers: 1, filters: 2, classes: [LV, LA]}", "evaluation.cases=1", "evaluation.frames=8"),
]


@pytest.mark.parametrize("source", [["source.domain=wild"], ["source.clips=3"]])
def test_masks_are_the_clips_own_labels(source: list[str]) -> None:
    config = load_config(None, [*RUN, *source])
    drawn, rules = training_source(config), slot_rules(config)
    block = make_block(drawn, range(2, 6), rules, actor="source")
    batch = teach_block(load_teacher(config), block, lambda: drawn, rules, actor="teacher")
    assert not batch.quarantined
    for row, slot in enumerate(range(2, 6)):
        clip = drawn.clip(slot)
        assert np.array_equal(batch.video[row], clip.video)
        for place, name in enumerate(("LV", "LA")):
            truth = clip.truth_labels == clip.class_names.index(name)
            assert truth.any() or name == "LA"  # which may lie outside of a wild frame
            assert np.array_equal(decode(batch.teacher_prob[row, :, place]), truth.astype(np.float32))


def test_clips_of_a_small_set_come_again_and_are_known_by_their_epoch() -> None:
    config = load_config(None, [*RUN, "source.clips=3"])
    endless, few = training_source(load_config(None, RUN)), training_source(config)
    for index in range(7):
        clip, wanted = few.clip(index), endless.clip(index % 3)
        assert np.array_equal(clip.video, wanted.video)
        assert (clip.clip_id, clip.epoch) == (wanted.clip_id, index // 3)
    assert few.case(5).clip_id == endless.case(5).clip_id


def test_the_control_itself_scores_as_the_truth() -> None:
    scorer = CaseScorer(load_config(None, [*RUN, "evaluation.judge=none"]), "cpu", classes=("LV",))
    rows = scorer.score(0, [], teacher=True).scores
    assert {row.value for row in rows if row.metric in ("dice_all", "dice_ed", "dice_es")} == {1.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"truth_labels": None}, "has no labels, and teacher.kind=labels teaches nothing else"),
        ({"truth_labels": "first"}, "has labels in 1 of its 40 frames, not in all"),
        ({}, "has labels of LV, not of LA"),
    ],
)
def test_a_clip_without_whole_labels_is_at_fault(change: dict[str, object], words: str) -> None:
    clip = beating_clip("0XA", size=16)
    if change.get("truth_labels") == "first":
        labels = np.full_like(clip.truth_labels, TRUTH_UNKNOWN)
        labels[0] = 1
        change = {"truth_labels": labels}
    clip = VideoClip(**{**vars(clip), **change})  # type: ignore[arg-type]
    teacher = LabelTeacher(lambda key: clip)
    output = teacher.teach(clip.video[None], [ClipKey("0XA", 0, 0)], classes=("LV", "LA"))
    assert words in output.faults[0]
    assert not output.masks.any()
    assert "these have no ids" in teacher.teach(clip.video[None]).faults[0]


def test_a_folder_with_two_traced_frames_is_no_control(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """EchoNet-Dynamic traces two frames of a video: each window is quarantined with this reason."""
    write_small_folder(str(tmp_path), size=16)
    options = ["source.kind=recorded", f"source.path={tmp_path}", "students.a.classes=[LV]", "data.max_attempts=1"]
    config = load_config(None, [*RUN, *options])
    source, rules = training_source(config), slot_rules(config)
    block = make_block(source, range(2), rules, actor="source")
    batch = teach_block(load_teacher(config), block, lambda: source, rules, actor="teacher")
    assert "labels in" in batch.fault or "has no labels" in batch.fault


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["teacher.cache=masks"], "teacher.cache: has no use if teacher.kind is labels"),
        (["teacher.weights=a.pt"], "teacher.weights: has no effect if teacher.kind is labels"),
        (["teacher.sees.domain=clear"], "teacher.sees: has no effect on masks of kind labels, which see no pixels"),
        (["augment.where=before_teacher", "augment.gain=0.2"], "the masks of teacher.kind=labels belong to the videos"),
        (["serve.port=8443"], "teacher.kind: got 'labels', which cannot be served: its masks are found by clip"),
        (["evaluation.source.clips=3"], "evaluation.source.clips: set, but held-out cases are evaluation.cases"),
        (
            ["source.clips=3", "source.kind=latent_video"],
            "source.clips: got 3, but a generator's actors make each clip",
        ),
        (["source.clips=3", "source.steering.strata={ef_percent: [40]}"], "but source.steering.strata is set"),
        (["source.clips=3", "synthesize.out=there"], "but synthesize.out is set, whose clips are synthesize.clips"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(options: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*RUN, *options])
    assert words in str(caught.value)


def test_a_command_without_clips_of_its_own_has_no_labels() -> None:
    from echodfkd.teaching.build import build_configured_teacher

    config = load_config(None, RUN)
    with pytest.raises(
        (ConfigError, InputError), match="labels are those of a run's own clips, and this command has none"
    ):
        build_configured_teacher(config.teacher, device="cpu")
