"""Taught masks that are kept: hits give what a miss gave, and what is damaged or stale is taught again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from echodfkd.config.file import load_config
from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.mask_codes import PROBABILITY
from echodfkd.core.records import VideoClip
from echodfkd.models.teachers.protocol import ClipKey
from echodfkd.runtime.stream.builders import load_teacher, slot_rules, training_source
from echodfkd.teaching.blocks import make_block, teach_block
from echodfkd.teaching.cache import CachedTeacher
from echodfkd.teaching.mask_files import decode_masks, encode_masks
from echodfkd.teaching.recorded import RecordedMasks
from tests.helpers.teachers import FloatTeacher, masks_of

VIDEO = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8), dtype=np.uint8)
KEYS = [ClipKey(f"c{i}", i, 0) for i in range(3)]


class Fake(FloatTeacher):
    """Probability = grey level / 300; NaN for the clip whose first pixel is ``bad``. Counts the clips it was shown."""

    class_names: tuple[str, ...] = ("background", "LV")

    def __init__(self, teacher_id: str = "fake-1", bad: int = -1) -> None:
        self.teacher_id, self.bad, self.shown = teacher_id, bad, 0

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        self.shown += len(video_NTHW)
        prob = video_NTHW.astype(np.float32) / 300
        prob[video_NTHW[:, 0, 0, 0] == self.bad] = np.nan
        return prob


class FakePair(Fake):
    class_names = ("background", "LV", "LA")

    def prob(self, video_NTHW: np.ndarray) -> np.ndarray:
        lv = super().prob(video_NTHW)
        return np.stack([lv, lv / 2], axis=2)


def entries(root: Path) -> list[Path]:
    return sorted(root.rglob("*.parquet"))


@pytest.mark.parametrize("kind", [Fake, FakePair])
def test_a_hit_is_what_the_miss_was(tmp_path: Path, kind: type[Fake]) -> None:
    first = CachedTeacher(kind(), str(tmp_path))
    taught, faults = masks_of(first, VIDEO, KEYS)
    assert (first.counts, faults) == ({"new": 3}, {})
    np.testing.assert_allclose(taught, masks_of(kind(), VIDEO)[0], atol=0.5 / 255 + 1e-6)  # half a level
    second = CachedTeacher(kind(), str(tmp_path))
    again, faults = masks_of(second, VIDEO, KEYS)
    np.testing.assert_array_equal(again, taught)
    assert (second.counts, faults, second.teacher.shown) == ({"hit": 3}, {}, 0)
    assert len(entries(tmp_path)) == 3


def test_only_what_is_missing_is_taught(tmp_path: Path) -> None:
    masks_of(CachedTeacher(Fake(), str(tmp_path)), VIDEO[1:2], KEYS[1:2])
    cached = CachedTeacher(Fake(), str(tmp_path))
    prob, _ = masks_of(cached, VIDEO, KEYS)
    assert (cached.counts, cached.teacher.shown) == ({"hit": 1, "new": 2}, 2)
    np.testing.assert_allclose(prob, masks_of(Fake(), VIDEO)[0], atol=0.5 / 255 + 1e-6)


def test_another_teacher_window_or_clip_has_entries_of_its_own(tmp_path: Path) -> None:
    masks_of(CachedTeacher(Fake(), str(tmp_path)), VIDEO, KEYS)
    for teacher, video, keys in (
        (Fake("fake-2"), VIDEO, KEYS),
        (Fake(), VIDEO, [ClipKey(key.clip_id, key.index, 1) for key in KEYS]),
        (Fake(), VIDEO[:, :3], KEYS),
    ):
        cached = CachedTeacher(teacher, str(tmp_path))
        masks_of(cached, np.ascontiguousarray(video), keys)
        assert cached.counts == {"new": 3}


def test_an_entry_of_other_pixels_is_stale_and_replaced(tmp_path: Path) -> None:
    """A source with other options may give another clip the same id."""
    masks_of(CachedTeacher(Fake(), str(tmp_path)), VIDEO, KEYS)
    changed = VIDEO.copy()
    changed[2, 3, 7, 7] ^= 1
    cached = CachedTeacher(Fake(), str(tmp_path))
    prob, _ = masks_of(cached, changed, KEYS)
    assert cached.counts == {"hit": 2, "stale": 1}
    np.testing.assert_allclose(prob, masks_of(Fake(), changed)[0], atol=0.5 / 255 + 1e-6)
    last = CachedTeacher(Fake(), str(tmp_path))
    masks_of(last, changed, KEYS)
    assert last.counts == {"hit": 3}


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "other", "swapped", "linked"])
def test_a_damaged_entry_is_taught_again_and_replaced(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "cache"
    taught, _ = masks_of(CachedTeacher(Fake(), str(root)), VIDEO, KEYS)
    path, other = entries(root)[:2]
    data = bytearray(path.read_bytes())
    if kind == "cut":
        del data[len(data) // 2 :]
    elif kind == "flipped":
        data[data.index(b"\x28\xb5\x2f\xfd") + 10] ^= 1  # in the compressed mask
    elif kind == "empty":
        data.clear()
    elif kind == "other":
        data[:] = encode_masks(decode_masks(bytes(data), "x") * 2)
    elif kind == "swapped":
        data[:] = other.read_bytes()
    path.write_bytes(data)
    if kind == "linked":
        (tmp_path / "outside").write_bytes(data)
        path.unlink()
        path.symlink_to(tmp_path / "outside")
    cached = CachedTeacher(Fake(), str(root))
    again, faults = masks_of(cached, VIDEO, KEYS)
    np.testing.assert_array_equal(again, taught)
    assert (cached.counts, faults) == ({"hit": 2, "stale" if kind == "swapped" else "damaged": 1}, {})
    last = CachedTeacher(Fake(), str(root))
    masks_of(last, VIDEO, KEYS)
    assert last.counts == {"hit": 3}


def test_a_cache_on_an_object_store_is_a_folder_of_recorded_masks(s3_bucket: str) -> None:
    root = f"s3://{s3_bucket}/cache"
    taught, _ = masks_of(CachedTeacher(FakePair(), root), VIDEO, KEYS)
    again = CachedTeacher(FakePair(), root)
    np.testing.assert_array_equal(masks_of(again, VIDEO, KEYS)[0], taught)
    assert again.counts == {"hit": 3}
    names = {"source_classes": ("LV", "LA"), "class_names": ("background", "LA")}
    recorded = RecordedMasks(root, channels=(1,), place=None, **names)
    prob, faults = masks_of(recorded, VIDEO, [KEYS[2], ClipKey("other", 9, 0), KEYS[0]])
    assert faults == {1: f"{root} holds no mask of other"}
    np.testing.assert_array_equal(prob[[0, 2], :, 0], taught[[2, 0], :, 1])


def test_classes_are_returned_as_they_are_asked_for_from_a_hit_and_from_a_miss(tmp_path: Path) -> None:
    whole, _ = masks_of(FakePair(), VIDEO, code=PROBABILITY)
    cached = CachedTeacher(FakePair(), str(tmp_path))
    for _ in range(2):
        for classes, places in ((("LA",), [1]), (("LA", "LV"), [1, 0])):
            output = cached.teach(VIDEO, KEYS, classes=classes, code=PROBABILITY)
            np.testing.assert_array_equal(output.masks, whole[:, :, places])
    assert cached.counts == {"new": 3, "hit": 9}
    np.testing.assert_array_equal(
        cached.teach(VIDEO, code=PROBABILITY).masks, whole
    )  # clips not known: nothing is kept
    assert sum(cached.counts.values()) == 12


def test_a_mask_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    teacher = Fake(bad=int(VIDEO[1, 0, 0, 0]))
    cached = CachedTeacher(teacher, str(tmp_path))
    prob, faults = masks_of(cached, VIDEO, KEYS)
    assert faults == {1: "the teacher fake-1 gave a mask that is not finite"}
    assert not prob[1].any()
    assert len(entries(tmp_path)) == 2


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"teacher.cache: .*file/x cannot be written"):
        CachedTeacher(Fake(), str(tmp_path / "file" / "x"))


def test_a_full_disk_costs_time_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = CachedTeacher(Fake(), str(tmp_path))

    def full(name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cached._storage, "write", full)
    with pytest.warns(UserWarning, match=r"teacher.cache: an entry could not be written: .*No space left"):
        prob, faults = masks_of(cached, VIDEO, KEYS)
    assert not faults
    assert cached.counts == {"new": 3, "unwritten": 3}
    assert prob.any()


@pytest.mark.parametrize("tasks", ["[]", "[ef, phase]"])
def test_a_run_with_a_cache_teaches_the_same_twice_and_counts_its_hits(tmp_path: Path, tasks: str) -> None:
    options = ["students.a.blocks=2", f"students.a.tasks={tasks}", "window.frames=28", f"teacher.cache={tmp_path}"]
    config = load_config(None, options)
    source, rules = training_source(config), slot_rules(config)
    block = make_block(source, [0, 1, 2], rules, actor="s")
    first, second = (
        teach_block(load_teacher(config, "cpu"), block, lambda: source, rules, actor="t") for _ in range(2)
    )
    again = second.to_columns()
    for name, column in first.to_columns().items():
        if name != "spans":
            np.testing.assert_array_equal(column, again[name])
    plain = load_config(None, options[:-1])
    without = teach_block(load_teacher(plain, "cpu"), block, lambda: source, rules, actor="t")
    np.testing.assert_array_equal(first.teacher_prob, without.teacher_prob)
    cold, warm = first.spans, second.spans
    assert [(s.stage, s.clips) for s in cold] == [("source", 3), ("teacher", 3), ("teacher_uncached", 3)]
    assert [(s.stage, s.clips) for s in warm] == [("source", 3), ("teacher", 3), ("teacher_cache", 3)]
    assert warm[-1].bytes == cold[-1].bytes == sum(path.stat().st_size for path in entries(tmp_path))


def test_a_replaced_clip_is_kept_under_its_own_name(tmp_path: Path) -> None:
    class Source:
        name, num_cases = "fake", None

        def clip(self, index: int) -> VideoClip:
            if index == 5:
                raise ClipError("bad")
            return VideoClip(f"c{index}", index, 0, 0, 0, VIDEO[index % 3], 32.0, "fake", "fake")

        case = clip

    config = load_config(None, ["students.a.blocks=2", "train.steps=1"])
    rules = slot_rules(config)
    rules = type(rules)(3, 4, (4, 8, 8))
    source = Source()
    for _ in range(2):
        cached = CachedTeacher(Fake(bad=int(VIDEO[1, 0, 0, 0])), str(tmp_path))
        block = make_block(source, [0], rules, actor="s")
        batch = teach_block(cached, block, lambda: source, rules, actor="t")
        assert batch.clip_id == ("c0",)
    assert cached.counts == {"hit": 1}
