"""The embedded phantom as a source: pure, labelled, true to its conditions, and not to be had by a threshold."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from echodfkd.config.sections.source import ChoiceSpec, ConditionsConfig, ConditionSpec
from echodfkd.core.errors import ConfigError
from echodfkd.core.records import VideoClip
from echodfkd.sources.clip_source import ClipSource, WindowSettings
from echodfkd.sources.patients.sampler import ConditionSampler
from echodfkd.sources.phantom.chambers import PHANTOM_CLASSES
from echodfkd.sources.phantom.domains import DOMAINS
from echodfkd.sources.phantom.renderer import PhantomRenderer
from echodfkd.sources.phantom.source import PhantomSource, default_phantom
from tests.benchmarks.phantom_proofs import best_threshold_dice


def make_source(
    seed: int = 0, size: int = 56, frames: int = 16, fps: float = 32.0, case_frames: int = 48, domain: str = "default"
) -> PhantomSource:
    return default_phantom(seed=seed, num_frames=frames, fps=fps, size=size, case_frames=case_frames, domain=domain)


@pytest.fixture(scope="module")
def cases() -> list[VideoClip]:
    source = make_source(seed=5, case_frames=50)  # 1.56 s: a beat at 40 per minute
    return [source.case(index) for index in range(24)]


def digest(clip: VideoClip) -> str:
    content = hashlib.sha256(clip.video.tobytes() + clip.truth_labels.tobytes())
    content.update(repr((clip.clip_id, clip.conditions, clip.fps, clip.ed_frames, clip.es_frames)).encode())
    return content.hexdigest()


def test_is_a_clip_source_with_the_documented_records() -> None:
    source = make_source(seed=3)
    assert isinstance(source, ClipSource)
    assert source.num_cases is None
    clip, case = source.clip(17), source.case(17)
    assert clip.clip_id == "phantom-default-s3-i17-e0-w0"
    assert case.clip_id == "phantom-default-s3-case17-e0-w0"
    assert clip.video.shape == clip.truth_labels.shape == (16, 56, 56)
    assert case.video.shape == case.truth_labels.shape == (48, 56, 56)
    assert clip.video.dtype == clip.truth_labels.dtype == np.uint8
    assert (clip.index, clip.seed, clip.epoch, clip.window_start, clip.fps) == (17, 3, 0, 0, 32.0)
    assert (clip.class_names, clip.domain) == (PHANTOM_CLASSES, "default")
    assert clip.conditions == ConditionSampler(ConditionsConfig(), seed=3).draw(17).conditions
    assert clip.conditions != case.conditions


def test_same_clip_again_and_in_another_process() -> None:
    source = make_source(seed=11)
    first = [digest(source.clip(index)) for index in (4, 0)] + [digest(source.case(4))]
    again = [digest(make_source(seed=11).clip(index)) for index in (4, 0)] + [digest(source.case(4))]
    assert first == again
    code = (
        "import sys; import tests.unit.sources.test_phantom as t; s = t.make_source(seed=11);"
        "print(t.digest(s.clip(4)), t.digest(s.clip(0)), t.digest(s.case(4)))"
    )
    root = __file__.rsplit("/tests/", 1)[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == first


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_same_clip_alone_in_a_batch_and_on_more_threads(domain: str) -> None:
    source = make_source(seed=2, domain=domain, frames=5)
    patients = [source.patient(index)[0] for index in range(4)]
    renderer = PhantomRenderer("cpu", domain=DOMAINS[domain], size=56)
    batch = renderer.render(patients, num_frames=5)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        for index in range(4):
            clip = source.clip(index)
            assert np.array_equal(batch.video[index].numpy(), clip.video)
            assert np.array_equal(batch.labels[index].numpy(), clip.truth_labels)
            assert batch.ed_frames[index] == clip.ed_frames
    finally:
        torch.set_num_threads(threads)


def test_all_clips_at_once_are_the_clips_one_by_one() -> None:
    """The way of a GPU, taken on a CPU. Vectors end elsewhere, so that last digits, and few grey levels, may differ."""
    patients = [make_source(seed=2).patient(index)[0] for index in range(6)]
    renderer = PhantomRenderer("cpu", domain=DOMAINS["handheld"], size=50)
    single = renderer.render(patients, num_frames=3)
    at_once = renderer._render(patients, 3, True, False)
    assert torch.equal(single.labels, at_once.labels)
    assert (single.video.float() - at_once.video.float()).abs().mean() < 0.01
    assert single.ed_frames == at_once.ed_frames


def test_seeds_indices_and_domains_draw_different_images() -> None:
    drawn = {make_source(seed=seed).clip(index).video.tobytes() for seed in (0, 1) for index in (0, 1)}
    drawn |= {make_source(domain=domain).clip(0).video.tobytes() for domain in ("clear", "handheld")}
    assert len(drawn) == 6


def test_a_domain_changes_the_image_and_not_the_patient() -> None:
    renderers = [PhantomRenderer("cpu", domain=domain, size=56) for domain in DOMAINS.values()]
    patient = make_source().patient(3)[0]
    found = [renderer.render([patient], num_frames=6) for renderer in renderers]
    for other in found[1:]:
        assert torch.equal(found[0].volume_ml, other.volume_ml)
        assert torch.equal(found[0].length_mm, other.length_mm)
        assert not torch.equal(found[0].video, other.video)
    assert {make_source(domain=name).clip(3).conditions for name in DOMAINS} == {patient.conditions}
    assert len({make_source(domain=name).clip(3).clip_id for name in DOMAINS}) == len(DOMAINS)


def test_conditions_and_weights_pass_through() -> None:
    config = ConditionsConfig(ef_percent=ConditionSpec(value=30.0), view=ChoiceSpec(value="A2C"))
    sampler = ConditionSampler(config, seed=4)
    window = WindowSettings(frames=2, fps=0.0, size=56, case_frames=4)
    clip = PhantomSource(sampler, window, seed=4, domain="clear").clip(0)
    draw = sampler.draw(0)
    assert (clip.conditions, clip.fps, clip.sample_weight) == (draw.conditions, draw.fps, draw.sample_weight)
    assert clip.conditions.ef_percent == 30.0
    assert set(np.unique(clip.truth_labels)) == {0, 1, 2, 3}  # no right heart in a two-chamber view


def test_truth_labels_and_their_size_are_plausible(cases: list[VideoClip]) -> None:
    for case in cases:
        assert set(np.unique(case.truth_labels)) <= set(range(6))
        share = (case.truth_labels == 1).mean((1, 2))
        assert share.min() > 0.01
        assert share.max() < 0.3
        border = np.concatenate([case.truth_labels[:, [0, -1]].ravel(), case.truth_labels[:, :, [0, -1]].ravel()])
        assert not (border == 1).any()
    four = [case for case in cases if case.conditions.view == "A4C"]
    assert len(four) > 8
    for case in four:  # left of the image: RV; below: atria
        row, column = (
            {k: np.argwhere(case.truth_labels[0] == k).mean(0)[axis] for k in range(1, 5)} for axis in (0, 1)
        )
        assert column[4] < column[1]
        assert row[3] > row[1]


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_no_threshold_finds_the_ventricle(domain: str) -> None:
    """All 256 thresholds, both polarities, over the set and for each case by itself."""
    source = make_source(seed=5, frames=4, fps=4.0, domain=domain)
    clips = [source.clip(index) for index in range(40)]
    video = np.stack([clip.video for clip in clips])
    truth = np.stack([clip.truth_labels for clip in clips]) == 1
    assert best_threshold_dice(video, truth) <= 0.5
    assert max(map(best_threshold_dice, video, truth)) <= 0.5


def test_ed_and_es_frames_are_where_the_area_turns(cases: list[VideoClip]) -> None:
    """A case lasts a beat, so that it holds both; breathing and the pixel grid leave a few per cent of area."""
    for case in cases:
        area = (case.truth_labels == 1).sum((1, 2)).astype(float)
        assert case.ed_frames
        assert case.es_frames
        slack = 0.05 * area.max()
        assert all(area[frame] >= area.max() - slack for frame in case.ed_frames)
        assert all(area[frame] <= area.min() + slack for frame in case.es_frames)


def test_windows_without_an_event_say_so() -> None:
    source = make_source(frames=4)
    clips = [source.clip(index) for index in range(20)]
    assert any(clip.ed_frames == () and clip.es_frames == () for clip in clips)
    assert any(clip.ed_frames or clip.es_frames for clip in clips)
    for clip in clips:
        assert all(0 <= frame < 4 for frame in (*clip.ed_frames, *clip.es_frames))


def test_short_cases_begin_at_end_diastole() -> None:
    source = make_source(case_frames=18)  # 0.53 s: less than a beat at 110 per minute
    for case in map(source.case, range(12)):
        assert case.ed_frames
        assert case.es_frames
        assert case.ed_frames[0] < case.es_frames[0]


def test_area_change_follows_ejection_fraction(cases: list[VideoClip]) -> None:
    """Fractional area change rises with EF: rank correlation, since shape and pixels add scatter."""
    ef = [case.conditions.ef_percent for case in cases]
    change = []
    for case in cases:
        area = (case.truth_labels == 1).sum((1, 2)).astype(float)
        change.append(1.0 - area[list(case.es_frames)].mean() / area[list(case.ed_frames)].mean())
    ranks = np.argsort(np.argsort(ef)), np.argsort(np.argsort(change))
    assert np.corrcoef(*ranks)[0, 1] > 0.95


@pytest.mark.parametrize("size", [48, 50, 64, 112, 128])
def test_sizes_show_the_same_heart(size: int) -> None:
    clip, small = make_source(size=size, frames=2).clip(1), make_source(size=56, frames=2).clip(1)
    assert clip.video.shape == (2, size, size)
    assert clip.spacing_mm * size == pytest.approx(small.spacing_mm * 56)
    area = [(c.truth_labels == 1).sum() * c.spacing_mm**2 for c in (clip, small)]
    assert area[0] == pytest.approx(area[1], rel=0.03)
    assert clip.conditions == small.conditions


def test_pixel_statistics_of_the_default_mixture() -> None:
    """Within 15 % of EchoNet-Dynamic's published mean 32 and deviation 50."""
    source = make_source(seed=123, size=112, frames=2, fps=2.0)
    video = np.stack([source.clip(index).video for index in range(80)])
    assert video.mean() == pytest.approx(32, rel=0.15)
    assert video.std() == pytest.approx(50, rel=0.15)


def test_cavity_is_darker_than_its_wall_and_the_corners_are_dark() -> None:
    for domain in DOMAINS:
        source = make_source(seed=5, frames=2, fps=2.0, size=112, domain=domain)
        clips = [source.clip(index) for index in range(12)]
        video = np.stack([clip.video for clip in clips])
        labels = np.stack([clip.truth_labels for clip in clips])
        assert video[labels == 2].mean() > 1.8 * video[labels == 1].mean()
        plain = np.median(video[:, :, :4, :4])  # text may stand in a corner
        assert plain <= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 8}, "window.size: got 8, the phantom needs at least 16"),
        ({"seed": -1}, "seed: got -1"),
        ({"frames": -1}, "window.frames: got -1"),
        ({"fps": -1.0}, "window.fps: got -1.0"),
        ({"case_frames": 0}, "evaluation.frames: got 0"),
        ({"domain": "mri"}, "source.domain: got 'mri', the phantom has default, clear, handheld"),
    ],
)
def test_impossible_settings_are_named(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_source(**change)


def test_a_heart_rate_changes_the_pace_and_nothing_else() -> None:
    source = make_source(seed=8)
    patient = source.patient(0)[0]
    slow, fast = (
        replace(patient, conditions=replace(patient.conditions, heart_rate_bpm=rate), start_phase=0.0)
        for rate in (50.0, 100.0)
    )
    found = source._renderer.render([slow, fast], num_frames=50)
    assert found.volume_ml[0, 0] == found.volume_ml[1, 0]
    assert found.phase[1, 10] == pytest.approx(2 * float(found.phase[0, 10]))


def test_without_a_length_each_clip_has_the_one_its_patient_was_recorded_with() -> None:
    sampler = ConditionSampler(ConditionsConfig(), seed=5)
    window = WindowSettings(frames=0, fps=0.0, size=16, case_frames=8)
    source = PhantomSource(sampler, window, seed=5, domain="default")
    drawn = [sampler.draw(index).num_frames for index in range(3)]
    assert [len(source.clip(index).video) for index in range(3)] == drawn
    assert len(set(drawn)) == 3
