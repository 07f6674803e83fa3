"""A cache of embedded captions, so that later processes need no text tower.

A file per judge and list of captions, ``JUDGE_ID/HASH.safetensors``: one tensor ``embeddings``, float32 (N, E), of unit
vectors in the order of the captions. A file that is damaged or does not fit is made again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable

import torch
from safetensors.torch import load, save

from echodfkd.core.errors import one_line, plain_sentence
from echodfkd.storage.files import RunStorage

MAX_BYTES = 64 << 20
NORM_TOLERANCE = 1e-3
"""How far a cached vector's length may be from 1. bfloat16 towers normalise in float32, so that rounding is 1e-6."""


class CaptionStore:
    """Embeddings of one judge's captions in a folder or under an fsspec URL.

    Args:
        root: shared by any number of judges and processes.
        judge_id: holds a hash of the weights, so that no embeddings of other weights are read.

    Raises:
        InputError: nothing can be written there.
    """

    def __init__(self, root: str, judge_id: str) -> None:
        self._storage = RunStorage(root)
        self._storage.check_writable("evaluation.judge_captions")
        self._judge_id = judge_id

    def embed(self, captions: list[str], run_tower: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
        """Unit vectors, float32 (N, E), of N captions: cached ones, or new ones of ``run_tower``."""
        digest = hashlib.sha256(json.dumps(captions).encode()).hexdigest()
        name = f"{self._judge_id}/{digest[:32]}.safetensors"
        kept = self._read(name, len(captions))
        if kept is not None:
            return kept
        made = run_tower(captions).float().cpu().contiguous()
        try:
            self._storage.write(name, save({"embeddings": made}))
        except OSError as error:  # a full disk costs time, not the run
            warnings.warn(
                plain_sentence(f"evaluation.judge_captions: {name} could not be written: {one_line(error)}"),
                stacklevel=2,
            )
        return made

    def _read(self, name: str, count: int) -> torch.Tensor | None:
        """The embeddings in the file; None if it is absent or not valid."""
        try:
            found = load(self._storage.read(name, MAX_BYTES)).get("embeddings")
        except Exception:  # not there; or cut off, or of another format: safetensors has errors of its own
            return None
        if found is None or found.dtype != torch.float32 or found.dim() != 2 or len(found) != count:
            return None
        return found if bool(((found.norm(dim=1) - 1).abs() < NORM_TOLERANCE).all()) else None
