"""The network of a MONAI bundle: its definition and weights, and the names of its channels.

A bundle is a folder or zip with ``configs/inference.json`` (or ``train.json``), ``configs/metadata.json`` and
``models/model.pt`` (or ``model.safetensors``): https://docs.monai.io/en/stable/mb_specification.html. MONAI's own
reader imports any name in ``_target_`` and evaluates ``$`` expressions. Here the one entry ``network_def`` is read,
as plain values: a class of `NETWORKS`, numbers, words, and ``@`` references to such values in the same file. Its
preprocessing and inferer are not read; the options of the teacher replace them.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
from dataclasses import dataclass
from typing import Any

import torch

from echodfkd.core.errors import InputError
from echodfkd.models.archives.torch_archive import read_state_dict
from echodfkd.models.teachers.bundle_files import MAX_CONFIG_BYTES, BundleFiles, open_bundle
from echodfkd.models.teachers.library_networks import LibraryNetwork, read_safetensors
from echodfkd.models.teachers.teacher_files import MAX_FILE_BYTES
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.storage.untrusted import parse_json_object

NETWORKS = (
    "AttentionUnet",
    "BasicUNet",
    "BasicUNetPlusPlus",
    "DynUNet",
    "FlexibleUNet",
    "HighResNet",
    "MedNeXt",
    "SegResNet",
    "SegResNetDS",
    "SwinUNETR",
    "UNETR",
    "UNet",
    "VNet",
)
"""Classes of monai.networks.nets that give one map of logits per frame, (N, C, H, W) -> (N, classes, H, W)."""

CONFIGS = ("configs/inference.json", "configs/train.json")
WEIGHTS = ("models/model.pt", "models/model.safetensors")

MAX_VALUES = 1000
"""Values of a definition after its references are followed; large networks have some fifty."""
MAX_DEPTH = 10
MAX_WORD = 100
MAX_WIDTH = 4096
MAX_NUMBER = 64
"""Largest whole number that is no width: layers, kernels, windows, groups. A definition is built before its size is
known, and this bounds how long that takes."""
WIDTHS = ("channels", "features", "filters", "feature_size", "hidden_size", "img_size", "init_filters", "mlp_dim")

_TARGET = re.compile(r"(?:monai\.networks\.nets\.(?:[a-z0-9_]+\.)?)?([A-Za-z0-9]+)")
_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
_COMMENTS = ("_desc_",)


@dataclass(frozen=True)
class NetworkDefinition:
    """A bundle's ``network_def``, checked.

    Example: ``NetworkDefinition("UNet", {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, ...}, 1, 2)``.
    """

    target: str
    arguments: dict[str, Any]
    in_channels: int
    out_channels: int


class MonaiNetwork(LibraryNetwork):
    """The network of a bundle.

    Args:
        path: folder or zip file.
        sha256: that a zip file must have; "" takes any.
        output: number of the output, if the network gives several (deep supervision).

    ``channel_names`` are those of the output in its metadata, () if it gives none.

    Raises:
        InputError: MONAI is not installed, or the bundle cannot be used; which file and why.
    """

    def __init__(self, path: str, *, sha256: str, output: str = "") -> None:
        files = open_bundle(path, sha256)
        definition = read_definition(files)
        kind, weights = files.read_first(WEIGHTS, MAX_FILE_BYTES)
        where = f"{path}: {kind}"
        if kind.endswith(".pt"):
            state = read_state_dict(weights, name=f"teacher.weights: {where}", entries=("model", "state_dict", ""))
        else:
            state = read_safetensors(weights, where)
        told = json.dumps([definition.target, definition.arguments], sort_keys=True).encode()
        super().__init__(
            lambda: build_network(definition),
            state,
            where=where,
            what=f"{definition.target} as network_def describes it",
            weights_hash=hashlib.sha256(told + hashlib.sha256(weights).digest()).hexdigest()[:8],
            output=output,
        )
        self.definition = definition
        self.input_shape = (None, definition.in_channels, None, None)
        self.channel_names = read_channel_names(files)


def read_definition(files: BundleFiles) -> NetworkDefinition:
    """The network that a bundle's configs define.

    Raises:
        InputError: none of them does, or it asks for something that is not read: another class, an expression, a nested
            ``_target_``, a reference to something else than a literal, three dimensions, or numbers out of range.
    """
    name, data = files.read_first(CONFIGS, MAX_CONFIG_BYTES)
    where = f"teacher.weights: {files.path}: {name}"
    config = parse_json_object(data, where)
    found = config.get("network_def")
    if not isinstance(found, dict):
        raise InputError(f"{where} has no object network_def, which says what the network is")
    where = f"{where}: network_def"
    target = found.get("_target_")
    named = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if named is None or named[1] not in NETWORKS:
        raise InputError(
            f"{where}._target_ is {_shown(target)}, allowed are {', '.join(NETWORKS)} of monai.networks.nets"
        )
    reader = _Literals(config)
    arguments = {}
    for key, value in found.items():
        if key not in ("_target_", *_COMMENTS):
            reader.refuse_special(key, where)
            arguments[key] = reader.read(value, f"{where}.{key}", key)
    return _check_arguments(named[1], arguments, where)


def build_network(definition: NetworkDefinition) -> torch.nn.Module:
    """The network with random weights. Raises the errors of its class."""
    return getattr(_import_nets(), definition.target)(**definition.arguments)


def read_channel_names(files: BundleFiles) -> tuple[str, ...]:
    """Names of the output's channels in ``configs/metadata.json``, in order; () if it does not say.

    ``network_data_format.outputs.pred.channel_def`` maps "0", "1", ... to names. Raises `InputError` if the file
    is no JSON.
    """
    data = files.read("configs/metadata.json", MAX_CONFIG_BYTES)
    if data is None:
        return ()
    node: Any = parse_json_object(data, f"teacher.weights: {files.path}: configs/metadata.json")
    for key in ("network_data_format", "outputs", "pred", "channel_def"):
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict) or not 0 < len(node) <= MAX_NUMBER:
        return ()
    names = [node.get(str(place)) for place in range(len(node))]
    fit = [name for name in names if isinstance(name, str) and 0 < len(name) <= MAX_WORD]
    return tuple(fit) if len(fit) == len(names) else ()


class _Literals:
    """Plain values of a config, with references followed, and a bound on how many they become."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.left = MAX_VALUES

    def read(self, value: Any, where: str, argument: str, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            raise InputError(f"{where} is deeper than {MAX_DEPTH} levels or part of more than {MAX_VALUES} values")
        if isinstance(value, str):
            return self._word(value, where, argument, depth)
        if isinstance(value, list):
            return [self.read(each, where, argument, depth + 1) for each in value]
        if isinstance(value, dict):
            if "_target_" in value:
                raise InputError(f"{where} has a _target_ of its own; only numbers, words, lists and objects are read")
            for key in value:
                self.refuse_special(key, where)
            return {key: self.read(each, where, argument, depth + 1) for key, each in value.items()}
        if isinstance(value, int) and not isinstance(value, bool):
            most = MAX_WIDTH if argument in WIDTHS or argument.endswith("channels") else MAX_NUMBER
            if not -most <= value <= most:
                raise InputError(f"{where} has the number {str(value)[:40]}, at most {most} is allowed")
        return value

    def refuse_special(self, key: str, where: str) -> None:
        """Refuse MONAI's own keys, such as ``_mode_`` and ``_requires_``: they change how it builds a network."""
        if key.startswith("_") or len(key) > MAX_WORD:
            raise InputError(f"{where} has the key {_shown(key)}, which is not read here; remove it")

    def _word(self, value: str, where: str, argument: str, depth: int) -> Any:
        if value.startswith(("$", "%")) or len(value) > MAX_WORD:
            raise InputError(
                f"{where} is {_shown(value)}: expressions ($), other files (%) and long texts are not read; write down"
                " the value that it stands for"
            )
        if not value.startswith("@"):
            return value
        reference = _REFERENCE.fullmatch(value)
        node: Any = self.config if reference else None
        for key in re.split("::|#", reference[1]) if reference else ():
            if isinstance(node, list) and key.isdecimal() and len(key) < 5 and int(key) < len(node):
                node = node[int(key)]
            else:
                node = node.get(key) if isinstance(node, dict) else None
        if node is None:
            raise InputError(f"{where} refers to {_shown(value)}, which is no value of this file")
        return self.read(node, f"{where} ({value})", argument, depth + 1)


def _check_arguments(target: str, arguments: dict[str, Any], where: str) -> NetworkDefinition:
    parameters = inspect.signature(getattr(_import_nets(), target)).parameters
    if unknown := [name for name in arguments if name not in parameters]:
        raise InputError(f"{where} has the argument {_shown(unknown[0])}, {target} has {', '.join(parameters)}")
    if "pretrained" in parameters:
        arguments["pretrained"] = False  # it would be downloaded, and then replaced by the bundle's weights
    given = {name: arguments.get(name, parameters[name].default) for name in ("spatial_dims", *_CHANNELS)}
    if given["spatial_dims"] != 2:
        raise InputError(f"{where}.spatial_dims is {_shown(given['spatial_dims'])}, only networks of 2 are read")
    for name in _CHANNELS:
        if type(given[name]) is not int or not 1 <= given[name] <= MAX_NUMBER:
            raise InputError(f"{where}.{name} is {_shown(given[name])}, expected 1 .. {MAX_NUMBER}")
    return NetworkDefinition(target, arguments, *(given[name] for name in _CHANNELS))


_CHANNELS = ("in_channels", "out_channels")


def _import_nets() -> Any:
    import_torchvision()  # which parts of MONAI import where it is there
    try:
        return importlib.import_module("monai.networks.nets")
    except ImportError as error:
        raise InputError(
            f"teacher.kind=monai_bundle needs monai ({error}); install the extra: pip install 'echodfkd[monai]'"
        ) from error


def _shown(value: Any) -> str:
    return "missing" if value in (None, inspect.Parameter.empty) else repr(value)[:80]
