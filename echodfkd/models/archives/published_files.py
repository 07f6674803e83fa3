"""Folders of files that others published: settings by strict rules, weights as plain tensors. No download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from echodfkd.core.errors import InputError, one_line
from echodfkd.models.archives.torch_archive import read_state_dict
from echodfkd.storage.untrusted import parse_json_object, parse_yaml

OPTION = "source.generator.weights"
MAX_CONFIG_BYTES = 1 << 21
"""A tokenizer's vocabulary has 1.06 MB."""
MAX_WEIGHT_BYTES = 8 << 30
"""Largest file of weights: Stable Diffusion's network has 3.4 GB in single precision."""


@dataclass(frozen=True)
class PublishedFiles:
    """A folder of files that others published.

    Attributes:
        folder: on this machine.
        home: address that a user can get them from; "" if they are the user's own.
        option: that names the folder.
    """

    folder: Path
    home: str
    option: str = OPTION

    def find(self, *names: str) -> Path:
        """The first of these files that is there. Raises `InputError`, which names the file and its home."""
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        home = f"; it is published at {self.home}, and this package downloads nothing" if self.home else ""
        raise InputError(f"{self.option}: {self.folder} lacks {' or '.join(names)}{home}")

    def inside(self, *names: str) -> PublishedFiles:
        """The files of the first of these folders that is there; of the first, if none is."""
        found = next((name for name in names if (self.folder / name).is_dir()), names[0])
        return PublishedFiles(self.folder / found, self.home, self.option)

    def variant(self, name: str) -> PublishedFiles:
        """The files of a folder that has its config.json itself, or in the only folder in it that has one.

        Raises:
            InputError: none, or several: which to take would be a guess.
        """
        files = self.inside(name)
        if (files.folder / "config.json").is_file():
            return files
        found = sorted(place.parent.name for place in files.folder.glob("*/config.json"))
        if len(found) != 1:
            raise InputError(
                f"{self.option}: {files.folder} must hold config.json, or one folder that does; found"
                f" {', '.join(found) or 'none'}. It is published at {self.home}"
            )
        return files.inside(found[0])

    def read_json(self, name: str) -> dict[str, Any]:
        """The object of a JSON file. Raises `InputError`."""
        return parse_json_object(self.read_bytes(name, MAX_CONFIG_BYTES), f"{self.option}: {self.folder / name}")

    def read_yaml(self, name: str) -> dict[str, Any]:
        """The mapping of a YAML file. Raises `InputError`."""
        values = parse_yaml(self.read_bytes(name, MAX_CONFIG_BYTES), f"{self.option}: {self.folder / name}")
        if not isinstance(values, dict):
            raise InputError(f"{self.option}: {self.folder / name} must hold a mapping, got {type(values).__name__}")
        return values

    def read_text(self, name: str) -> str:
        """A text file. Raises `InputError`."""
        try:
            return self.read_bytes(name, MAX_CONFIG_BYTES).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{self.option}: {self.folder / name} is no text: {error}") from error

    def read_tensors(self, name: str, *, entries: Sequence[str] = ("",)) -> dict[str, torch.Tensor]:
        """The tensors of a file, as float32: safetensors, or of ``torch.save``, which is followed, never unpickled.

        Args:
            name: of the file.
            entries: keys of the dictionary in a file of ``torch.save``; "" stands for the saved object itself.

        Raises:
            InputError: no such file, too large, damaged, or of other numbers than floats and integers.
        """
        place = self._bounded(name, MAX_WEIGHT_BYTES)
        where = f"{self.option}: {place}"
        if place.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                tensors = load_file(place)
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                raise InputError(f"{where} is no safetensors file: {one_line(error)}") from error
        else:
            tensors = read_state_dict(self.read_bytes(name), name=where, entries=entries)
        return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}

    def read_bytes(self, name: str, most: int = MAX_WEIGHT_BYTES) -> bytes:
        """A whole file of at most so many bytes. Raises `InputError`."""
        return self._bounded(name, most).read_bytes()

    def _bounded(self, name: str, most: int) -> Path:
        place = self.find(name)
        if (size := place.stat().st_size) > most:
            raise InputError(f"{self.option}: {place} has {size} bytes, at most {most} are read")
        return place
