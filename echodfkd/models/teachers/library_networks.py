"""Segmentation networks of libraries (torchvision, smp, MONAI) with weights from a file.

Each is built without memory and without random numbers (on torch's meta device), held against the tensors of the file,
and gets these as its weights: nothing is downloaded, and a file cannot ask for more than it brings.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn
from torch.overrides import TorchFunctionMode

from echodfkd.core.errors import ConfigError, InputError, one_line
from echodfkd.models.teachers.teacher_files import ForeignNetwork, one_output
from echodfkd.models.teachers.torchvision_guard import import_torchvision


class LibraryNetwork(ForeignNetwork):
    """A network of a library, with the weights of a file.

    Args:
        build: makes the network, weights drawn at random.
        state: the file's tensors by name.
        where: the file's name, for errors.
        what: the expected network, for errors, e.g. ``unet of 2 channels (teacher.outputs)``.
        weights_hash: of the file.
        output: key or number of the output, if the network gives several.

    Raises:
        InputError: the library refuses to build it, or the tensors are not those of the network.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        state: Mapping[str, torch.Tensor],
        *,
        where: str,
        what: str,
        weights_hash: str,
        output: str = "",
    ) -> None:
        super().__init__()
        self.weights_hash = weights_hash
        self._output = output
        self.inner = _with_weights(build, state, where=where, what=what).eval()

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        return one_output(self.inner(x), self._output)


def torchvision_network(name: str, data: bytes, *, where: str, num_channels: int) -> LibraryNetwork:
    """One of torchvision's segmentation networks, with weights from a safetensors file.

    Args:
        name: e.g. deeplabv3_resnet50.
        data: the file; tensors under torchvision's names. An auxiliary classifier in it is taken or left out.
        where: its name, for errors.
        num_channels: classes that the network gives, including the background if it was trained so.

    Raises:
        InputError: torchvision or the weights cannot be used.
        ConfigError: no such network.
    """
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    names = models.list_models(module=models.segmentation)
    if name not in names:
        raise ConfigError(f"teacher.network: got {name!r}, torchvision has {', '.join(names)}")
    state = read_safetensors(data, where)
    options: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": num_channels}
    if not name.startswith("lraspp"):  # the one family without an auxiliary classifier
        options["aux_loss"] = any(key.startswith("aux_classifier.") for key in state)
    return LibraryNetwork(
        lambda: models.get_model(name, **options),
        state,
        where=where,
        what=f"{name} of {num_channels} channels (teacher.outputs)",
        weights_hash=_hash(data),
    )


def smp_network(
    name: str, encoder: str, data: bytes, *, where: str, in_channels: int, num_channels: int
) -> LibraryNetwork:
    """A network of segmentation-models-pytorch, with weights from a safetensors file.

    All options but these are the library's defaults, and weights of other options do not fit.

    Args:
        name: architecture, e.g. unet.
        encoder: e.g. resnet34; or ``tu-`` and the name of a network of timm.
        data: the file; tensors under the library's names.
        where: its name, for errors.
        in_channels: of the input.
        num_channels: classes that the network gives.

    Raises:
        InputError: the library or the weights cannot be used.
        ConfigError: no such architecture or encoder.
    """
    smp = _import_smp()
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    if name not in architectures:
        raise ConfigError(f"teacher.network: got {name!r}, segmentation-models-pytorch has {', '.join(architectures)}")
    names = smp.encoders.get_encoder_names()
    if encoder not in names and encoder not in (f"tu-{of_timm}" for of_timm in _timm_names()):
        raise ConfigError(
            f"teacher.encoder: got {encoder!r}, segmentation-models-pytorch has {', '.join(names)}, and tu- with the"
            " name of a network of timm"
        )
    options = {"encoder_weights": None, "in_channels": in_channels, "classes": num_channels}
    return LibraryNetwork(
        lambda: architectures[name](encoder_name=encoder, **options),
        read_safetensors(data, where),
        where=where,
        what=f"{name} with {encoder} of {in_channels} input and {num_channels} output channels (teacher.outputs)",
        weights_hash=_hash(data),
    )


def read_safetensors(data: bytes, where: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name. Raises `InputError`."""
    try:
        return load_safetensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise InputError(f"teacher.weights: {where} cannot be read as a safetensors file: {error}") from error


def _with_weights(
    build: Callable[[], nn.Module], state: Mapping[str, torch.Tensor], *, where: str, what: str
) -> nn.Module:
    try:
        with torch.device("meta"), _NumbersOnCpu():
            network = build()
    except Exception as error:
        raise InputError(f"teacher.weights: {where}: {what} cannot be built: {one_line(error)}") from error
    expected = {key: (tuple(value.shape), value.dtype) for key, value in network.state_dict().items()}
    found = {key: (tuple(value.shape), value.dtype) for key, value in state.items()}
    if found != expected:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise InputError(
            f"teacher.weights: {where} is no {what}: {len(wrong)} of {len(expected)} tensors differ, first {wrong[0]}"
            f" (expected {expected.get(wrong[0], 'none')}, got {found.get(wrong[0], 'none')})"
        )
    network.load_state_dict(state, strict=True, assign=True)
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        with torch.random.fork_rng(
            devices=[]
        ):  # constants that are computed and not stored: build it again with memory
            network = build()
        network.load_state_dict(state, strict=True)
    return network


class _NumbersOnCpu(TorchFunctionMode):
    """Makes `torch.linspace` on the CPU: networks read drop rates from it, and meta tensors hold no numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.linspace:
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


def _import_smp() -> Any:
    import_torchvision()  # which timm and smp import
    try:
        return importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise InputError(
            f"teacher.kind=smp needs segmentation-models-pytorch ({error}); install the extra:"
            " pip install 'echodfkd[smp]'"
        ) from error


def _timm_names() -> list[str]:
    return importlib.import_module("timm").list_models()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]
