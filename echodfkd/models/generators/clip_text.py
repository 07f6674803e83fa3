"""Stable Diffusion's text encoder and tokenizer out of their folders, through transformers.

Legend: K tokens, D width.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch

from echodfkd.core.errors import InputError, one_line
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.generators.weight_files import build_network, import_diffusers

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_NO_EFFECT = (
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "dropout",
    "dtype",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "projection_dim",
    "torch_dtype",
    "transformers_version",
)
"""Keys of published files that matter in training, to a projection that is not used, or not at all."""


class PromptEncoder:
    """Prompts as Stable Diffusion's network reads them.

    Args:
        files: folder with text_encoder/ (config.json, model.safetensors) and tokenizer/ (vocab.json, merges.txt).
        device: torch device.

    Raises:
        InputError: transformers is not installed, or a file is missing or cannot be used.
    """

    def __init__(self, files: PublishedFiles, device: str) -> None:
        encoder, words = files.inside("text_encoder"), files.inside("tokenizer")
        transformers = _import_transformers()
        config = encoder.read_json("config.json")
        where = f"{files.option}: {encoder.folder / 'config.json'}"
        if strange := sorted(config.keys() - {*_SIZES, *_NO_EFFECT}):
            raise InputError(f"{where}: {strange[0][:80]!r} is no setting of CLIP's text encoder that is read here")
        tensors = encoder.read_tensors("model.safetensors")
        tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
        tensors.pop("embeddings.position_ids", None)  # 0 .. K - 1, stored by old versions

        def text_encoder(**settings: Any) -> Any:
            """CLIP's text encoder of these settings."""
            return transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))

        settings = {name: config[name] for name in _SIZES if name in config}
        place = str(encoder.folder / "model.safetensors")
        self._network = build_network(text_encoder, settings, tensors, (where, place)).to(device)
        self._length = int(self._network.config.max_position_embeddings)
        merges = words.read_text("merges.txt").splitlines()
        pairs = [tuple(line.split()) for line in merges if line and not line.startswith("#version")]
        if any(len(pair) != 2 for pair in pairs):
            raise InputError(f"{files.option}: {words.folder / 'merges.txt'} must hold two pieces a line")
        try:
            self._tokenizer = transformers.CLIPTokenizer(vocab=words.read_json("vocab.json"), merges=pairs)
        except Exception as error:  # the tokenizer's library has no class of its own
            raise InputError(f"{files.option}: {words.folder} is no tokenizer of CLIP: {one_line(error)}") from error
        self._device = device

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """(len(prompts), K, D)."""
        settings = {"padding": "max_length", "max_length": self._length, "truncation": True, "return_tensors": "pt"}
        ids = self._tokenizer(list(prompts), **settings).input_ids
        return self._network(ids.to(self._device)).last_hidden_state


def _import_transformers() -> Any:
    import_diffusers()  # makes torchvision importable beside a CPU build, which transformers needs
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            f"source.kind=diffecho reads its prompts with transformers, which cannot be imported ({one_line(error)});"
            " install the extra: pip install 'echodfkd[synthesis_text]'"
        ) from error
