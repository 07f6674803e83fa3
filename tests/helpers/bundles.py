"""Small MONAI bundles: the files that MONAI's specification names, around a network made here."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

UNET = {
    "_target_": "UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
    "norm": "batch",
}
"""A definition as the model zoo's bundles have it, small."""

METADATA = {
    "version": "0.1.0",
    "monai_version": "1.6.1",
    "network_data_format": {
        "inputs": {"image": {"type": "image", "num_channels": 1, "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "LV"}}},
    },
}


def monai_unet() -> nn.Module:
    """The network of `UNET`, drawn from seed 0, with batch statistics that are not the first ones."""
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    network = UNet(**{key: value for key, value in UNET.items() if key != "_target_"})
    with torch.no_grad():
        network(torch.randn(4, 1, 16, 16))
    return network.eval()


def weights_of(network: nn.Module) -> bytes:
    """What ``torch.save(network.state_dict())`` writes."""
    sink = io.BytesIO()
    torch.save(network.state_dict(), sink)
    return sink.getvalue()


def bundle_files(weights: bytes, *, network_def: Any = UNET, metadata: Any = METADATA, **more: Any) -> dict[str, bytes]:
    """The bundle's files; ``more`` are further entries of inference.json."""
    inference = {"imports": ["$import glob"], "device": "$torch.device('cpu')", **more, "network_def": network_def}
    inference |= {"network": "$@network_def.to(@device)", "inferer": {"_target_": "SimpleInferer"}}
    return {
        "configs/metadata.json": json.dumps(metadata).encode(),
        "configs/inference.json": json.dumps(inference).encode(),
        "models/model.pt": weights,
        "docs/README.md": b"# A bundle",
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zipped(files: dict[str, bytes], *, root: str = "lv_bundle/", how: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(root + name, data)
    return sink.getvalue()
