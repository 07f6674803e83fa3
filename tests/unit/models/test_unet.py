"""The embedded teacher: shapes, refusals, training on labels, and the weights that ship."""

import json
import math
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from echodfkd.core.errors import ConfigError, InputError, RunError
from echodfkd.core.records import CHAMBER_NAMES, TRUTH_UNKNOWN
from echodfkd.models.teachers.unet import (
    PIXEL_MEAN,
    PIXEL_STD,
    SHIPPED_WEIGHTS,
    EmbeddedTeacherNet,
    load_embedded_teacher,
)
from echodfkd.sources.phantom.source import PhantomSource, default_phantom
from echodfkd.training.teacher.embedded import TeacherPlan, train_embedded_teacher
from echodfkd.training.teacher.supervised import SupervisedRecipe, score_cases, segmentation_loss, train_segmentation

RECIPE = SupervisedRecipe(
    steps=12,
    seed=0,
    sizes=(32,),
    batch_pixels=8 * 32 * 32,
    frames_per_clip=2,
    learning_rate=3e-3,
    weight_decay=0.0,
    warmup_steps=2,
    max_seconds=0.0,
    mean=PIXEL_MEAN[0],
    std=PIXEL_STD[0],
    jitter=0.1,
)


def phantom(size: int = 56, seed: int = 77, fps: float = 32.0) -> PhantomSource:
    return default_phantom(seed=seed, num_frames=2, fps=fps, size=size, case_frames=48)


@pytest.mark.parametrize("shape", [(3, 1, 56, 56), (1, 1, 112, 112), (2, 1, 64, 48), (1, 1, 8, 16)])
def test_logits_have_the_frames_shape(shape: tuple[int, ...]) -> None:
    assert EmbeddedTeacherNet()(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 1, 60, 56), "divisible by 8, got 60 x 56"),
        ((1, 1, 56, 50), "divisible by 8, got 56 x 50"),
        ((1, 3, 56, 56), r"shape \(N, 1, H, W\), got \(1, 3, 56, 56\)"),
        ((1, 56, 56), r"shape \(N, 1, H, W\), got \(1, 56, 56\)"),
    ],
)
def test_unusable_input_is_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises((ValueError, InputError), match=words):
        EmbeddedTeacherNet()(torch.zeros(shape))


def test_channels_are_checked() -> None:
    with pytest.raises(ValueError, match="each a multiple of 8"):
        EmbeddedTeacherNet(channels=(12, 24))
    assert EmbeddedTeacherNet(channels=(8, 16)).multiple == 4


def test_frames_do_not_influence_each_other() -> None:
    """A frame's logits are the same alone and in a batch (1e-5: sums in another order)."""
    torch.manual_seed(0)
    network, x = EmbeddedTeacherNet().eval(), torch.randn(5, 1, 56, 56)
    with torch.inference_mode():
        whole = network(x)
        torch.testing.assert_close(network(x[2:3]), whole[2:3], atol=1e-5, rtol=0)


def test_weights_round_trip_and_wrong_files_are_named(tmp_path) -> None:
    network = EmbeddedTeacherNet()
    save_file(network.state_dict(), tmp_path / "good.safetensors")
    loaded = load_embedded_teacher(str(tmp_path / "good.safetensors"))
    assert not loaded.training
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())

    other = EmbeddedTeacherNet(channels=(8, 16, 24, 32)).eval()
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    found = load_embedded_teacher(str(tmp_path / "other.safetensors"))
    x = torch.randn(1, 1, 56, 72)  # the fourth level rounds 7 and 9 up
    assert torch.equal(found(x), other(x))
    with pytest.raises(InputError, match=r"other.safetensors is not an embedded teacher: 2 tensors differ"):
        load_embedded_teacher(str(tmp_path / "other.safetensors"), num_classes=5)
    huge = {"down.0.full.weight": torch.zeros(8000, 0, 3, 3), "down.1.full.weight": torch.zeros(8000, 0, 3, 3)}
    save_file(huge, tmp_path / "huge.safetensors")
    with pytest.raises(InputError, match=r"huge.safetensors is not an embedded teacher"):
        load_embedded_teacher(str(tmp_path / "huge.safetensors"))
    state = network.state_dict()
    state.pop("head.bias")
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(InputError, match=r"1 tensors differ .*head.bias \(expected \(4,\), got none\)"):
        load_embedded_teacher(str(tmp_path / "part.safetensors"))
    (tmp_path / "noise.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(InputError, match=r"teacher.weights: .*noise.safetensors cannot be read"):
        load_embedded_teacher(str(tmp_path / "noise.safetensors"))
    with pytest.raises(InputError, match=r"teacher.weights: .*absent.safetensors cannot be read"):
        load_embedded_teacher(str(tmp_path / "absent.safetensors"))


def test_shipped_weights_load_and_segment() -> None:
    """6 cases that neither training nor the card saw; the card's own bar is 0.92."""
    file = resources.files("echodfkd").joinpath("weights", "embedded_teacher.safetensors")
    assert len(file.read_bytes()) <= 5 * 2**20
    cases = [phantom().case(index) for index in range(6)]
    scores = score_cases(load_embedded_teacher(None), cases, mean=PIXEL_MEAN[0], std=PIXEL_STD[0], threshold=0.5)
    assert scores["num_cases"] == 6
    assert min(scores["dice_all"], scores["dice_ed"], scores["dice_es"]) >= 0.90


def test_shipped_card_describes_the_shipped_weights() -> None:
    folder = resources.files("echodfkd").joinpath("weights")
    card = json.loads(folder.joinpath("embedded_teacher.json").read_text())
    assert card["parameters"] == sum(value.numel() for value in load_embedded_teacher(None).parameters())
    assert (card["recipe"]["mean"], card["recipe"]["std"]) == (PIXEL_MEAN[0], PIXEL_STD[0])
    held_out = card["held_out"]["56"]
    assert held_out["num_cases"] >= 32
    assert min(held_out[name] for name in ("dice_all", "dice_ed", "dice_es")) >= 0.92


def test_pixel_statistics_are_those_of_phantom_clips() -> None:
    """Over 48 clips of another seed; 5 grey levels of slack, since gain differs from clip to clip."""
    video = np.stack([phantom(seed=123).clip(index).video for index in range(48)])
    assert video.mean() == pytest.approx(PIXEL_MEAN[0], abs=5)
    assert video.std() == pytest.approx(PIXEL_STD[0], abs=5)


def test_loss_equals_a_slow_loop_and_leaves_unknown_pixels_out() -> None:
    """Float64 logits against plain Python over the annotated pixels (1e-9: sums in another order)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (2, 1, 3, 4), generator=generator, dtype=torch.uint8)
    labels[0, 0, 0] = TRUTH_UNKNOWN
    bce, count, dice_loss = 0.0, 0, []
    for frame in range(2):
        overlap = total = 0.0
        for z, y in zip(logits[frame].flatten().tolist(), labels[frame].flatten().tolist(), strict=True):
            if y == TRUTH_UNKNOWN:
                continue
            p = 1 / (1 + math.exp(-z))
            bce -= math.log(p if y else 1 - p)
            count += 1
            overlap += p * y
            total += p + y
        dice_loss.append(1 - (2 * overlap + 1) / (total + 1))
    expected = bce / count + sum(dice_loss) / 2
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected, abs=1e-9)


def test_training_learns_and_repeats() -> None:
    """12 steps lower the loss of an unseen clip; the same seed and precision give the same weights, bit for bit."""
    source = phantom(size=32, fps=2.0)
    results = []
    for precision in ("fp32", "fp32", "bf16"):
        torch.manual_seed(0)
        network = EmbeddedTeacherNet(channels=(8, 16, 16))
        clip = source.clip(1000)
        frames = (torch.from_numpy(clip.video).float()[:, None] - RECIPE.mean) / RECIPE.std
        labels = torch.from_numpy(clip.truth_labels)[:, None]
        before = segmentation_loss(network(frames), labels).item()
        recipe = replace(RECIPE, precision=precision)
        steps = train_segmentation(network, lambda index, size: source.clip(index), recipe, report=print)
        assert steps == 12
        assert segmentation_loss(network(frames), labels).item() < before - 0.1
        results.append(network.state_dict())
    first, again, rounded = results
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], rounded["head.weight"])


def test_training_stops_at_a_loss_that_is_not_finite() -> None:
    network = EmbeddedTeacherNet(channels=(8, 16, 16))
    with torch.no_grad():
        network.head.bias.fill_(math.nan)
    source = phantom(size=32, fps=2.0)
    with pytest.raises(RunError, match="the loss is nan at step 0"):
        train_segmentation(network, lambda index, size: source.clip(index), RECIPE, report=print)


def test_time_limit_ends_training_early() -> None:
    source = phantom(size=32, fps=2.0)
    recipe = replace(RECIPE, steps=10_000, max_seconds=0.2)
    network = EmbeddedTeacherNet(channels=(8, 16, 16))
    assert 1 <= train_segmentation(network, lambda index, size: source.clip(index), recipe, report=print) < 10_000


def test_recipe_writes_weights_and_card(tmp_path) -> None:
    out = tmp_path / "new" / "teacher.safetensors"
    plan = TeacherPlan(str(out), steps=2, seed=1, sizes=(32,), max_seconds=0.0, num_cases=1)
    card = train_embedded_teacher(plan, report=print)
    assert json.loads(out.with_suffix(".json").read_text()) == json.loads(json.dumps(card))
    assert card["steps_done"] == 2
    assert set(card["held_out"]) == {"56", "112"}
    load_embedded_teacher(str(out))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out: .* cannot be written"):
        train_embedded_teacher(replace(plan, out=str(tmp_path / "file" / "x.safetensors")), report=print)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": (36,)}, "--size: got 36, must be a multiple of 8"),
        ({"steps": 0}, "--steps: got 0"),
        ({"classes": ("LA", "LV")}, "--classes: got LA LV, allowed are LV, or LV myocardium LA RV RA, in this order"),
        ({"domains": ("wild", "mri")}, "--domains: got 'mri', allowed are default, clear, handheld, wild"),
        ({"channels": (24, 50)}, "--channels: got 24 50, must be 2 to 6 multiples of 8 up to 512"),
        ({"average": 1.0}, "--average: got 1.0, must be at least 0 and below 1"),
        ({"learning_rate": 0.0}, "--rate: got 0.0, must be above 0"),
        ({"precision": "fp16"}, "--precision: got 'fp16', allowed are fp32, bf16"),
    ],
)
def test_impossible_plans_are_named(tmp_path, change: dict, words: str) -> None:
    plan = TeacherPlan(str(tmp_path / "x"), steps=1, seed=1, sizes=(32,), max_seconds=0.0, num_cases=1)
    with pytest.raises(ConfigError, match=words):
        train_embedded_teacher(replace(plan, **change), report=print)


def test_shipped_chambers_teacher_segments_every_class() -> None:
    """6 cases that neither training nor the card saw. The myocardium is a thin shell: a pixel off costs it most."""
    file = resources.files("echodfkd").joinpath("weights", SHIPPED_WEIGHTS["embedded_chambers"])
    assert len(file.read_bytes()) <= 1.2 * 2**20
    network = load_embedded_teacher(None, num_classes=5)
    cases = [phantom().case(index) for index in range(6)]
    scores = score_cases(network, cases, mean=PIXEL_MEAN[0], std=PIXEL_STD[0], threshold=0.5, classes=CHAMBER_NAMES[1:])
    assert min(scores["dice_all"], scores["dice_ed"], scores["dice_es"]) >= 0.90
    assert min(scores["dice_la"], scores["dice_rv"], scores["dice_ra"]) >= 0.85
    assert scores["dice_myocardium"] >= 0.85
    card = json.loads(resources.files("echodfkd").joinpath("weights", "embedded_chambers_teacher.json").read_text())
    assert card["parameters"] == sum(value.numel() for value in network.parameters())
    assert card["recipe"]["classes"] == list(CHAMBER_NAMES[1:])
    assert card["held_out"]["56"]["num_cases"] >= 32
    assert card["held_out"]["56"]["dice_myocardium"] >= 0.88


def test_the_shipped_wild_teacher_segments_what_the_others_do_not() -> None:
    """8 cases of each of two domains that it was trained on; the older one has seen one of them."""
    network, older = load_embedded_teacher(None, num_classes=5, shipped="embedded_wild"), load_embedded_teacher(None)
    assert len(resources.files("echodfkd").joinpath("weights", SHIPPED_WEIGHTS["embedded_wild"]).read_bytes()) < 3 << 20
    dice = {}
    for domain in ("wild", "clear"):
        source = default_phantom(seed=5, num_frames=1, fps=16.0, size=80, case_frames=24, domain=domain)
        for name, net, classes in (("wild", network, CHAMBER_NAMES[1:]), ("older", older, ("LV",))):
            cases = [source.case(index) for index in range(8)]
            found = score_cases(net, cases, mean=PIXEL_MEAN[0], std=PIXEL_STD[0], threshold=0.5, classes=classes)
            dice[name, domain] = found["dice_all"]
    assert dice["wild", "wild"] > dice["older", "wild"] + 0.15, dice
    assert dice["wild", "clear"] > 0.93, dice


def test_teachers_of_other_classes_are_not_mistaken_for_each_other(tmp_path) -> None:
    save_file(EmbeddedTeacherNet().state_dict(), tmp_path / "lv.safetensors")
    with pytest.raises(InputError, match=r"2 tensors differ .*head.bias \(expected \(20,\), got \(4,\)\)"):
        load_embedded_teacher(str(tmp_path / "lv.safetensors"), num_classes=5)


def test_loss_of_several_classes_is_the_mean_of_theirs() -> None:
    """Float64, against the loss of one class at a time (1e-12: sums in another order)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, 1, 4, 5), generator=generator, dtype=torch.uint8)
    labels[1, 0, :2] = TRUTH_UNKNOWN
    alone = [
        segmentation_loss(logits[:, [place]], torch.where(labels == value, 1, torch.where(labels == 255, 255, 0)))
        for place, value in enumerate((3, 1))
    ]
    found = segmentation_loss(logits, labels, (3, 1))
    assert found.item() == pytest.approx(sum(alone).item() / 2, abs=1e-12)
