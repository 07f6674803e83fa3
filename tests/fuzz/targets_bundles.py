"""MONAI bundles: how they are spoiled, and that what opens is the network that was meant."""

from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path
from typing import Any

import torch

from echodfkd.models.teachers.monai_bundle import MonaiNetwork
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from tests.fuzz.mutate import damage_bytes, patch_after
from tests.helpers.bundles import METADATA, UNET, bundle_files, monai_unet, weights_of, write_folder, zipped

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 3, 64, 65, 4096, 10**9, 10**60, 1e308, "", "@n", "@loop", "@bomb", "@inferer", "@a::0::b",
    "$print(1)", "%x.json::y", "UNet", "os.system", [], {}, [2] * 50, [4, 8], [[2], [2]], {"_target_": "os.system"},
    {"_requires_": 1}, ["group", {"num_groups": 2}], ["batch", {"eps": "x"}], "x" * 5000, "\u0000\n", "monai.x.y",
)  # fmt: skip
KEYS = (*UNET, "kernel_size", "act", "dropout", "bias", "adn_ordering", "_mode_", "__class__", "self", "x" * 300)
MORE = {
    "n": 2,
    "loop": ["@loop"],
    "bomb": ["@bomb2"] * 60,
    "bomb2": ["@bomb3"] * 60,
    "bomb3": [1] * 60,
    "a": [{"b": 8}],
}


class Bundle:
    """The definition's values, its JSON, the zip around it, the weights within it."""

    name = "bundle"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        import_torchvision()
        self.weights = weights_of(monai_unet())
        write_folder(folder / "good", bundle_files(self.weights))
        assert MonaiNetwork(str(folder / "good"), sha256="").channel_names == ("background", "LV")  # all is imported

    def run(self, rng: random.Random) -> None:
        files = self._files(rng)
        if rng.random() < 0.4:
            path = self.folder / "bundle.zip"
            how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
            data = zipped(files, root=rng.choice(("", "b/", "../", "/", "a/b/")), how=how)
            if rng.random() < 0.5:
                data = rng.choice((damage_bytes(rng, data), patch_after(rng, data, [b"PK"], reach=40)))
            path.write_bytes(data)
        else:
            path = write_folder(self.folder / "bundle", files)
        network = MonaiNetwork(str(path), sha256="")
        assert network.definition.in_channels >= 1
        assert len(network.channel_names) in (0, 1, 2)
        assert not any(tensor.is_meta for tensor in network.state_dict().values())
        assert sum(tensor.numel() for tensor in network.state_dict().values()) < 10_000
        if network.definition.arguments == {key: value for key, value in UNET.items() if key != "_target_"}:
            with torch.inference_mode():
                assert network(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 16, 16)

    def _files(self, rng: random.Random) -> dict[str, bytes]:
        definition: Any = dict(UNET)
        for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
            definition[rng.choice(KEYS)] = rng.choice(VALUES)
        if rng.random() < 0.1:
            definition = rng.choice(VALUES)
        metadata: Any = json.loads(json.dumps(METADATA))
        if rng.random() < 0.2:
            metadata["network_data_format"]["outputs"]["pred"] = {"channel_def": rng.choice((*VALUES, {"0": "LV"}))}
        files = bundle_files(self.weights, network_def=definition, metadata=metadata, **MORE)
        for name in ("configs/inference.json", "configs/metadata.json", "models/model.pt"):
            if rng.random() < 0.2:
                files[name] = damage_bytes(rng, files[name])
        if rng.random() < 0.1:
            files["models/model.safetensors"] = files.pop("models/model.pt")
        if rng.random() < 0.1:
            files.pop(rng.choice(sorted(files)))
        return files
