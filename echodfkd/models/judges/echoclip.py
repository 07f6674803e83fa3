"""EchoCLIP's towers: the authors' auxiliary model, from the Hugging Face hub or from a folder, through open_clip.

Christensen et al., "Vision-language foundation model for echocardiogram interpretation", Nature Medicine 2024. A folder
holds the files of open_clip: ``open_clip_config.json`` and ``open_clip_model.safetensors`` (or
``open_clip_pytorch_model.bin``, which is read with ``weights_only=True``). open_clip needs torchvision.

Legend: N frames or captions, H rows, W columns, E embedding width, S side of the model's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.core.errors import InputError, one_line
from echodfkd.models.judges.pixels import prepare_frames
from echodfkd.models.teachers.torchvision_guard import import_torchvision
from echodfkd.storage.untrusted import parse_json_object

if TYPE_CHECKING:
    from echodfkd.models.judges.captions import CaptionStore

HUB_NAME = "hf-hub:mkaichristensen/echo-clip"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
MAX_CONFIG_BYTES = 1 << 20
_DOWNLOADS = ("hf_model_name", "hf_tokenizer_name", "timm_model_pretrained")
"""Settings of a config that make open_clip fetch further models."""
TEXT_PARTS = ("text", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
"""Parts of the text tower, in open_clip's two kinds of models."""
CHUNK_CAPTIONS = 64


class OpenClipTowers(nn.Module):
    """An open_clip model as a pair of towers (`echodfkd.models.judges.protocol.TwoTowers`).

    Args:
        model: with encode_image and encode_text.
        tokenizer: captions -> int64 (N, context).
        side: S.
        mean: of each colour channel, 0..1.
        std: likewise.
        dtype: of the image tower's input.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        side: int,
        mean: Sequence[float],
        std: Sequence[float],
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self._tokenizer = tokenizer
        self._side, self._dtype = side, dtype
        self.captions: CaptionStore | None = None
        self._mean, self._std = tuple(mean), tuple(std)

    def prepare(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Grey frames, uint8 (N, H, W), as the model's input, float32 (N, 3, S, S)."""
        return prepare_frames(frames_NHW, self._side, self._mean, self._std)

    def embed_frames(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 (N, E), of grey frames, uint8 (N, H, W)."""
        x = self.prepare(frames_NHW.to(self._device)).to(self._dtype)
        return F.normalize(self.model.encode_image(x).float(), dim=-1)

    def embed_captions(self, captions: list[str]) -> torch.Tensor:
        """Unit vectors, float32 (N, E): from the cache ``captions`` if there is one."""
        if self.captions is None:
            return self._run_text_tower(captions)
        return self.captions.embed(captions, self._run_text_tower).to(self._device)

    def drop_text_tower(self) -> None:
        """Free the memory of the text tower: no more captions can be embedded."""
        for name in TEXT_PARTS:
            if hasattr(self.model, name):
                setattr(self.model, name, None)

    def _run_text_tower(self, captions: list[str]) -> torch.Tensor:
        parts = [
            F.normalize(self.model.encode_text(self._tokenizer(chunk).to(self._device)).float(), dim=-1)
            for chunk in _chunks(captions)
        ]
        return torch.cat(parts)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


def load_towers(weights: str, device: str, *, precision: str = "fp32") -> OpenClipTowers:
    """EchoCLIP's towers.

    Args:
        weights: a folder, an ``hf-hub:`` name, or "" for `HUB_NAME`.
        device: cpu or cuda.
        precision: fp32 or bf16 (as published).

    Raises:
        InputError: open_clip or torchvision is not installed, the folder is not one that open_clip saves, its config
            would fetch other models, or the hub cannot be reached.
    """
    try:
        import_torchvision()
        import open_clip
    except ImportError as error:
        raise InputError(
            f"evaluation.judge: echoclip needs open_clip ({error}); install the extra: pip install 'echodfkd[judge]'"
        ) from error
    name = weights or HUB_NAME
    if not name.startswith("hf-hub:"):
        _check_folder(Path(name))
        name = f"local-dir:{name}"
    try:
        # Without require_pretrained open_clip goes on with random weights if it finds none.
        model = open_clip.create_model(
            name, precision=precision, device=device, weights_only=True, require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(name)
        settings = open_clip.get_model_preprocess_cfg(model)
    except Exception as error:  # the hub, the file formats and the network builder all have their own errors
        raise InputError(f"evaluation.judge_weights: {name} cannot be loaded: {one_line(error)}") from error
    side = settings["size"] if isinstance(settings["size"], int) else settings["size"][0]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    towers = OpenClipTowers(
        model.eval(), tokenizer, side=int(side), mean=settings["mean"], std=settings["std"], dtype=dtype
    )
    return towers.requires_grad_(False)


def _chunks(captions: list[str]) -> Iterator[list[str]]:
    return (captions[first : first + CHUNK_CAPTIONS] for first in range(0, len(captions), CHUNK_CAPTIONS))


def _check_folder(folder: Path) -> None:
    where = f"evaluation.judge_weights: {folder}"
    config = folder / "open_clip_config.json"
    if not config.is_file():
        raise InputError(f"{where} holds no open_clip_config.json; expected a folder as open_clip saves it, or hf-hub:")
    if config.stat().st_size > MAX_CONFIG_BYTES:
        raise InputError(f"{where}/open_clip_config.json has more than {MAX_CONFIG_BYTES} bytes")
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        raise InputError(f"{where} holds no weights; expected {' or '.join(WEIGHT_FILES)}")
    values = parse_json_object(config.read_bytes(), f"{where}/open_clip_config.json")
    model = values.get("model_cfg")
    if not isinstance(model, dict):
        raise InputError(f"{where}/open_clip_config.json has no model_cfg")
    towers = [part for part in model.values() if isinstance(part, dict)]
    if found := [key for key in _DOWNLOADS for part in (model, *towers) if part.get(key)]:
        raise InputError(f"{where}/open_clip_config.json sets {found[0]}: it would download another model")
