"""A user's own model of images and captions: an image tower in ONNX, and its embedded captions.

A folder holds ``image.onnx``, one float tensor (N, 3, S, S) -> (N, E); ``captions.safetensors``, a float32 vector (E,)
for each caption, by its own words; and ``judge.json``: ``side`` S, ``mean`` and ``std`` of three channels of 0 .. 1.
The text tower stays with the user: a run asks fixed captions, and a tokenizer is code.

Legend: N frames or captions, H rows, W columns, E embedding width, S side of the model's input.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from echodfkd.core.errors import InputError, RunError, one_line
from echodfkd.models.archives.onnx_file import open_onnx
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.judges.pixels import prepare_frames

IMAGE_FILE, CAPTIONS_FILE, SETTINGS_FILE = "image.onnx", "captions.safetensors", "judge.json"
MAX_SIDE = 1024
CHUNK_FRAMES = 16


class OnnxTowers:
    """`echodfkd.models.judges.protocol.TwoTowers` of a folder.

    Raises:
        InputError: a file is absent or does not fit, or onnxruntime is not installed.
    """

    def __init__(self, weights: str, device: str) -> None:
        files = PublishedFiles(Path(weights), "", "evaluation.judge_weights")
        self._where = f"{files.option}: {files.folder}"
        self._side, self._mean, self._std = _settings(files)
        data = files.read_bytes(IMAGE_FILE)
        cuda = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        self._session = open_onnx(
            data, where=f"{self._where}/{IMAGE_FILE}", threads=torch.get_num_threads(),
            providers=[*cuda, "CPUExecutionProvider"],
        )  # fmt: skip
        self._captions = files.read_tensors(CAPTIONS_FILE)
        widths = {tuple(one.shape) for one in self._captions.values()}
        if len(widths) != 1 or len(next(iter(widths))) != 1 or not all(map(_has_direction, self._captions.values())):
            raise InputError(f"{self._where}/{CAPTIONS_FILE} must hold finite vectors of one length, none of them zero")
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{one.name} {one.type}" for one in inputs)
            raise InputError(
                f"{self._where}/{IMAGE_FILE} takes {found or 'nothing'} and gives {len(outputs)} outputs, expected one"
                " float tensor and one output"
            )
        digest = hashlib.sha256(data + files.read_bytes(CAPTIONS_FILE) + files.read_bytes(SETTINGS_FILE))
        self.weights_hash = digest.hexdigest()[:8]

    def embed_frames(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 (N, E), of grey frames, uint8 (N, H, W)."""
        return torch.cat([self._run(part) for part in frames_NHW.split(CHUNK_FRAMES)])

    def _run(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        x = prepare_frames(frames_NHW, self._side, self._mean, self._std)
        try:
            found: Any = self._session.run(None, {self._session.get_inputs()[0].name: x.numpy()})[0]
        except Exception as error:  # onnxruntime has a class for each of its codes, none public
            raise RunError(f"{self._where}/{IMAGE_FILE} fails on {tuple(x.shape)}: {one_line(error)}") from error
        width = len(next(iter(self._captions.values())))
        if np.shape(found) != (len(x), width):
            raise RunError(
                f"{self._where}/{IMAGE_FILE} gave {np.shape(found)} for {len(x)} frames, expected"
                f" {(len(x), width)}, as {CAPTIONS_FILE} has"
            )
        return F.normalize(torch.from_numpy(np.asarray(found, np.float32)), dim=-1)

    def embed_captions(self, captions: list[str]) -> torch.Tensor:
        """Unit vectors, float32 (N, E), of the file. Raises `InputError` if it lacks one."""
        missing = [caption for caption in captions if caption not in self._captions]
        if missing:
            raise InputError(
                f"{self._where}/{CAPTIONS_FILE} lacks {missing[0]!r} ({len(missing)} of {len(captions)} captions);"
                " embed all captions of evaluation.judge_prompts with the model's own text tower"
            )
        return F.normalize(torch.stack([self._captions[caption].float() for caption in captions]), dim=-1)


def _has_direction(vector: torch.Tensor) -> bool:
    return bool(torch.isfinite(vector).all() and vector.any())


def _settings(files: PublishedFiles) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Side, means and standard deviations of ``judge.json``."""
    where, values = f"{files.option}: {files.folder / SETTINGS_FILE}", files.read_json(SETTINGS_FILE)
    side, mean, std = (values.get(name) for name in ("side", "mean", "std"))
    if set(values) != {"side", "mean", "std"} or type(side) is not int or not 1 <= side <= MAX_SIDE:
        raise InputError(f"{where} must hold side (1 .. {MAX_SIDE}), mean and std, got {str(values)[:120]}")
    return side, _three(mean, f"{where}: mean", above=-math.inf), _three(std, f"{where}: std", above=0.0)


def _three(values: object, where: str, *, above: float) -> tuple[float, ...]:
    """Three finite numbers above a bound."""
    if isinstance(values, list) and len(values) == 3 and all(type(one) in (int, float) for one in values):
        found = tuple(float(one) for one in values)
        if all(above < one < math.inf for one in found):
            return found
    raise InputError(f"{where} must be three numbers{' above 0' if above == 0 else ''}, got {str(values)[:80]}")
