import hashlib
import pickle
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echodfkd.core.errors import ClipError, InputError
from echodfkd.core.records import TRUTH_UNKNOWN
from echodfkd.sources.case_grid import case_grid
from echodfkd.sources.clip_source import ClipSource, WindowSettings
from echodfkd.sources.recorded import RecordedSource
from echodfkd.sources.video.echonet import read_file_list, read_tracings, read_video
from echodfkd.sources.video.tracing import tracing_to_mask
from echodfkd.sources.video.windows import resample_positions, resize_labels, resize_video, sample_video
from tests.helpers.echonet import beating_clip, write_echonet_folder, write_small_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("recorded") / "set")
    write_small_folder(root, videos=5, splits=("TRAIN",), size=64, num_frames=40)
    return root


def source_of(path, **changes):
    shape = {"num_frames": 8, "fps": 32.0, "size": 32, "case_frames": 16} | changes
    window = WindowSettings(shape["num_frames"], shape["fps"], shape["size"], shape["case_frames"])
    return RecordedSource(path, changes.get("split", "TRAIN"), window, seed=changes.get("seed", 3))


def video_of(root, name):
    row = next(row for row in read_file_list(root) if row.name == name)
    return read_video(root, row).video


def name_of(clip):
    return clip.clip_id.split("-")[1]


def test_it_is_a_clip_source(folder):
    source = source_of(folder)
    assert isinstance(source, ClipSource)
    assert source.num_cases == 5
    clip = source.clip(0)
    assert (clip.video.shape, clip.video.dtype) == ((8, 32, 32), np.uint8)
    assert (clip.fps, clip.source, clip.domain, clip.truth_labels) == (32.0, "recorded", "echonet", None)
    assert clip.conditions.ef_percent == beating_clip("0XA0").conditions.ef_percent


def test_an_epoch_visits_each_video_once_in_its_own_order(folder):
    clips = [source_of(folder).clip(index) for index in range(15)]
    orders = [[name_of(clip) for clip in clips[5 * epoch : 5 * epoch + 5]] for epoch in range(3)]
    assert all(sorted(order) == [f"0XA{i}" for i in range(5)] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert [clip.epoch for clip in clips] == [0] * 5 + [1] * 5 + [2] * 5
    assert len({clip.clip_id for clip in clips}) == 15
    for clip in clips:
        assert clip.clip_id == f"recorded-{name_of(clip)}-s3-e{clip.epoch}-w{clip.window_start}"


def test_a_window_is_cut_from_the_resampled_video(folder):
    for fps, size in ((32.0, 32), (0.0, 64)):
        clip = source_of(folder, fps=fps, size=size).clip(7)
        video = video_of(folder, name_of(clip))
        whole = sample_video(video, resample_positions(len(video), fps=50.0, target_fps=fps))
        cut = whole[clip.window_start : clip.window_start + 8]
        assert np.array_equal(clip.video, resize_video(cut, size))
        assert clip.fps == (fps or 50.0)


def test_windows_start_at_different_places(folder):
    source = source_of(folder)
    starts = Counter(source.clip(index).window_start for index in range(40))
    assert len(starts) > 8
    assert max(starts) <= 25 - 8  # 40 frames at 50 fps are 25 at 32 fps


def test_another_process_makes_the_same_clips(folder):
    code = (
        "import hashlib, sys; from echodfkd.sources.recorded import RecordedSource;"
        "from echodfkd.sources.clip_source import WindowSettings;"
        "s = RecordedSource(sys.argv[1], 'TRAIN', WindowSettings(8, 32.0, 32, 16), seed=3);"
        "c = [s.clip(i) for i in range(6)];"
        "print([(x.clip_id, hashlib.sha256(x.video).hexdigest()) for x in c]);"
        "print(sorted({'ray', 'deepspeed', 'omegaconf'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    clips = [source_of(folder).clip(index) for index in range(6)]
    here = [(clip.clip_id, hashlib.sha256(clip.video).hexdigest()) for clip in clips]
    assert run.stdout.splitlines() == [str(here), "[]"]


def test_a_pickled_source_is_small_and_equal(folder):
    source = source_of(folder)
    source.case(0)
    data = pickle.dumps(source)
    assert len(data) < 3000
    again = pickle.loads(data)
    assert np.array_equal(again.clip(11).video, source.clip(11).video)
    assert np.array_equal(again.case(1).truth_labels, source.case(1).truth_labels)


@pytest.mark.parametrize("fps", [0.0, 32.0, 30.0, 47.0, 100.0])
def test_truth_lies_on_exactly_the_traced_images(folder, fps):
    case = source_of(folder, fps=fps, size=64, case_frames=40).case(2)
    video, tracings = video_of(folder, "0XA2"), read_tracings(folder)["0XA2"]
    rate = fps or 50.0
    assert case.fps == rate
    assert name_of(case) == "0XA2"
    for sample, frame in ((case.ed_frames[0], 4), (case.es_frames[0], 16)):
        assert np.array_equal(case.video[sample], video[frame])
        assert np.array_equal(case.truth_labels[sample] == 1, tracing_to_mask(tracings[frame], 64, 64))
    # Time between ED and ES: off by at most half a frame of the target rate.
    assert abs((case.es_frames[0] - case.ed_frames[0]) / rate - 12 / 50) <= 0.5 / rate + 1e-9
    annotated = {case.ed_frames[0], case.es_frames[0]}
    for sample, labels in enumerate(case.truth_labels):
        assert set(np.unique(labels)) == ({0, 1} if sample in annotated else {TRUTH_UNKNOWN})


def test_truth_is_resized_with_the_video(folder):
    case = source_of(folder, fps=0.0, size=32, case_frames=40).case(0)
    mask = tracing_to_mask(read_tracings(folder)["0XA0"][4], 64, 64).astype(np.uint8)
    assert np.array_equal(case.truth_labels[4], resize_labels(mask[None], 32)[0])


def test_a_case_covers_both_traced_frames_in_its_middle(folder):
    case = source_of(folder, fps=0.0, case_frames=15).case(0)
    assert len(case.video) == 15
    assert (case.window_start, case.ed_frames, case.es_frames) == (3, (1,), (13,))
    assert case.clip_id == "recorded-0XA0-s3-case-w3"
    whole = source_of(folder, fps=0.0, case_frames=400).case(0)
    assert len(whole.video) == 40


def test_a_case_too_short_for_both_keeps_diastole(folder):
    case = source_of(folder, fps=0.0, case_frames=6).case(0)
    assert len(case.video) == 6
    assert case.es_frames is None
    assert np.array_equal(case.video[case.ed_frames[0]], resize_video(video_of(folder, "0XA0")[4:5], 32)[0])
    assert (case.truth_labels != TRUTH_UNKNOWN).any(axis=(1, 2)).sum() == 1


def test_a_systole_on_the_last_frame_is_kept(tmp_path):
    # 32 fps through frame 1: samples at 1 + 1.5625 k, the last at 21.3125; frame 22 is nearer to it than
    # half a step. Through frame 0 (below): 0, ..., 21.875, and 23 lies 1.1 frames after it.
    for ed_frame, last in ((1, 22), (0, 23)):
        clip = beating_clip("0XL", num_frames=last + 1, period=2 * (last - ed_frame), ed_frame=ed_frame)
        write_echonet_folder(str(tmp_path / str(last)), [clip])
        case = source_of(str(tmp_path / str(last)), case_frames=40, size=64).case(0)
        video = video_of(str(tmp_path / str(last)), "0XL")
        assert np.array_equal(case.video[case.es_frames[0]], video[last])
        gap = (case.es_frames[0] - case.ed_frames[0]) / 32 - (last - ed_frame) / 50
        assert abs(gap) <= 0.5 / 32


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_grid_meets_both_traced_frames(data):
    num_frames = data.draw(st.integers(2, 60))
    ed, es = data.draw(st.lists(st.integers(0, num_frames - 1), min_size=2, max_size=2, unique=True))
    fps, target_fps = data.draw(st.floats(20, 100)), data.draw(st.sampled_from([0.0, 25.0, 32.0, 50.0, 120.0]))
    step = fps / target_fps if target_fps else 1.0
    masks = {ed: np.ones((2, 2), bool), es: np.eye(2, dtype=bool)}
    if abs(ed - es) <= step / 2 + 1e-9:
        return  # both on one sample (a tie may round either way): refused, tested below
    grid = case_grid(masks, num_frames, fps, target_fps, "a.avi")
    assert (grid.positions[grid.ed], grid.positions[grid.es]) == (ed, es)
    assert (grid.traced[grid.ed], grid.traced[grid.es]) == (ed, es)
    assert (np.diff(grid.positions) > 0).all()
    assert grid.positions[0] >= 0
    assert grid.positions[-1] <= num_frames - 1
    # On a regular grid through ED each sample stands where it is, but for ES: at most half a step.
    regular = ed + (np.arange(len(grid.positions)) - grid.ed) * step
    shift = np.abs(grid.positions - regular)
    assert shift[grid.es] <= step / 2 + 1e-6
    assert np.delete(shift, grid.es).max() < 1e-6


def test_systole_before_diastole_is_told_by_area(tmp_path):
    clip = beating_clip("0XR", ed_frame=16)  # the area is smallest at frames 4 and 28
    write_echonet_folder(str(tmp_path / "a"), [clip])
    text = (tmp_path / "a" / "VolumeTracings.csv").read_text().replace(",28\n", ",4\n").replace(",28\r\n", ",4\r\n")
    (tmp_path / "a" / "VolumeTracings.csv").write_text(text)
    case = source_of(str(tmp_path / "a"), fps=0.0, case_frames=40).case(0)
    assert (case.ed_frames, case.es_frames) == ((16,), (4,))


def test_cases_with_one_traced_frame_or_none(tmp_path):
    write_small_folder(str(tmp_path / "a"), videos=2)
    path = tmp_path / "a" / "VolumeTracings.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:22]))  # the header and frame 4 of the first video
    source = source_of(str(tmp_path / "a"), fps=0.0, case_frames=40)
    one, none = source.case(0), source.case(1)
    assert (one.ed_frames, one.es_frames) == (None, None)
    assert np.flatnonzero((one.truth_labels != TRUTH_UNKNOWN).any(axis=(1, 2))).tolist() == [4]
    assert (none.truth_labels, none.ed_frames, none.es_frames) == (None, None, None)


def test_faults_name_the_clip(tmp_path):
    root = tmp_path / "a"
    write_small_folder(str(root), videos=1)
    with pytest.raises(
        ClipError, match=r"^0XA0\.avi has 25 frames at 32 fps, a training window needs 26 \(window.frames\)$"
    ) as caught:
        source_of(str(root), num_frames=26).clip(2)
    assert caught.value.clip_id == "recorded-0XA0-s3-e2"
    assert pickle.loads(pickle.dumps(caught.value)).clip_id == "recorded-0XA0-s3-e2"
    with pytest.raises(ClipError, match=r"traced frames 4 and 16 fall on one frame at 2 fps \(window.fps\)") as caught:
        source_of(str(root), fps=2.0).case(0)
    assert caught.value.clip_id == "recorded-0XA0-s3-case"
    tracings = (root / "VolumeTracings.csv").read_text()
    (root / "VolumeTracings.csv").write_text(tracings.replace(",16\n", ",40\n"))
    with pytest.raises(ClipError, match=r"^0XA0\.avi has a tracing at frame 40, but only 40 frames$"):
        source_of(str(root)).case(0)
    data = (root / "Videos" / "0XA0.avi").read_bytes()
    (root / "Videos" / "0XA0.avi").write_bytes(data[: len(data) // 2])
    with pytest.raises(ClipError, match=r"^0XA0\.avi has \d+ readable frames, its header says 40") as caught:
        source_of(str(root)).clip(0)
    assert caught.value.clip_id == "recorded-0XA0-s3-e0"


def test_the_file_lists_rate_beats_the_headers(tmp_path):
    root = tmp_path / "a"
    write_small_folder(str(root), videos=1)
    path = root / "FileList.csv"
    path.write_text(path.read_text().replace(",50.0,", ",25.0,"))
    assert source_of(str(root), fps=0.0).clip(0).fps == 25.0
    path.write_text(path.read_text().replace(",25.0,", ",,"))
    assert source_of(str(root), fps=0.0).clip(0).fps == 50.0


def test_unusable_settings_say_why(folder, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        source_of(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no video of split 'VAL'"):
        source_of(folder, split="VAL")
    with pytest.raises(InputError, match=r"case 5 was asked for \(evaluation.cases\), .* has 5$"):
        source_of(folder).case(5)


def test_a_folder_on_an_object_store_reads_the_same(folder, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(folder, f"/{tmp_path.name}/set", recursive=True)
    local, remote = source_of(folder), source_of(f"memory://{tmp_path.name}/set")
    assert np.array_equal(remote.clip(4).video, local.clip(4).video)
    assert np.array_equal(remote.case(4).truth_labels, local.case(4).truth_labels)


def test_mp4_files_are_read_too(tmp_path):
    from echodfkd.sources.video.encode import encode_mp4

    root = tmp_path / "a"
    clips = write_small_folder(str(root), videos=1)
    (root / "Videos" / "0XA0.avi").unlink()
    (root / "Videos" / "0XA0.mp4").write_bytes(encode_mp4(clips[0].video, 50.0))
    path = root / "FileList.csv"
    path.write_text(path.read_text().replace("0XA0,", "0XA0.mp4,"))
    clip = source_of(str(root), fps=0.0, size=64, num_frames=40).clip(0)
    assert np.abs(clip.video.astype(int) - clips[0].video).mean() < 2.0  # H.264's loss at CRF 18
    shutil.rmtree(root)
