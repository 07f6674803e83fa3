"""Read networks of diffusers from folders of others: settings by strict rules, weights as plain tensors.

A folder holds ``config.json`` (class name and arguments) and ``diffusion_pytorch_model.safetensors``. diffusers' own
``from_pretrained`` may ask the hub and import code that a folder names; here a class is taken from a fixed list, its
arguments are checked one by one, it is built without memory (device "meta"), and the file's tensors must fit it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from echodfkd.core.errors import InputError, one_line
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.archives.state_dicts import check_same_keys
from echodfkd.models.teachers.torchvision_guard import import_torchvision

WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
_NOTES = ("_class_name", "_diffusers_version", "_name_or_path")
"""Keys of a config.json that describe the file; nothing is built from them."""
_MOST_ENTRIES, _MOST_LAYERS, _MOST_DEPTH = 16, 8, 64
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,63}")


def import_diffusers(module: str = "diffusers") -> ModuleType:
    """diffusers, or a module of it.

    Raises:
        InputError: it is not installed, or does not import.
    """
    try:
        if importlib.util.find_spec("transformers") and importlib.util.find_spec("torchvision"):
            import_torchvision()  # diffusers imports transformers if it is there, and that imports torchvision
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"source.kind: this generator needs diffusers, which cannot be imported ({one_line(error)}); install the"
            " extra: pip install 'echodfkd[synthesis]'"
        ) from error


def load_network(files: PublishedFiles, class_name: str, network_class: type | None = None) -> Any:
    """A network out of its folder, in evaluation mode, float32, on the CPU.

    Args:
        files: with config.json and diffusion_pytorch_model.safetensors.
        class_name: that must stand in config.json.
        network_class: that is built; None takes that of diffusers.

    Raises:
        InputError: another class, an argument that the class lacks or that is out of bounds, or weights that do not
            fit.
    """
    config = files.read_json("config.json")
    where = f"{files.option}: {files.folder / 'config.json'}"
    if config.get("_class_name") != class_name:
        raise InputError(f"{where}: _class_name is {str(config.get('_class_name'))[:80]!r}, expected {class_name}")
    network_class = network_class or getattr(import_diffusers(), class_name)
    arguments = {key: value for key, value in config.items() if key not in _NOTES}
    tensors = _renamed(files.read_tensors(WEIGHTS_NAME))
    return build_network(network_class, arguments, tensors, (where, str(files.folder / WEIGHTS_NAME)))


def _renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Autoencoders saved before diffusers 0.12, as Stable Diffusion's own, call their attention by other names."""
    old = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
    names = {key: key for key in tensors}
    for before, after in old.items():
        names = {key: name.replace(before, after) if ".attentions." in key else name for key, name in names.items()}
    return {names[key]: value for key, value in tensors.items()}


def build_network(
    network_class: Callable[..., Any],
    arguments: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    where: tuple[str, str],
) -> Any:
    """A network of settings and weights, for inference.

    The settings are checked and built without memory first, so that only as much is taken as the file holds.

    Args:
        network_class: of diffusers or this package, or a function that builds one.
        arguments: of it.
        tensors: its weights.
        where: names of the two files, for errors.

    Raises:
        InputError: the settings are out of bounds or do not go together, or the weights do not fit them.
    """
    check_arguments(arguments, network_class, where[0])
    try:
        with torch.device("meta"):
            network: nn.Module = network_class(**arguments)
    except Exception as error:  # each class has errors of its own for settings that do not go together
        raise InputError(f"{where[0]}: {network_class.__name__} refuses these settings: {one_line(error)}") from error
    own = {key: value.shape for key, value in network.state_dict().items()}
    check_same_keys(own, {key: value.shape for key, value in tensors.items()}, where[1], network="network")
    if {name for name, _ in network.named_buffers()} - own.keys():  # tables that are computed, not stored
        network = network_class(**arguments)
    network.load_state_dict(dict(tensors), assign=True)
    return network.eval().requires_grad_(False)


def check_arguments(arguments: Mapping[str, Any], network_class: Callable[..., Any], where: str) -> None:
    """Raise `InputError` for an argument that the class does not take, or for a value that no published file has."""
    known = inspect.signature(network_class).parameters
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    for key, value in arguments.items():
        if key not in known and not takes_any:
            raise InputError(f"{where}: {key[:80]!r} is no setting of {network_class.__name__} of this diffusers")
        kinds = (int, float) if takes_any or "float" in str(known[key].annotation) else (int,)
        most = _MOST_DEPTH if key in ("num_layers", "num_hidden_layers", "depth") else _MOST_LAYERS
        _check_value(value, f"{where}: {key}", kinds=kinds, most=most if "layers" in key or key == "depth" else 1 << 16)


def _check_value(value: Any, where: str, *, kinds: tuple[type, ...], most: int, depth: int = 0) -> None:
    if isinstance(value, list) and len(value) <= _MOST_ENTRIES and depth < 2:
        for part in value:
            _check_value(part, where, kinds=kinds, most=most, depth=depth + 1)
    elif isinstance(value, str):
        if not _WORD.fullmatch(value):
            raise InputError(f"{where} is {value[:80]!r}, expected one word")
    elif not (value is None or (isinstance(value, kinds) and 0 <= value <= most)):  # type: ignore[operator]
        raise InputError(
            f"{where} is {str(value)[:80]}, expected a word, a {'' if float in kinds else 'whole '}number of"
            f" 0 .. {most}, or a list of at most {_MOST_ENTRIES}"
        )
