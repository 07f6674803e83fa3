"""MONAI bundles: the masks are those of MONAI's network, and nothing in a bundle is run, imported or believed."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

from echodfkd.config.file import load_config
from echodfkd.config.sections.teacher import TeacherConfig
from echodfkd.core.errors import ConfigError, InputError
from echodfkd.models.teachers.bundle_files import open_bundle
from echodfkd.models.teachers.monai_bundle import NETWORKS, build_network, read_definition
from echodfkd.models.teachers.torch_teacher import TorchTeacher
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.teaching.build import build_configured_teacher
from tests.helpers.bundles import METADATA, UNET, bundle_files, monai_unet, weights_of, write_folder, zipped
from tests.helpers.teachers import lv_prob

pytest.importorskip("monai")
import_torchvision()

VIDEO = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 24), dtype=np.uint8)


def build(path: Path, **options: Any) -> TorchTeacher:
    given = {"pixel_mean": [40.0], "pixel_std": [50.0], "activation": "softmax", "outputs": []}
    config = TeacherConfig(kind="monai_bundle", weights=str(path), **{**given, **options})
    return build_configured_teacher(config, device="cpu")


@pytest.fixture(scope="module")
def weights() -> bytes:
    return weights_of(monai_unet())


def expected_masks() -> np.ndarray:
    x = (torch.from_numpy(VIDEO).float().view(6, 1, 16, 24) - 40) / 50
    with torch.inference_mode():
        return monai_unet()(x).softmax(1)[:, 1].view(2, 3, 16, 24).numpy()


@pytest.mark.parametrize("form", ["folder", "zip", "stored zip without a folder", "safetensors", "whole checkpoint"])
def test_a_bundle_gives_the_masks_of_monais_network(tmp_path: Path, weights: bytes, form: str) -> None:
    files = bundle_files(weights)
    if form == "safetensors":
        del files["models/model.pt"]
        files["models/model.safetensors"] = save_safetensors(monai_unet().state_dict())
    if form == "whole checkpoint":  # as MONAI's CheckpointSaver writes it with an optimiser beside the network
        sink = io.BytesIO()
        torch.save({"model": monai_unet().state_dict(), "optimizer": {"state": {}, "param_groups": []}}, sink)
        files["models/model.pt"] = sink.getvalue()
    path = tmp_path / "bundle"
    if "zip" in form:
        alone = form.startswith("stored")
        path.write_bytes(zipped(files, root="" if alone else "lv/", how=zipfile.ZIP_STORED if alone else 8))
    else:
        write_folder(path, files)
    teacher = build(path)
    assert teacher.class_names == ("background", "LV")  # by the bundle's metadata
    assert teacher.teacher_id.startswith("monai_bundle-")
    expected = expected_masks()
    assert expected.std() > 0.01  # not a comparison of constants
    np.testing.assert_allclose(lv_prob(teacher, VIDEO), expected, atol=1e-6)  # the same operations


SMALL = {
    "AttentionUnet": {"channels": [4, 8], "strides": [2]},
    "BasicUNet": {"features": [4, 4, 8, 8, 8, 4]},
    "BasicUNetPlusPlus": {"features": [4, 4, 8, 8, 8, 4]},
    "DynUNet": {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 8, 8]},
    "FlexibleUNet": {"backbone": "efficientnet-b0", "pretrained": True},
    "HighResNet": {},
    "MedNeXt": {"init_filters": 8},
    "SegResNet": {"init_filters": 8},
    "SegResNetDS": {"init_filters": 8},
    "SwinUNETR": {"feature_size": 12},
    "UNETR": {"img_size": 64, "feature_size": 4, "hidden_size": 16, "mlp_dim": 16, "num_heads": 4},
    "UNet": {"channels": [4, 8], "strides": [2]},
    "VNet": {},
}


@pytest.mark.parametrize("target", NETWORKS)
def test_every_network_that_is_allowed_gives_one_map_per_frame(tmp_path: Path, target: str) -> None:
    """Weights that FlexibleUNet's definition asks to download are not: the bundle's own take their place."""
    channels = 3 if target == "FlexibleUNet" else 1
    definition = {"_target_": f"monai.networks.nets.{target}", **SMALL[target], "out_channels": 2}
    definition |= {"spatial_dims": 2, "in_channels": channels}
    folder = write_folder(tmp_path, bundle_files(b"", network_def=definition))
    torch.manual_seed(0)
    network = build_network(read_definition(open_bundle(str(folder), ""))).eval()
    (tmp_path / "models/model.pt").write_bytes(weights_of(network))
    teacher = build(folder, pixel_mean=[40.0] * channels, pixel_std=[50.0] * channels, input_size=64)
    square = np.random.default_rng(1).integers(0, 256, (1, 1, 64, 64), dtype=np.uint8)  # SwinUNETR's least is above 32
    x = (torch.from_numpy(square).float() - 40).expand(-1, channels, -1, -1) / 50
    with torch.inference_mode():
        output = network(x)
    logits = output[0] if isinstance(output, list) else output
    assert logits.shape == (1, 2, 64, 64)
    np.testing.assert_allclose(lv_prob(teacher, square)[0, 0], logits.softmax(1)[0, 1].numpy(), atol=1e-6)


def test_of_several_maps_of_deep_supervision_one_is_named(tmp_path: Path) -> None:
    """MONAI's U-Net++ gives the coarsest first and the finest last."""
    small = SMALL["BasicUNetPlusPlus"]
    definition = {"_target_": "BasicUNetPlusPlus", **small, "spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    folder = write_folder(tmp_path, bundle_files(b"", network_def={**definition, "deep_supervision": True}))
    torch.manual_seed(0)
    network = build_network(read_definition(open_bundle(str(folder), ""))).eval()
    (tmp_path / "models/model.pt").write_bytes(weights_of(network))
    options: dict[str, Any] = {"pixel_mean": [40.0], "pixel_std": [50.0], "input_size": 64}
    with pytest.raises(
        InputError, match=r"teacher.output: got '', but the network gives 0 \[.*\], .* 3 \[.*\]; name the"
    ):
        build(folder, **options)
    square = np.random.default_rng(1).integers(0, 256, (1, 1, 64, 64), dtype=np.uint8)
    with torch.inference_mode():
        finest = network((torch.from_numpy(square).float() - 40) / 50)[3]
    found = lv_prob(build(folder, **options, output="3"), square)[0, 0]
    np.testing.assert_allclose(found, finest.softmax(1)[0, 1].numpy(), atol=1e-6)


def test_references_to_values_of_the_same_file_are_followed(tmp_path: Path, weights: bytes) -> None:
    definition = {**UNET, "channels": "@sizes::deep", "out_channels": "@n", "norm": "@norms#0", "_desc_": "small"}
    files = bundle_files(weights, network_def=definition, sizes={"deep": [4, "@eight"]}, eight=8, n=2, norms=["batch"])
    found = read_definition(open_bundle(str(write_folder(tmp_path, files)), ""))
    assert found.arguments == {key: value for key, value in UNET.items() if key != "_target_"}
    assert (found.in_channels, found.out_channels) == (1, 2)
    np.testing.assert_allclose(lv_prob(build(tmp_path), VIDEO), expected_masks(), atol=1e-6)


def test_the_training_config_is_read_where_there_is_no_other(tmp_path: Path, weights: bytes) -> None:
    files = bundle_files(weights)
    files["configs/train.json"] = files.pop("configs/inference.json")
    assert build(write_folder(tmp_path, files)).class_names == ("background", "LV")


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_target_": "os.system"}, r"network_def._target_ is 'os.system', allowed are AttentionUnet, BasicUNet"),
        ({"_target_": "monai.bundle.run"}, r"_target_ is 'monai.bundle.run', allowed"),
        ({"_target_": "monai.networks.nets.Classifier"}, r"_target_ is 'monai.networks.nets.Classifier', allowed"),
        ({"_target_": ["UNet"]}, r"_target_ is \['UNet'\], allowed"),
        ({"channels": "$[4, 8]"}, r"network_def.channels is '\$\[4, 8\]': expressions \(\$\)"),
        ({"channels": ["$__import__('os').system('x')"]}, r"network_def.channels is \"\$__import__"),
        ({"channels": "%other.json::channels"}, r"channels is '%other.json::channels': expressions"),
        ({"act": {"_target_": "torch.nn.PReLU"}}, r"network_def.act has a _target_ of its own"),
        ({"act": ["prelu", {"_requires_": "@x"}]}, r"network_def.act has the key '_requires_', which is not read"),
        ({"_mode_": "debug"}, r"network_def has the key '_mode_', which is not read here"),
        ({"channels": "@nothing"}, r"network_def.channels refers to '@nothing', which is no value of this file"),
        ({"channels": "@circle"}, r"is deeper than 10 levels or part of more than 1000 values"),
        ({"channels": "@bomb"}, r"is deeper than 10 levels or part of more than 1000 values"),
        ({"channels": deep(30)}, r"is deeper than 10 levels"),
        ({"channels": "@inferer"}, r"channels \(@inferer\) has a _target_ of its own"),
        ({"channels": [4, 5000]}, r"network_def.channels has the number 5000, at most 4096"),
        ({"num_res_units": 100000}, r"network_def.num_res_units has the number 100000, at most 64"),
        ({"in_channels": 10**15}, r"in_channels has the number 1000.*, at most 4096"),
        ({"width": 3}, r"network_def has the argument 'width', UNet has spatial_dims, in_channels"),
        ({"spatial_dims": 3}, r"network_def.spatial_dims is 3, only networks of 2 are read"),
        ({"in_channels": "1"}, r"network_def.in_channels is '1', expected 1 .. 64"),
        ({"out_channels": True}, r"network_def.out_channels is True, expected 1 .. 64"),
        ({"norm": "no such norm"}, r"UNet as network_def describes it cannot be built: "),
        ({"strides": []}, r"UNet as network_def describes it cannot be built: "),
        ({"channels": [4, 16]}, r"model.pt is no UNet as network_def describes it: .* tensors differ"),
    ],
)
def test_a_definition_that_is_not_plain_is_refused(
    tmp_path: Path, weights: bytes, change: dict[str, Any], words: str
) -> None:
    more = {"circle": ["@circle"], "bomb": ["@bomb2"] * 40, "bomb2": [1] * 40}
    folder = write_folder(tmp_path, bundle_files(weights, network_def={**UNET, **change}, **more))
    with pytest.raises(InputError, match=words):
        build(folder)


@pytest.mark.parametrize("value", [None, [], "UNet", 3])
def test_a_bundle_without_a_definition_is_refused(tmp_path: Path, weights: bytes, value: Any) -> None:
    with pytest.raises(InputError, match=r"inference.json has no object network_def"):
        build(write_folder(tmp_path, bundle_files(weights, network_def=value)))


def test_outputs_of_config_and_metadata(tmp_path: Path, weights: bytes) -> None:
    folder = write_folder(tmp_path, bundle_files(weights))
    assert build(folder, outputs=["x", "y"], classes={"y": "LV"}).class_names == ("background", "LV")
    with pytest.raises(
        InputError, match=r"got LV, but the network in .* gives 2 channels \(background, LV by its meta"
    ):
        build(folder, outputs=["LV"])
    with pytest.raises(InputError, match=r"teacher.pixel_mean: .* needs C = 1; the option stands for 3"):
        build(folder, pixel_mean=[1.0] * 3, pixel_std=[1.0] * 3)
    for channel_def in ({"0": "background"}, {"0": 1, "1": 2}, {"1": "a", "2": "b"}, {"0": "a", "1": "x" * 200}, "LV"):
        metadata = json.loads(json.dumps(METADATA))
        metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = channel_def
        (folder / "configs/metadata.json").write_text(json.dumps(metadata))
        with pytest.raises(InputError, match=r"got none, but the network in .* gives 2 channels"):
            build(folder)
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = {"0": "background", "1": "no name of ours"}
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ConfigError, match=r"teacher.classes: got 'no name of ours', a name of ours may hold letters"):
        build(folder)
    (folder / "configs/metadata.json").unlink()
    with pytest.raises(InputError, match="its metadata names none"):
        build(folder)


def test_files_of_a_bundle_are_bounded_and_pinned(tmp_path: Path, weights: bytes) -> None:
    files = bundle_files(weights)
    path = tmp_path / "bundle.zip"

    def refused(words: str, data: bytes, **options: Any) -> None:
        path.write_bytes(data)
        with pytest.raises(InputError, match=words):
            build(path, **options)

    good = zipped(files)
    refused("bundle.zip has the sha256 .* the file was not opened", good, sha256="0" * 64)
    assert build(path, sha256=hashlib.sha256(good).hexdigest()).class_names[1] == "LV"
    refused(r"is no folder and no zip file", b"PK not a zip")
    refused(r"it lacks configs/inference.json or configs/train.json", zipped({"models/model.pt": weights}))
    refused(r"it lacks models/model.pt", zipped({k: v for k, v in files.items() if not k.startswith("models")}))
    refused(
        r"inference.json has 1048577 bytes, at most",
        zipped({**files, "configs/inference.json": b" " * (1 << 20) + b"{"}),
    )
    refused(r"model.pt has \d+ bytes, at most \d+ are read", zipped({**files, "models/model.pt": bytes(1 << 27)}))
    refused(
        r"must hold one bundle, .* found configs in a/, b/",
        zipped({f"{r}{k}": v for r in "ab" for k, v in (("/configs/metadata.json", b"{}"),)}, root=""),
    )
    refused(
        r"must hold one bundle, .* found configs in a/../../",
        zipped({f"../../{k}": v for k, v in files.items()}, root="a/"),
    )
    refused(r"inference.json is not readable JSON", zipped({**files, "configs/inference.json": b"{" * 9000}))
    folder = write_folder(tmp_path / "folder", files)
    with pytest.raises(InputError, match=r"teacher.sha256: .*folder is a folder, which has no sha256"):
        build(folder, sha256="0" * 64)
    (folder / "configs/inference.json").write_bytes(b" " * (1 << 21))
    with pytest.raises(InputError, match=r"inference.json has 2097152 bytes, at most 1048576 are read"):
        build(folder)


def test_weights_that_hold_objects_are_not_unpickled(tmp_path: Path, weights: bytes) -> None:
    sink = io.BytesIO()
    torch.save({"model": torch.nn.Linear(2, 2)}, sink)  # a whole module, which only unpickling could give
    folder = write_folder(tmp_path, bundle_files(sink.getvalue()))
    with pytest.raises(InputError, match=r"model.pt: .* is not a plain tensor|tensors differ"):
        build(folder)
    (folder / "models/model.pt").write_bytes(weights[:-200])
    with pytest.raises(InputError, match=r"model.pt cannot be read as a checkpoint"):
        build(folder)


def test_a_bundle_that_is_not_there_and_a_missing_library_are_one_sentence(
    tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"nothing.zip cannot be read: No such file"):
        build(tmp_path / "nothing.zip")
    folder = write_folder(tmp_path, bundle_files(weights))
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(InputError, match=r"teacher.kind=monai_bundle needs monai .* pip install 'echodfkd\[monai\]'"):
        build(folder)


def test_the_config_takes_a_bundle_and_refuses_what_it_does_not_read() -> None:
    base = ["students.a.blocks=1", "teacher.kind=monai_bundle", "teacher.weights=/b", "teacher.pixel_mean=[0]"]
    base += ["teacher.pixel_std=[1]", "teacher.outputs=[]", "teacher.activation=softmax"]
    assert load_config(None, base).teacher.outputs == []
    with pytest.raises(ConfigError, match=r"teacher.network: has no effect if teacher.kind is monai_bundle"):
        load_config(None, [*base, "teacher.network=UNet"])
    with pytest.raises(ConfigError, match=r"teacher.outputs: got none, expected different names"):
        load_config(None, [*base, "teacher.kind=onnx"])
