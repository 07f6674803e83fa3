"""The phantom's claims on anatomy, motion and speckle, each against something that does not come from its renderer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import fft, ndimage, stats

from echodfkd.core.records import Conditions
from echodfkd.sources.phantom.anatomy import Timing, draw_timing, ejected_fraction
from echodfkd.sources.phantom.chambers import ellipse_distance
from echodfkd.sources.phantom.domains import DOMAINS
from echodfkd.sources.phantom.draws import Draws, clip_key, gaussian_texture, scramble, uniform_of
from echodfkd.sources.phantom.image import tissue_texture
from echodfkd.sources.phantom.overlays import LUMINANCE_STEPS, block_artefacts, draw_ecg, ecg, text_layer
from echodfkd.sources.phantom.renderer import Patient, PhantomRenderer, PreparedScene
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.sources.phantom.truth import LANDMARKS, find_events
from tests.benchmarks.phantom_proofs import (
    measure_heart_rate,
    rayleigh_distance,
    sweep_heart_rates,
    sweep_volumes,
    uniform_power,
)


def renderer(size: int = 112, domain: str = "default") -> PhantomRenderer:
    return PhantomRenderer("cpu", domain=DOMAINS[domain], size=size)


def patients(count: int, seed: int = 31) -> list[Patient]:
    source = default_phantom(seed=seed, num_frames=1, fps=0.0, size=56, case_frames=1)
    return [source.patient(index)[0] for index in range(count)]


def check_sweep(count: int) -> None:
    """Bars: 99 % of clips within 2 points of EF, 3 % of EDV and ESV, 2 % of heart rate."""
    drawn = patients(count)
    sweep = sweep_volumes(drawn, renderer(224))
    assert np.percentile(np.abs(sweep.ef_found - sweep.ef_asked), 99) <= 2.0
    assert np.percentile(np.abs(sweep.edv_found / sweep.edv_asked - 1), 99) <= 0.03
    assert np.percentile(np.abs(sweep.esv_found / sweep.esv_asked - 1), 99) <= 0.03
    timed = drawn if count > 100 else drawn[::3]
    asked = np.array([patient.conditions.heart_rate_bpm for patient in timed])
    found = sweep_heart_rates(timed, renderer(112), fps=50.0)
    assert np.percentile(np.abs(found / asked - 1), 99) <= 0.02


def test_volumes_ef_and_heart_rate_measured_on_masks_are_those_asked_for() -> None:
    check_sweep(60)


@pytest.mark.slow
def test_the_same_over_a_thousand_clips() -> None:
    check_sweep(1000)


@pytest.mark.parametrize(("ef", "edv"), [(8.0, 350.0), (30.0, 200.0), (55.0, 90.0), (80.0, 45.0), (96.0, 70.0)])
def test_extreme_hearts_keep_their_volumes(ef: float, edv: float) -> None:
    base = patients(1)[0]
    conditions = replace(base.conditions, ef_percent=ef, edv_ml=edv, esv_ml=edv * (1 - ef / 100))
    sweep = sweep_volumes([replace(base, conditions=conditions)], renderer(448))
    assert sweep.ef_found[0] == pytest.approx(ef, abs=1.0)
    assert sweep.edv_found[0] == pytest.approx(edv, rel=0.02)


def test_myocardium_keeps_its_volume_over_the_beat() -> None:
    """Each pixel of the wall turned about the long axis (Pappus: pi |u| dA for a half turn on each side).

    2 % for pixels of 0.5 mm and for the bent and slanted base, which the closed form leaves out.
    """
    for patient in patients(4, seed=6):
        full = renderer(320)
        clips = full.render(
            [replace(patient, fps=16.0, start_phase=0.0)], num_frames=14, perturbed=False, labels_only=True
        )
        scene = full.scene([patient], num_frames=1, perturbed=False)
        spacing = float(clips.spacing_mm[0])
        column = clips.landmarks_px[0, :, 0, 0].numpy()[:, None, None]
        row = clips.landmarks_px[0, :, 0, 1].numpy()[:, None, None]
        rows, columns = np.mgrid[:320, :320]
        along = (rows - row) * spacing / clips.length_mm[0].numpy()[:, None, None]
        bend = 4 * float(scene.anatomy.bend[0]) * clips.length_mm[0].numpy()[:, None, None]
        across = (columns - column) * spacing - bend * np.clip(along, 0, 1) * (1 - np.clip(along, 0, 1))
        wall = clips.labels[0].numpy() == 2
        volume = (np.pi * np.abs(across) * wall).sum((1, 2)) * spacing**2 / 1000
        assert np.abs(volume / volume.mean() - 1).max() < 0.03
        thick = [(wall[frame].sum() / (wall[frame] | (clips.labels[0, frame].numpy() == 1)).sum()) for frame in (0, 5)]
        assert thick[1] > thick[0]  # and thickens


def test_ellipse_distance_is_exact_on_a_circle() -> None:
    y, x = torch.meshgrid(torch.linspace(-8, 8, 33), torch.linspace(-9, 9, 37), indexing="ij")
    distance = ellipse_distance(x.clone(), y.clone(), torch.tensor(5.0), torch.tensor(5.0)).numpy()
    radius = np.hypot(x, y).numpy()
    np.testing.assert_allclose(distance[radius > 0.1], radius[radius > 0.1] - 5, atol=1e-4)


@pytest.mark.parametrize("rate", [40.0, 60.0, 75.0, 110.0, 160.0, 200.0])
def test_volume_curve_over_a_beat(rate: float) -> None:
    """0 at both end-diastoles, flat while no valve is open, falling, then rising, without a jump."""
    timing = draw_timing(torch.tensor([rate], dtype=torch.float64), Draws([7]))
    events = [float(getattr(timing, name)[0]) for name in Timing.__dataclass_fields__][:5]
    assert events == sorted(events)
    assert 0 < events[0]
    assert events[-1] < 1
    phase = torch.linspace(0, 1, 4001, dtype=torch.float64)[None]
    ejected = ejected_fraction(phase, timing)[0].numpy()
    phase = phase[0].numpy()
    start, systole, filling = events[:3]
    assert ejected[0] == pytest.approx(0, abs=1e-12)
    assert ejected[-1] == pytest.approx(0, abs=1e-12)
    assert np.all(ejected[phase < start] == 0)
    np.testing.assert_allclose(ejected[(phase > systole) & (phase < filling)], 1.0, atol=1e-12)
    assert np.all(np.diff(ejected[(phase >= start) & (phase <= systole)]) >= 0)
    assert np.all(np.diff(ejected[phase >= filling]) <= 1e-12)
    assert np.abs(np.diff(ejected)).max() < 0.02
    seconds = (systole - start) * 60 / rate
    assert seconds <= 0.413 - 0.0017 * rate + 0.016 or rate > 140


def test_valves_move_in_phase() -> None:
    """The mitral valve is shut from end-diastole to the end of relaxation, wide open in rapid filling and never open
    with the aortic valve."""
    clips = renderer(56).render(
        [replace(patient, fps=100.0, start_phase=0.0) for patient in patients(6)], num_frames=100, labels_only=True
    )
    turn = clips.phase % 1.0
    assert not ((clips.mitral_open > 0) & (clips.aortic_open > 0)).any()
    assert (clips.mitral_open[turn < clips.end_systole[:, None]] == 0).all()
    assert (clips.mitral_open.amax(1) > 0.8).all()
    assert (clips.aortic_open.sum(1) > 10).all()


def test_landmarks_lie_on_the_labels() -> None:
    """Apex at the mask's top and annulus at its lower corners, in perturbed views; 2.5 pixels of 0.6 mm."""
    drawn = [replace(patient, fps=20.0) for patient in patients(6)]
    clips = renderer(224, "handheld").render(drawn, num_frames=3, labels_only=True)
    for labels, points in zip(
        clips.labels.flatten(0, 1).numpy(), clips.landmarks_px.flatten(0, 1).numpy(), strict=True
    ):
        away = ndimage.distance_transform_edt(labels != 1)
        inner = ndimage.distance_transform_edt(labels == 1)
        for name in ("apex", "septal_annulus", "lateral_annulus", "mitral_centre"):
            column, row = np.rint(points[LANDMARKS.index(name)]).astype(int)
            assert max(away[row, column], inner[row, column]) < 2.5, name


def test_view_is_upright_only_where_it_is_not_perturbed() -> None:
    drawn = patients(5)
    for perturbed in (True, False):
        points = renderer(56).render(drawn, num_frames=8, perturbed=perturbed, labels_only=True).landmarks_px
        axis = points[:, :, 3] - points[:, :, 0]
        assert bool((axis[..., 0].abs() < 1e-9).all()) is not perturbed
        assert bool((points[:, :, 0].std(1) < 1e-9).all()) is not perturbed  # breathing and shake


def test_events_of_a_curve_by_hand() -> None:
    phase = torch.tensor([-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    volume = torch.tensor([80.0, 90.0, 100.0, 100.0, 80.0, 50.0, 40.0, 40.0, 60.0])
    assert find_events(phase, volume, 0.42) == ((2,), (6,))
    assert find_events(phase[4:6], volume[4:6], 0.42) == ((), ())


def test_speckle_amplitude_is_rayleigh_in_every_domain() -> None:
    """Kolmogorov-Smirnov at the 1 % level on independent pixels; scipy's statistic equals ours.

    The test has no power against bilinear reading, which lowers the power between texels by up to a tenth.
    """
    for domain in DOMAINS:
        power = uniform_power(renderer(112, domain), patients(12)).astype(np.float64)
        result = stats.kstest(np.sqrt(power), stats.rayleigh(scale=np.sqrt(power.mean() / 2)).cdf)
        assert result.pvalue > 0.01
        assert rayleigh_distance(power) == pytest.approx(result.statistic, abs=1e-9)
    lognormal = np.exp(np.random.default_rng(0).standard_normal(2000))
    assert rayleigh_distance(lognormal) > 0.05  # and it can tell


def test_speckle_is_locked_to_the_tissue_and_noise_is_not() -> None:
    """Follow points of the wall by the ventricle's widths and lengths: their speckle stays; in place it does not."""
    scanner, patient = renderer(224), replace(patients(1)[0], fps=12.0, start_phase=0.0)
    scene = scanner.scene([patient], num_frames=5, perturbed=False)
    stage = PreparedScene([patient], scene, device=scanner.device, size=scanner.size)
    power = tissue_texture(stage.heart(), stage.grid, stage.optics, stage.still.texture)[0][0].numpy()
    labels = stage.heart().labels()[0].numpy()
    motion, spacing = scene.motion, float(scene.optics.side[0]) / 224
    apex = scanner.render([patient], num_frames=5, perturbed=False, labels_only=True).landmarks_px[0, 0, 0].numpy()
    rows, columns = np.nonzero(labels[0] == 2)
    u, v = (columns - apex[0]) * spacing, (rows - apex[1]) * spacing
    inside = v > 5.0
    u, v, first = u[inside], v[inside], power[0][rows[inside], columns[inside]]
    frame = 4
    wide = float(motion.half_width[0, frame] / motion.half_width[0, 0])
    long = float(motion.length[0, frame] / motion.length[0, 0])
    there = ndimage.map_coordinates(power[frame], [v * long / spacing + apex[1], u * wide / spacing + apex[0]], order=1)
    followed = np.corrcoef(np.sqrt(there), np.sqrt(first))[0, 1]
    in_place = np.corrcoef(np.sqrt(power[frame][rows[inside], columns[inside]]), np.sqrt(first))[0, 1]
    assert wide < 0.95
    assert followed > 0.85
    assert abs(in_place) < 0.15
    words = [uniform_of(scramble(stage.still.words + number * 0x2545F491)).flatten().numpy() for number in (0, 1)]
    assert abs(np.corrcoef(*words)[0, 1]) < 0.02


def test_grains_widen_with_depth() -> None:
    """Width of the lateral autocorrelation near the probe and far from it, averaged over hearts at rest."""
    widths = []
    for patient in patients(10):
        scanner = renderer(224)
        scene = scanner.scene([replace(patient, start_phase=0.0)], num_frames=1, perturbed=False)
        stage = PreparedScene([patient], scene, device=scanner.device, size=scanner.size)
        power = tissue_texture(stage.heart(), stage.grid, stage.optics, stage.still.texture)[0][0, 0].numpy()
        row = []
        for start in (50, 160):
            part = power[start : start + 40, 90:134] - power[start : start + 40, 90:134].mean()
            row.append((part[:, 3:] * part[:, :-3]).mean() / (part**2).mean())
        widths.append(row)
    near, far = np.mean(widths, axis=0)
    assert far > near + 0.1


def test_hashed_numbers_are_uniform_and_gaussian() -> None:
    start = Draws([clip_key(1), clip_key(2)]).counters("noise", torch.device("cpu"))
    words = uniform_of(scramble(torch.arange(20000, dtype=torch.int32) * 0x1E3779B1 + start[:, None]))
    for row in words.numpy():
        assert stats.kstest(row, "uniform").pvalue > 0.001
        assert abs(np.corrcoef(row[1:], row[:-1])[0, 1]) < 0.03
    assert abs(np.corrcoef(*words.numpy())[0, 1]) < 0.03
    field = gaussian_texture(start, 96, 96, 1.5).numpy()
    assert field.var() == pytest.approx(0.5, rel=0.1)
    assert abs(np.corrcoef(field[:, 0].ravel(), field[:, 1].ravel())[0, 1]) < 0.08
    assert stats.kstest(field[:, :, ::8, ::8].ravel() * np.sqrt(2), "norm").pvalue > 0.001


def test_named_draws_do_not_depend_on_each_other() -> None:
    alone, together = Draws([5]), Draws([9, 5])
    together.uniform("something else", 0, 1)
    assert alone.uniform("gain", 2, 3)[0] == together.uniform("gain", 2, 3)[1]
    many = Draws(range(4000)).uniform("gain", 0, 1).numpy()
    assert stats.kstest(many, "uniform").pvalue > 0.001
    assert clip_key(0, "clip", 1) != clip_key(0, "case", 1)


def test_block_artefacts_equal_scipys_dct() -> None:
    """Block by block with scipy's DCT; 1e-2 grey levels where no coefficient lies on a rounding edge."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.rand(2, 1, 20, 16, generator=generator) * 255  # 20 rows: the last block is filled up
    steps = torch.tensor([4.0, 16.0])
    found = block_artefacts(grey, steps.view(2, 1, 1, 1)).numpy()
    assert found.shape == (2, 1, 20, 16)
    for clip, step in enumerate(steps.tolist()):
        table = np.array(LUMINANCE_STEPS) * step / 16
        for top in (0, 8):
            block = grey[clip, 0, top : top + 8, 8:16].double().numpy() - 128
            coefficients = np.rint(fft.dctn(block, norm="ortho") / table) * table
            expected = fft.idctn(coefficients, norm="ortho") + 128
            np.testing.assert_allclose(found[clip, 0, top : top + 8, 8:16], expected, atol=1e-2)


def test_ecg_peaks_at_end_diastole_and_is_drawn_at_the_bottom() -> None:
    phase = torch.linspace(0, 1, 1001)
    assert float(phase[ecg(phase).argmax()]) in (0.0, 1.0)
    grey = torch.zeros(2, 3, 56, 56)
    draw_ecg(grey, torch.zeros(2, 3, 1, 1), torch.tensor([0.5, 0.0]).view(2, 1, 1, 1))
    assert grey[1].max() == 0
    assert grey[0, :, :46].max() == 0
    assert grey[0, :, 46:].max() == pytest.approx(0.5)
    assert (grey[0, :, 46:].amax(1) > 0.2).all()


def test_text_stands_in_its_corner() -> None:
    left, right = (text_layer(("FR 50HZ", "16CM"), 112, right=side) for side in (False, True))
    assert left[3:8, 2:5].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]]  # F
    assert left[20:].max() == right[20:].max() == left[:, 60:].max() == right[:, :60].max() == 0
    assert text_layer(("1",), 56, right=False).shape == (56, 56)


def test_heart_rate_of_a_known_curve() -> None:
    seconds = np.arange(300) / 50.0
    assert measure_heart_rate(100 + 40 * np.cos(2 * np.pi * seconds * 1.3), 50.0) == pytest.approx(78, rel=1e-3)
    assert np.isnan(measure_heart_rate(np.ones(50), 50.0))


def test_conditions_that_are_missing_are_our_own_fault() -> None:
    with pytest.raises(AssertionError, match=r"conditions.age_years"):
        renderer(56).render([Patient(Conditions(ef_percent=50.0, edv_ml=90.0, esv_ml=45.0), 1, 50.0)], num_frames=1)
