"""Published generators' files: how they are spoiled, and that what opens is the network that was meant."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.numpy import save

from echodfkd.config.sections.privacy import PrivacyConfig
from echodfkd.core.errors import ClipError
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.echolvfm import _read_config
from echodfkd.models.generators.free_echo import read_reference
from echodfkd.models.generators.map_painter import initial_painter
from echodfkd.models.generators.painted import PAINTER_FILE, InTraining
from echodfkd.models.generators.protocol import ClipRequest
from echodfkd.models.generators.schedulers import NoiseSchedule, read_schedule
from echodfkd.models.generators.stdit import SpaceTimeTransformer
from echodfkd.models.generators.weight_files import WEIGHTS_NAME, load_network
from echodfkd.sources.privacy import privacy_filter
from echodfkd.storage.checkpoints import publish
from echodfkd.storage.files import RunStorage, describe
from echodfkd.storage.intervals import Intervals
from tests.fuzz.mutate import damage_bytes
from tests.helpers.generators import NOISE_YAML, STDIT, write_free_echo, write_network

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 3, 16, 4096, 10**5, 10**9, 10**60, 1e308, 0.5, -0.5, 2.0, "", "silu", "os.system", "../x",
    [], {}, [4.0, 8.0, 8.0], [1] * 17, [4, 8, 8], [1, 2, 2], [0, 0, 0], [[4], 8, 8], {"a": 1}, "x" * 5000, "\u0000",
)  # fmt: skip
KEYS = (*STDIT, "_class_name", "auto_map", "self", "__class__", "drop_path", "space_scale", "x" * 300)


class PrivacyReference:
    """The file of privacy.reference."""

    name = "privacy.reference"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "reference.safetensors"
        features = np.random.default_rng(0).random((3, 256), np.float32)
        self.good = {"features": features, "threshold_pixels": np.array([0.5])}

    def run(self, rng: random.Random) -> None:
        tensors = dict(self.good)
        if rng.random() < 0.5:
            name = rng.choice([*tensors, "other"])
            shape = rng.choice([(), (0,), (1,), (256,), (0, 256), (2, 256), (2, 5), (1, 1, 256)])
            kind = rng.choice([np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_])
            tensors[name] = np.full(
                shape, rng.choice([0.0, 1.0, 3.0, np.nan, np.inf]) if "f" in kind().dtype.kind else 1, kind
            )
        data = save(tensors)
        data = data.replace(b'"F32"', rng.choice([b'"F32"', b'"I32"', b'"U32"'])) if rng.random() < 0.2 else data
        data = data.replace(b'"F64"', rng.choice([b'"I64"', b'"F64"'])) if rng.random() < 0.2 else data
        self.path.write_bytes(damage_bytes(rng, data) if rng.random() < 0.5 else data)
        privacy_filter.cache_clear()
        found = privacy_filter(PrivacyConfig(encoder="pixels", reference=str(self.path)))
        video = np.arange(2048, dtype=np.uint8).reshape(2, 32, 32)
        assert isinstance(found.reason(video), str)


class PublishedPainter:
    """A painter's weights in a checkpoint, under a manifest that knows them."""

    name = "painter"

    def __init__(self, folder: Path) -> None:
        self.storage = RunStorage(str(folder))
        self.good = {key: value.numpy() for key, value in initial_painter().state_dict().items()}
        further = {PAINTER_FILE: save(self.good)}
        self.commit = publish(
            self.storage, step=2, students={}, consumed=Intervals(), ledger={}, quarantine={}, meta={}, further=further
        )
        self.request = ClipRequest(
            "a", seed=1, frames=2, fps=8.0, size=16, label_map=np.ones((2, 16, 16), np.uint8), generator_step=2
        )

    def run(self, rng: random.Random) -> None:
        tensors = dict(self.good)
        if rng.random() < 0.7:
            name = rng.choice([*tensors, "other"])
            shape = rng.choice([(), (0,), (24,), tensors.get(name, np.zeros(1)).shape])
            kind = rng.choice([np.float16, np.float32, np.float64, np.int8, np.bool_])
            tensors[name] = np.full(
                shape, rng.choice([0.0, 1.0, np.nan, np.inf]) if "f" in kind().dtype.kind else 1, kind
            )
        data = save(tensors)
        data = damage_bytes(rng, data) if rng.random() < 0.5 else data
        files = {**self.commit.files, PAINTER_FILE: describe(data)}
        self.storage.write(f"{self.commit.folder}/{PAINTER_FILE}", data)
        manifest = json.dumps(dataclasses.asdict(dataclasses.replace(self.commit, files=files)))
        self.storage.write(f"{self.commit.folder}/manifest.json", manifest.encode())
        (clip,) = InTraining(self.storage.root).generate([self.request])
        if isinstance(clip, ClipError):
            raise clip
        assert (clip.shape, clip.dtype) == ((2, 16, 16), np.uint8)


class PublishedGenerator:
    """config.json with its weights, the YAML of two authors, and a reference frame."""

    name = "generator"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_network(folder / "good", "DiffuserSTDiT", STDIT, SpaceTimeTransformer(**STDIT))
        self.config = json.loads((folder / "good" / "config.json").read_text())
        self.weights = (folder / "good" / WEIGHTS_NAME).read_bytes()
        self.picture = (write_free_echo(folder / "free") / "images" / "echonet.png").read_bytes()
        (folder / "bad").mkdir()

    def run(self, rng: random.Random) -> None:
        rng.choice((self._network, self._network, self._schedule, self._flow, self._picture))(rng)

    def _files(self) -> PublishedFiles:
        return PublishedFiles(self.folder / "bad", "https://example.org")

    def _network(self, rng: random.Random) -> None:
        config = dict(self.config)
        for _ in range(rng.choice((0, 1, 1, 2))):
            config[rng.choice(KEYS)] = rng.choice(VALUES)
        text = json.dumps(config).encode()
        text = damage_bytes(rng, text) if rng.random() < 0.2 else text
        (self.folder / "bad" / "config.json").write_bytes(text)
        weights = damage_bytes(rng, self.weights) if rng.random() < 0.3 else self.weights
        (self.folder / "bad" / WEIGHTS_NAME).write_bytes(weights)
        network = load_network(self._files(), "DiffuserSTDiT", SpaceTimeTransformer)
        assert not any(values.is_meta for values in network.state_dict().values())
        assert network(torch.zeros(1, 8, 4, 8, 8), torch.zeros(1), torch.zeros(1, 1, 1)).shape == (1, 4, 4, 8, 8)

    def _schedule(self, rng: random.Random) -> None:
        values = yaml.safe_load(NOISE_YAML)["noise_scheduler"]
        for _ in range(rng.choice((0, 1, 2))):
            values[rng.choice((*values, "trained_betas", "rescale_betas_zero_snr"))] = rng.choice(VALUES)
        schedule = read_schedule(values, "config.yaml")
        assert isinstance(schedule, NoiseSchedule)
        assert 0 < schedule.beta_start < schedule.beta_end < 1

    def _flow(self, rng: random.Random) -> None:
        sizes: dict[str, Any] = {"sample_size": 8, "in_channels": 9, "out_channels": 4, "num_frames": 6}
        names = ("down_block_types", "up_block_types", "block_out_channels", "num_attention_heads", "layers_per_block")
        kwargs: dict[str, Any] = {name: [32, 64] for name in (*names, "transformer_layers_per_block")}
        kwargs["cross_attention_dim"] = 1
        config: Any = {"model": {"init": sizes, "kwargs": kwargs}, "flow": {"type": "mean", "kwargs": {}}}
        for _ in range(rng.choice((0, 1, 2))):
            part: Any = rng.choice((config, config["model"], sizes, kwargs, config["flow"]))
            if isinstance(part, dict):
                part[rng.choice([*part, "x"])] = rng.choice(VALUES)
            if not (isinstance(config.get("model"), dict) and isinstance(config.get("flow"), dict)):
                break
        arguments, linear = _read_config(config, "config.yaml")
        assert 0 < arguments["num_frames"] <= 1024
        assert linear in (True, False)

    def _picture(self, rng: random.Random) -> None:
        place = self.folder / "bad" / "echonet.png"
        place.write_bytes(damage_bytes(rng, self.picture) if rng.random() < 0.9 else self.picture)
        found = read_reference(place, "source.generator.weights")
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
