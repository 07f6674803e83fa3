"""A painter that is trained beside the students: which one makes which clip, and that nothing depends on a stop."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from echodfkd.config.file import load_config
from echodfkd.config.run import PaintingLaw, RunConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.records import CHAMBER_NAMES
from echodfkd.models.generators.map_painter import initial_painter, painter_noise
from echodfkd.models.generators.painted import InTraining, load_painter
from echodfkd.runtime.stream.builders import drafting_source, load_teacher, training_source
from echodfkd.sources.generated.source import GeneratedSource
from echodfkd.sources.mixture import MixtureSource
from echodfkd.storage.files import RunStorage
from echodfkd.storage.manifests import checkpoint_folder, latest_checkpoint, wait_for_checkpoint
from echodfkd.training.datafree import adversary
from echodfkd.training.datafree.adversary import PainterTraining
from echodfkd.training.loop import WorkerContext, train
from tests.conftest import TINY
from tests.helpers.training import Workers
from tests.integration.helpers_faults import batches_in_turn, final_weights, train_without_ray, worker_alone

MIXED = "source={kind: mixture, parts: {plain: {kind: noise}, against: {kind: adversarial}}}"
OPTIONS = [
    *TINY,
    MIXED,
    "evaluation.enabled=false",
    "students.a={blocks: 1, layers: 1, filters: 2}",
    "train.engine=plain",
    "train.steps=5",
    "train.global_batch=2",
    "train.checkpoint_every=1",
    "window.size=16",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("whole")
    return train_without_ray(load_config(None, [*OPTIONS, f"storage={folder}"]), folder)


def painter_of(config: RunConfig, step: int) -> dict[str, torch.Tensor]:
    return load_file(Path(config.root, checkpoint_folder(step), "painter", "weights.safetensors"))


def test_a_clip_is_made_by_the_painter_of_the_checkpoint_before_the_newest() -> None:
    law = PaintingLaw(slots=40, batch=4, every=3)
    assert [law.step(4 * update) for update in range(10)] == [0, 0, 0, 0, 0, 0, 3, 3, 3, 6]
    assert law.step(4 * 6 + 3) == 3
    assert law.step(4 * 6 + 3 + 40) == 3, "a replacement of a slot has the slot's painter"


def test_ids_tell_the_painter_and_those_of_a_mixture_count_slots(whole: RunConfig) -> None:
    source = drafting_source(whole)
    ids = [source.clip(index).clip_id for index in range(10)]
    assert [name.split("-")[0] for name in ids] == ["against", "plain"] * 5
    assert [name.split("-")[4:6] for name in ids[::2]] == [[f"i{n}", f"g{max(0, n - 1)}"] for n in range(5)]
    assert all("-g" not in name for name in ids[1::2])
    assert "-g" not in source.case(0).clip_id


def test_the_published_painter_makes_the_clip(whole: RunConfig) -> None:
    source = training_source(whole)
    assert isinstance(source, MixtureSource)
    part = source.parts["against"]
    assert isinstance(part, GeneratedSource)
    for number, step in ((0, 0), (1, 0), (3, 2), (4, 3)):
        request = part.request(number, label_map=True)
        assert request.generator_step == step
        painter = initial_painter()
        if step:
            painter.load_state_dict(painter_of(whole, step))
        assert request.label_map is not None
        mask = torch.from_numpy(request.label_map == CHAMBER_NAMES.index("LV"))[None]
        with torch.no_grad():
            video = painter(mask, painter_noise([request.seed], 16))[0]
        np.testing.assert_array_equal(source.clip(2 * number).video, video.round().byte().numpy())
    other = InTraining(whole.root)
    with pytest.raises(InputError, match=r"step_00000009 is not published"):
        other.generate([dataclasses.replace(request, generator_step=9)])
    file = Path(whole.root, checkpoint_folder(3), "painter", "weights.safetensors")
    assert load_painter(str(file)).state_dict().keys() == painter_of(whole, 3).keys(), "kind painted reads it too"


def test_the_painter_learns_from_the_gap_and_leaves_the_students_alone(whole: RunConfig) -> None:
    steps = [painter_of(whole, step) for step in range(1, 6)]
    assert all((before["body.0.weight"] != after["body.0.weight"]).any() for before, after in pairwise(steps))
    assert all(value.isfinite().all() for value in steps[-1].values())


def test_a_stopped_run_makes_the_same_clips_and_ends_with_the_same_bits(whole: RunConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(whole, storage=str(tmp_path))
    stop = iter([False, False, True])
    first = worker_alone(stop_asked=lambda: next(stop))
    teacher = load_teacher(config)
    done = train(first, batches_in_turn(config), config, RunStorage(config.root), teacher.teacher_id)
    assert done["steps"] == 3
    again = train_without_ray(config, tmp_path, name=config.name, first_slot=6)
    assert final_weights(again) == final_weights(whole)
    for step in range(1, 6):
        for key, value in painter_of(whole, step).items():
            assert torch.equal(painter_of(again, step)[key], value), (step, key)


def test_an_actor_waits_for_a_checkpoint_that_is_still_to_come(whole: RunConfig, tmp_path: Path) -> None:
    storage, found = RunStorage(str(tmp_path)), threading.Event()
    name = f"{checkpoint_folder(2)}/manifest.json"
    waiting = threading.Thread(target=lambda: (wait_for_checkpoint(storage, 2, poll_s=0.01), found.set()))
    waiting.start()
    assert not found.wait(0.1)
    storage.write(name, RunStorage(whole.root).read(name))
    assert found.wait(10)
    waiting.join()


def test_a_damaged_painter_is_named(whole: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = latest_checkpoint(RunStorage(whole.root))
    assert newest is not None
    monkeypatch.setattr(adversary, "_RESUME", "a/student.safetensors")
    with pytest.raises(InputError, match=r"step_00000005/a/student.safetensors holds no step"):
        PainterTraining(whole, 0, torch.device("cpu"), newest)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["evaluation.source.kind=adversarial"], "evaluation.source.kind: got adversarial; a source of kind"),
        (["source.parts.more.kind=adversarial"], "source.parts: against, more are adversarial, a run trains one"),
        (["synthesize.out=clips"], "synthesize.out: set, but a source of kind adversarial needs students in training"),
        (["window.size=20"], "window.size: got 20, a source of kind adversarial needs a multiple of 8"),
        (["data.order=arrival"], "data.order: got arrival, a source of kind adversarial needs fixed"),
        (["train.engine=deepspeed", "train.zero_stage=3"], "train.zero_stage: got 3, a source of kind adversarial"),
        (["students.painter={blocks: 1}"], "students.painter: a source of kind adversarial keeps its painter under"),
        (["students.a.classes=[LA]", "teacher.kind=embedded_chambers"], "students.a.classes: got LA, a source of"),
        (["source.parts.against.generator.steps=3"], "generator.steps: set, but source.parts.against.kind is adv"),
    ],
)
def test_what_cannot_be_trained_against_is_refused(options: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*OPTIONS, *options])
    assert words in str(caught.value)


PAIRED = [*OPTIONS, "students.a.norm=group"]  # a batch's statistics are those of one worker


def two_processes(rank: int, folder: str) -> None:
    config = load_config(None, [*PAIRED, f"storage={folder}", "train.workers=2"])
    context = WorkerContext(rank, 2, "cpu", f"rank{rank}", "paired", lambda values: None)
    own = itertools.islice(batches_in_turn(config), rank, None, 2)
    train(context, own, config, RunStorage(config.root), load_teacher(config).teacher_id)


@pytest.mark.slow  # starts two processes
def test_two_workers_train_the_painter_of_one(two_workers: Workers, tmp_path: Path) -> None:
    one = train_without_ray(load_config(None, PAIRED), tmp_path / "one")
    two_workers.run(two_processes, tmp_path)
    two = load_config(None, [*PAIRED, f"storage={tmp_path}"])
    for file in ("painter/weights.safetensors", "a/student.safetensors"):
        first, last, paired = (
            torch.cat([value.flatten() for value in load_file(Path(run.root, checkpoint_folder(step), file)).values()])
            for run, step in ((one, 1), (one, 5), (two, 5))
        )
        # gradients are summed in another order
        assert torch.linalg.norm(paired - last) < 0.05 * torch.linalg.norm(last - first), file
