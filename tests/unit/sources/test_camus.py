"""CAMUS's folders as a source of labelled cases, on small folders in its two layouts."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from echodfkd.config.file import config_from_dict, config_to_yaml, load_config
from echodfkd.config.identity import config_hash
from echodfkd.core.errors import ClipError, ConfigError, InputError
from echodfkd.core.records import TRUTH_UNKNOWN
from echodfkd.evaluation.case import ScoringRules, score_case
from echodfkd.evaluation.predictions import Prediction
from echodfkd.sources.build import build_source
from echodfkd.sources.camus import CamusSource
from echodfkd.sources.clip_source import ClipSource, WindowSettings
from echodfkd.sources.video.camus_files import CAMUS_CLASSES, list_patients, read_recording
from echodfkd.sources.video.windows import pad_to_square
from echodfkd.storage.untrusted import parse_yaml
from tests.helpers.camus import (
    half_cycle,
    metaimage_header,
    write_info,
    write_metaimage,
    write_metaimage_patient,
    write_nifti_patient,
)


def source_of(path, **changes):
    shape = {"num_frames": 4, "fps": 0.0, "size": 54, "case_frames": 20} | changes
    window = WindowSettings(shape["num_frames"], shape["fps"], shape["size"], shape["case_frames"])
    return CamusSource(str(path), changes.get("split", "ALL"), changes.get("view", ""), window, seed=3)


@pytest.fixture(scope="module")
def nifti(tmp_path_factory):
    pytest.importorskip("nibabel")
    root = tmp_path_factory.mktemp("camus")
    for number in (1, 2, 3):
        write_nifti_patient(root / "database_nifti", f"patient000{number}")
    (root / "database_split").mkdir()
    (root / "database_split" / "subgroup_testing.txt").write_text("patient0003\npatient0001\n")
    return root


@pytest.fixture
def metaimage(tmp_path):
    write_metaimage_patient(tmp_path, "patient0001")
    write_metaimage_patient(tmp_path, "patient0002", compressed=True)
    return tmp_path


def test_patients_and_splits(nifti):
    assert list_patients(str(nifti), "ALL") == ["patient0001", "patient0002", "patient0003"]
    assert list_patients(str(nifti), "test") == ["patient0001", "patient0003"]
    assert list_patients(str(nifti / "database_nifti"), "TEST") == ["patient0001", "patient0003"]
    with pytest.raises(InputError, match=r"holds no database_split/subgroup_training.txt.* ALL takes every patient"):
        list_patients(str(nifti), "TRAIN")
    with pytest.raises(InputError, match=r"no split 'DEV' \(source.split\); allowed are TRAIN, VAL, TEST, ALL"):
        list_patients(str(nifti), "DEV")


def test_every_labelled_frame_of_a_nifti_recording(nifti):
    video, labels = half_cycle(shift=1)
    found = read_recording(str(nifti), "patient0002", "4CH")
    assert np.array_equal(found.video, video)
    assert np.array_equal(found.labels, labels)
    assert found.spacing_mm == pytest.approx((0.3, 0.6), abs=1e-6)
    assert (found.fps, found.ed_frame, found.es_frame) == (48.0, 0, 8)
    known = found.conditions
    assert (known.ef_percent, known.age_years, known.sex, known.view) == (55.0, 61.0, "F", "A4C")
    assert known.image_quality == 5 / 6


@pytest.mark.parametrize("patient", ["patient0001", "patient0002"])
def test_a_metaimage_recording_has_labels_at_ed_and_es(metaimage, patient):
    video, labels = half_cycle()
    found = read_recording(str(metaimage), patient, "4CH")
    assert np.array_equal(found.video, video)
    assert np.array_equal(found.labels[[0, 8]], labels[[0, 8]])
    assert (found.labels[1:8] == TRUTH_UNKNOWN).all()
    known = found.conditions
    assert (found.fps, known.ef_percent, known.edv_ml, known.esv_ml) == (None, 55.0, 94.4, 42.5)


def test_ed_and_es_alone_where_there_is_no_sequence(metaimage):
    for file in (metaimage / "patient0001").glob("*_sequence.*"):
        file.unlink()
    video, labels = half_cycle()
    found = read_recording(str(metaimage), "patient0001", "4CH")
    assert np.array_equal(found.video, video[[0, 8]])
    assert np.array_equal(found.labels, labels[[0, 8]])
    assert (found.ed_frame, found.es_frame) == (0, 1)


def test_a_case_is_square_in_millimetres_and_keeps_areas(nifti):
    source = source_of(nifti)
    assert isinstance(source, ClipSource)
    assert isinstance(pickle.loads(pickle.dumps(source)), ClipSource)
    assert source.num_cases == 6
    case = source.case(1)
    assert case.clip_id == "camus-patient0001_4CH-s3-case-w0"
    assert (case.video.shape, case.fps, case.domain) == ((9, 54, 54), 48.0, "camus")
    assert case.spacing_mm == pytest.approx(27 / 54, abs=1e-6)  # 90 rows of 0.3 mm are the longer side
    assert (case.ed_frames, case.es_frames, case.class_names) == ((0,), (8,), CAMUS_CLASSES)
    assert (case.truth_labels != TRUTH_UNKNOWN).all()
    area = (case.truth_labels == 1).sum((1, 2)) * case.spacing_mm**2
    ed, es = math.pi * 5.4 * 3.6, math.pi * 5.4 * 3.6 * 0.49
    # Areas of 245 and 120 pixels of 0.25 mm2, whose border pixels err by some 2 %.
    assert area[[0, 8]] == pytest.approx([ed, es], rel=0.04)


def test_a_case_can_be_scored_against_every_frame(nifti):
    case = source_of(nifti).case(0)
    prob = (case.truth_labels == 1).astype(np.float32)
    rows = score_case(Prediction(prob), case, ScoringRules("t"), student="s", step=1)
    found = {row.metric: row for row in rows}
    assert (found["dice_all"].value, found["dice_all"].n) == (1, 9)
    assert found["hd95_es_mm"].value == 0
    assert found["ef_simpson"].value == pytest.approx(100 * (1 - 0.343), abs=4)  # 13 pixels across at ES


def test_resampling_keeps_ed_and_es_and_no_label_between_frames(nifti):
    case = source_of(nifti, fps=32.0, view="2CH").case(0)  # 1.5 frames a sample: 0, 1.5, 3, 4.5, 6, 7.5 -> 8
    assert case.fps == 32.0
    known = (case.truth_labels != TRUTH_UNKNOWN).all(axis=(1, 2))
    assert known.tolist() == [True, False, True, False, True, True]
    assert (case.ed_frames, case.es_frames) == ((0,), (5,))
    _, labels = half_cycle()
    wanted = (labels[8] == 1).sum() * 0.3 * 0.6
    assert (case.truth_labels[5] == 1).sum() * case.spacing_mm**2 == pytest.approx(wanted, rel=0.06)


def test_a_recording_without_a_rate_is_not_resampled(metaimage):
    case = source_of(metaimage, fps=32.0, view="4CH").case(1)
    assert (len(case.video), case.fps) == (9, 50.0)
    assert (case.ed_frames, case.es_frames) == ((0,), (8,))


def test_a_short_stretch_keeps_ed(nifti):
    case = source_of(nifti, case_frames=4).case(0)
    assert (case.ed_frames, case.es_frames, len(case.video)) == ((0,), None, 4)


def test_windows_visit_every_recording_once_an_epoch(nifti):
    source = source_of(nifti)
    clips = [source.clip(index) for index in range(6)]
    assert len({clip.clip_id.split("-")[1] for clip in clips}) == 6
    assert all(clip.video.shape == (4, 54, 54) and clip.truth_labels is None for clip in clips)
    assert source.clip(7).epoch == 1
    with pytest.raises(
        ClipError, match=r"has 9 frames at 48 fps, a training window needs 16 \(window.frames\)"
    ) as caught:
        source_of(nifti, num_frames=16).clip(0)
    assert caught.value.clip_id.startswith("camus-patient")


def test_padding_by_hand():
    frames = np.full((2, 2, 3), 7, np.uint8)
    frames[1] = TRUTH_UNKNOWN
    padded, side = pad_to_square(frames, (1.0, 1.0))
    assert (padded.shape, side) == ((2, 3, 3), 3.0)
    assert padded[0].tolist() == [[7, 7, 7], [7, 7, 7], [0, 0, 0]]
    assert (padded[1] == TRUTH_UNKNOWN).all()
    assert pad_to_square(frames[:1], (1.0, 0.5))[0].shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "patient0001_4CH_ED.raw").unlink(), None),  # not needed beside a sequence
        (lambda f: (f / "patient0001_4CH_sequence.raw").unlink(), "sequence.raw is missing, but its header names it"),
        (lambda f: (f / "patient0001_4CH_sequence.raw").write_bytes(b"x"), "holds 1 bytes of pixels"),
        (lambda f: write_info(f, "4CH", ES=10), r"ES is '10' in Info_4CH\.cfg, expected 1 .. 9"),
        (lambda f: write_info(f, "4CH", ED="x"), r"ED is 'x' in Info_4CH\.cfg, expected 1 .. 9"),
        (lambda f: write_info(f, "4CH", ED=9), "ED and ES are one frame"),
        (lambda f: write_info(f, "4CH", FrameRate=1e6), r"1e\+06 frames a second, expected 1 .. 1000"),
        (lambda f: (f / "Info_4CH.cfg").unlink(), r"4CH: Info_4CH\.cfg is missing, which says the frame of ED"),
        (lambda f: write_info(f, "4CH", ES=None), r"4CH: Info_4CH\.cfg has no line ES, which says the frame of ES"),
        (lambda f: (f / "Info_4CH.cfg").write_bytes(b"ED = 1\n"), "Info_4CH.cfg has no line `key: value`"),
        (
            lambda f: swap(f, "patient0001_4CH"),
            r"its LV has \d+ pixels at ED \(frame 1\) and \d+ at ES \(frame 9\),",
        ),
        (
            lambda f: write_metaimage(f / "patient0001_4CH_ES_gt.mhd", np.zeros((1, 90, 40), np.uint8)),
            r"and 0 at ES \(frame 9\), expected more at ED, and some at ES",
        ),
        (
            lambda f: write_metaimage(f / "patient0001_4CH_sequence.mhd", half_cycle()[1] // 2),
            "its largest grey level is 1, which is black; expected up to 255",
        ),
        (
            lambda f: write_metaimage(f / "patient0001_4CH_ED_gt.mhd", np.full((1, 90, 40), 4, np.uint8)),
            "ED_gt holds the label 4, known are 0 to 3",
        ),
        (
            lambda f: write_metaimage(f / "patient0001_4CH_ED_gt.mhd", np.zeros((1, 80, 40), np.uint8)),
            r"has labels \(1, 80, 40\) for images \(1, 90, 40\)",
        ),
        (
            lambda f: (f / "patient0001_4CH_sequence.mhd").write_text(
                metaimage_header(half_cycle()[0], "patient0001_4CH_sequence.raw", DimSize="99999 99999 9")
            ),
            "allowed are 4194304 pixels",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_under_the_case_s_name(metaimage, spoil, words):
    spoil(metaimage / "patient0001")
    source = source_of(metaimage, view="4CH")
    if words is None:
        source.case(0)
        return
    with pytest.raises(ClipError, match=words) as caught:
        source.case(0)
    assert caught.value.clip_id == "camus-patient0001_4CH-s3-case"


def test_a_link_out_of_the_folder_is_not_followed(metaimage, tmp_path_factory):
    secret = tmp_path_factory.mktemp("secret") / "other.raw"
    secret.write_bytes(half_cycle()[0].tobytes())
    file = metaimage / "patient0001" / "patient0001_4CH_sequence.raw"
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(ClipError, match="a link that leads out of the folder"):
        source_of(metaimage, view="4CH").case(0)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        source_of(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no patients; expected a folder with patient0001"):
        source_of(tmp_path)
    (tmp_path / "patient0001").mkdir()
    with pytest.raises(InputError, match=r"none of the 1 recordings has its files; .*neither a sequence nor images"):
        source_of(tmp_path, view="4CH")
    write_metaimage_patient(tmp_path, "patient0002")
    found = source_of(tmp_path, view="4CH")
    assert found.notes == (
        "recordings with neither a sequence nor images of ED and ES; they are quarantined: 1"
        " (first: patient0001/patient0001_4CH)",
    )
    with pytest.raises(ClipError, match="neither a sequence nor images"):
        found.case(0)
    with pytest.raises(InputError, match=r"case 7 was asked for \(evaluation.cases\)"):
        found.case(7)
    (tmp_path / "patient0002" / "Info_4CH.cfg").unlink()
    with pytest.raises(InputError, match="none of the 2 recordings has its files"):
        source_of(tmp_path, view="4CH")
    write_metaimage_patient(tmp_path, "patient0003")
    (tmp_path / "patient0003" / "Info_4CH.cfg").write_bytes(
        b"\xef\xbb\xbf" + (tmp_path / "patient0003" / "Info_4CH.cfg").read_bytes()
    )
    found = source_of(tmp_path, view="4CH")
    assert found.notes[1].endswith("quarantined: 1 (first: Info_4CH.cfg of patient0002/patient0002_4CH)")
    assert found.case(2).ed_frames == (0,)  # a spreadsheet's mark before the first line does not hide ED


def swap(folder, stem):
    """Exchange the labels of ED and ES."""
    one, two = folder / f"{stem}_ED_gt.raw", folder / f"{stem}_ES_gt.raw"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def test_the_config_names_it(metaimage):
    base = ["students.a.blocks=1", "evaluation.source.kind=camus", f"evaluation.source.path={metaimage}"]
    config = load_config(None, [*base, "evaluation.source.view=4CH", "evaluation.source.split=ALL"])
    assert config_from_dict(parse_yaml(config_to_yaml(config).encode(), "x")) == config
    source = build_source(config.evaluation.source, config.window, seed=0, case_frames=8)
    assert source.num_cases == 2
    assert config_hash(config) != config_hash(load_config(None, [*base, "evaluation.source.split=ALL"]))
    for extra, words in (
        ("evaluation.source.view=A4C", "evaluation.source.view: got 'A4C', allowed are 2CH, 4CH"),
        ("source.view=4CH", "source.view: got '4CH', only camus has views"),
        ("evaluation.source.path=''", "name the folder with the patients"),
        ("evaluation.source.conditions.ef_percent=30", "kind is camus; videos have their own"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(None, [*base, extra])
