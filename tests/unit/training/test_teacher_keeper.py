"""A teacher's long training: it goes on after a stop as if there was none, and starts from other weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from echodfkd.core.errors import InputError
from echodfkd.models.teachers.unet import EmbeddedTeacherNet
from echodfkd.sources.phantom.source import default_phantom
from echodfkd.training.teacher import embedded
from echodfkd.training.teacher.embedded import TeacherPlan, start_from, train_embedded_teacher
from echodfkd.training.teacher.keeper import Keeper
from echodfkd.training.teacher.supervised import SupervisedRecipe, train_segmentation

RECIPE = SupervisedRecipe(
    steps=6,
    seed=0,
    sizes=(32, 40),
    batch_pixels=4 * 32 * 32,
    frames_per_clip=2,
    learning_rate=3e-3,
    weight_decay=1e-4,
    warmup_steps=2,
    max_seconds=0.0,
    mean=35.0,
    std=43.0,
    jitter=0.1,
    average=0.5,
)


class StopError(Exception):
    """Ends a run in its middle, as a kill would."""


def train(keeper: Keeper | None, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    sources = {
        size: default_phantom(seed=0, num_frames=2, fps=2.0, size=size, case_frames=2, domain="wild")
        for size in RECIPE.sizes
    }
    torch.manual_seed(0)
    network = EmbeddedTeacherNet(channels=(8, 8))
    made = []

    def clip(index: int, size: int):
        if stop_at is not None and len(made) == 2 * stop_at:
            raise StopError
        made.append(index)
        return sources[size].clip(index)

    train_segmentation(network, clip, RECIPE, report=print, keeper=keeper)
    return network.state_dict()


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """The save of step 3 is the last one before the stop; moments, average and random numbers come back with it."""
    whole = train(None)
    with pytest.raises(StopError):
        train(Keeper(tmp_path, {"seed": 0}, every_seconds=0.0), stop_at=3)
    assert json.loads((tmp_path / "state.json").read_text())["step"] >= 2
    again = train(Keeper(tmp_path, {"seed": 0}, every_seconds=0.0))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1  # older saves are removed


def test_saves_that_do_not_fit_are_named(tmp_path: Path) -> None:
    train(Keeper(tmp_path, {"seed": 0, "steps": 6}, every_seconds=0.0))
    with pytest.raises(InputError, match=r"--resume: .*state.json was made with another recipe \(seed\)"):
        train(Keeper(tmp_path, {"seed": 1, "steps": 6}))
    found = json.loads((tmp_path / "state.json").read_text())
    for part, value in (("recipe", []), ("step", "x"), ("rng", {}), ("file", 3)):
        (tmp_path / "state.json").write_text(json.dumps({**found, part: value}))
        with pytest.raises(InputError, match=r"--resume: .*state.json cannot be read"):
            train(Keeper(tmp_path, {"seed": 0, "steps": 6}))
    (tmp_path / "state.json").write_text(json.dumps(found))
    state = load_file(tmp_path / found["file"])
    state.pop("network.head.bias")
    save_file(state, tmp_path / found["file"])
    with pytest.raises(InputError, match=r"--resume: .*state.json cannot be read: .*head.bias"):
        train(Keeper(tmp_path, {"seed": 0, "steps": 6}))
    (tmp_path / found["file"]).unlink()
    with pytest.raises(InputError, match=r"--resume: .*state.json cannot be read"):
        train(Keeper(tmp_path, {"seed": 0, "steps": 6}))
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"--resume: .*state.json cannot be read"):
        train(Keeper(tmp_path, {"seed": 0, "steps": 6}))


def test_a_deeper_network_starts_from_a_shallower_one(tmp_path: Path) -> None:
    """All levels that both have come over; only the new coarsest level and what leads into it stay random."""
    shallow = EmbeddedTeacherNet(channels=(8, 16, 24))
    save_file(shallow.state_dict(), tmp_path / "shallow.safetensors")
    deep = EmbeddedTeacherNet(channels=(8, 16, 24, 32))
    start_from(deep, str(tmp_path / "shallow.safetensors"), 1)
    old, new = shallow.state_dict(), deep.state_dict()
    for key in old:
        if key.startswith("bottom"):
            continue
        parts = key.split(".")
        if parts[0] == "up":
            parts[1] = str(int(parts[1]) + 1)
        assert torch.equal(old[key], new[".".join(parts)]), key
    same = EmbeddedTeacherNet(channels=(8, 16, 24))
    start_from(same, str(tmp_path / "shallow.safetensors"), 1)
    assert all(torch.equal(old[key], value) for key, value in same.state_dict().items())


def test_transfer_is_the_worst_domain_that_the_run_does_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights by it are kept beside the last ones, over a stop too."""
    given = {"default": 0.9, "clear": 0.8, "handheld": 0.7, "wild": 0.2}
    monkeypatch.setattr(embedded, "_score_domain", lambda *a, **k: {"dice_all": given[a[3]]})
    plan = TeacherPlan(
        out=str(tmp_path / "out.safetensors"),
        steps=1,
        seed=0,
        sizes=(32,),
        max_seconds=0.0,
        num_cases=1,
        domains=("wild", "clear"),
        channels=(8, 8),
        folder=str(tmp_path / "run"),
    )
    (tmp_path / "run").mkdir()
    recipe = embedded.embedded_recipe(steps=1, seed=0, sizes=(32,), max_seconds=0.0)

    def judge(step: int) -> None:
        network = EmbeddedTeacherNet(channels=(8, 8))
        state = embedded.TrainingState(network, None, None, None, step=step)  # type: ignore[arg-type]
        card = lambda network, step, scores: embedded.teacher_card(  # noqa: E731
            network, recipe, steps_done=step, data="", held_out=scores
        )
        embedded.TransferWatch(plan, recipe, card, print)(state)

    def kept(name: str) -> dict:
        return json.loads((tmp_path / "run" / f"{name}.json").read_text())

    judge(1)
    assert kept("best")["held_out"]["transfer"] == 0.7
    given["handheld"], given["wild"] = 0.6, 0.9
    judge(2)
    assert (kept("best")["steps_done"], kept("last")["steps_done"]) == (1, 2)
    given["handheld"] = 0.95
    judge(3)
    assert kept("best")["steps_done"] == 3
    assert kept("best")["held_out"]["transfer"] == 0.9
    card = train_embedded_teacher(replace(plan, folder=""), report=print)
    assert card["channels"] == [8, 8]
    assert "domains wild, clear in turn" in card["data"]
