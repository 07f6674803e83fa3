"""EchoPrime's towers: a video tower (MViTv2-S) and a text tower (BERT), from a folder with the published files.

Vukadinovic et al., "Comprehensive echocardiogram evaluation with view primed vision language AI", 2024
(arXiv 2410.09704). The release's ``model_data/weights`` has both files of weights; the text tower's words come from
``vocab.txt`` of microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract, which that folder must hold as well.

A clip has 32 frames, every second of which is seen. Here windows of 32 frames cover the video, each is seen from its
first and from its second frame, and every frame has the embedding of its clip: no frame escapes, and what is made for
towers of frames reads a tower of clips.

Legend: N clips or captions, T frames, H rows, W columns, E embedding width.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from echodfkd.core.errors import InputError, one_line
from echodfkd.models.archives.published_files import PublishedFiles
from echodfkd.models.archives.state_dicts import load_weights
from echodfkd.models.judges.pixels import middle, normalise, window_of_frame, windows
from echodfkd.models.teachers.torchvision_guard import import_torchvision

if TYPE_CHECKING:
    from echodfkd.models.judges.captions import CaptionStore

HOME = "https://github.com/echonet/EchoPrime/releases"
VIDEO_FILE, TEXT_FILE, WORDS_FILE = "echo_prime_encoder.pt", "echo_prime_text_encoder.pt", "vocab.txt"
WINDOW_FRAMES, STRIDE, SIDE = 32, 2, 224
PIXEL_MEAN = (29.110628, 28.076836, 29.096405)
PIXEL_STD = (47.989223, 46.456997, 47.20083)
"""Grey levels of each channel."""
BORDER = 0.1
"""Share of each side that is cut off."""
HEAD_WIDTH = 64
"""Of BERT's attention, in all published sizes."""
MAX_TOKENS = 512
CHUNK_CAPTIONS = 64
CHUNK_CLIPS = 4


class EchoPrimeTowers(nn.Module):
    """`echodfkd.models.judges.protocol.TwoTowers` of clips.

    Args:
        video: normalised clips (N, 3, 16, S, S) -> (N, E).
        text: captions -> (N, E).
        bf16: autocast both towers.
    """

    sees_clips = True

    def __init__(self, video: nn.Module, text: ReportTower, *, bf16: bool) -> None:
        super().__init__()
        self.video, self._bf16 = video, bf16
        self.text: ReportTower | None = text
        self.captions: CaptionStore | None = None

    def prepare(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Grey frames, uint8 (N, H, W), as the tower's pixels (N, 3, S, S): `crop_and_scale` of the authors.

        The middle square without a tenth of each side, resized (bicubic) as 8-bit images.
        """
        side = min(frames_NHW.shape[1:])
        inner = side - 2 * int(side * BORDER)
        x = middle(middle(frames_NHW[:, None].float(), side, side), inner, inner)
        if inner != SIDE:
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bicubic", align_corners=False).round().clamp(0, 255)
        return normalise(x, PIXEL_MEAN, PIXEL_STD)

    def embed_frames(self, frames_NHW: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 (T, E): that of each frame's clip."""
        device, count = next(self.video.parameters()).device, len(frames_NHW)
        pixels = self.prepare(frames_NHW.to(device))
        held = windows(count, WINDOW_FRAMES)
        seen = np.concatenate([held[:, first::STRIDE] for first in range(STRIDE)])
        clips = pixels[torch.from_numpy(seen)]
        if count < WINDOW_FRAMES:  # the authors fill a short clip with zeros
            numbers = np.stack([np.arange(first, WINDOW_FRAMES, STRIDE) for first in range(STRIDE)])
            clips[torch.from_numpy(numbers >= count)] = 0
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            parts = [self.video(part.transpose(1, 2)) for part in clips.split(CHUNK_CLIPS)]
        of_clip = F.normalize(torch.cat(parts).float(), dim=-1)
        place = window_of_frame(count, WINDOW_FRAMES)
        offset = np.arange(count) - held[place, 0]
        return of_clip[torch.from_numpy(place + offset % STRIDE * len(held))]

    def embed_captions(self, captions: list[str]) -> torch.Tensor:
        """Unit vectors, float32 (N, E): from the cache ``captions`` if there is one."""
        found = self._run_text(captions) if self.captions is None else self.captions.embed(captions, self._run_text)
        return found.to(next(self.video.parameters()).device)

    def drop_text_tower(self) -> None:
        """Free the memory of the text tower: no more captions can be embedded."""
        self.text = None

    def _run_text(self, captions: list[str]) -> torch.Tensor:
        assert self.text is not None
        device = next(self.text.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            chunks = [captions[at : at + CHUNK_CAPTIONS] for at in range(0, len(captions), CHUNK_CAPTIONS)]
            return F.normalize(torch.cat([self.text(chunk) for chunk in chunks]).float(), dim=-1)


class ReportTower(nn.Module):
    """BERT's first token, projected.

    Args:
        backbone: of transformers, without its pooling.
        tokenizer: captions -> token numbers and attention mask.
        width: E.
    """

    def __init__(self, backbone: nn.Module, tokenizer: Any, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.text_projection = nn.Linear(int(backbone.config.hidden_size), width)  # type: ignore[union-attr, arg-type]
        self._tokenizer = tokenizer

    def forward(self, captions: Sequence[str]) -> torch.Tensor:
        """Vectors (N, E)."""
        device = self.text_projection.weight.device
        asked = self._tokenizer(
            list(captions), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(device)
        return self.text_projection(self.backbone(**asked).last_hidden_state[:, 0])


def load_towers(
    weights: str, device: str, *, precision: str, build_video: Callable[[int], nn.Module] | None = None
) -> EchoPrimeTowers:
    """EchoPrime's towers.

    Args:
        weights: the folder.
        device: cpu or cuda.
        precision: fp32 or bf16.
        build_video: the video network of an embedding width; None takes MViTv2-S.

    Raises:
        InputError: a file is absent or does not fit, or transformers or torchvision is not installed.
    """
    files = PublishedFiles(Path(weights), HOME, "evaluation.judge_weights")
    text = _text_tower(files)
    video = (build_video or _mvit)(text.text_projection.out_features)
    where = f"{files.option}: {files.find(VIDEO_FILE)}"
    load_weights(video, files.read_tensors(VIDEO_FILE), what=where, network="video tower")
    return EchoPrimeTowers(video, text, bf16=precision == "bf16").to(device).eval().requires_grad_(False)


def _mvit(width: int) -> nn.Module:
    import_torchvision()
    network: Any = importlib.import_module("torchvision.models.video").mvit_v2_s()
    network.head[-1] = nn.Linear(network.head[-1].in_features, width)
    return network


def _text_tower(files: PublishedFiles) -> ReportTower:
    """BERT of the sizes that the file's tensors have, without its head for masked words."""
    import_torchvision()  # transformers imports it if it is there
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            f"evaluation.judge: echoprime needs transformers, which cannot be imported ({one_line(error)}); install the"
            " extra: pip install 'echodfkd[judge]'"
        ) from error
    tensors, where = files.read_tensors(TEXT_FILE), f"{files.option}: {files.find(TEXT_FILE)}"
    kept = {
        key.replace("backbone.bert.", "backbone."): value
        for key, value in tensors.items()
        if not key.startswith("backbone.cls.") and not key.endswith("embeddings.position_ids")
    }
    try:
        words, hidden = kept["backbone.embeddings.word_embeddings.weight"].shape
        inner = len(kept["backbone.encoder.layer.0.intermediate.dense.bias"])
        layers = len({key.split(".")[3] for key in kept if key.startswith("backbone.encoder.layer.")})
        places, width = len(kept["backbone.embeddings.position_embeddings.weight"]), len(kept["text_projection.bias"])
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{where} is not EchoPrime's text tower: it lacks {one_line(error)}") from error
    if hidden % HEAD_WIDTH:
        raise InputError(f"{where}: words have {hidden} numbers, expected a multiple of {HEAD_WIDTH}")
    config = transformers.BertConfig(
        vocab_size=words, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // HEAD_WIDTH,
        intermediate_size=inner, max_position_embeddings=places,
    )  # fmt: skip
    known = files.read_text(WORDS_FILE).rstrip("\n").split("\n")
    if len(known) != words:
        raise InputError(f"{files.option}: {files.find(WORDS_FILE)} has {len(known)} words, {TEXT_FILE} knows {words}")
    tokenizer = transformers.BertTokenizerFast(vocab={word: place for place, word in enumerate(known)})
    tower = ReportTower(transformers.BertModel(config, add_pooling_layer=False), tokenizer, width)
    load_weights(tower, kept, what=where, network="text tower")
    return tower
