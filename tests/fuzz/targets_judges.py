"""The files of a user's own judge: how they are spoiled, and that what opens gives vectors."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from echodfkd.models.judges.onnx_judge import CAPTIONS_FILE, IMAGE_FILE, SETTINGS_FILE, OnnxTowers
from tests.fuzz.mutate import damage_bytes
from tests.helpers.judges import write_onnx_judge

VALUES: tuple[Any, ...] = (None, True, -1, 0, 8, 9, 10**9, 1e308, "8", [], {}, [0.5] * 3, [0, 0, 0], [1e400] * 3, [[1]])


class OnnxJudge:
    """evaluation.judge_weights of evaluation.judge=onnx."""

    name = "onnx judge"

    def __init__(self, folder: Path) -> None:
        self.good, self.root = folder / "good", folder / "judge"
        self.good.mkdir(parents=True)
        write_onnx_judge(self.good)

    def run(self, rng: random.Random) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.good, self.root)
        path = self.root / rng.choice((IMAGE_FILE, CAPTIONS_FILE, SETTINGS_FILE))
        if path.name == SETTINGS_FILE and rng.random() < 0.7:
            known = json.loads(path.read_bytes())
            known[rng.choice([*known, "more"])] = rng.choice(VALUES)
            path.write_text(json.dumps(known))
        elif path.name == CAPTIONS_FILE and rng.random() < 0.7:
            shape = rng.choice([(), (0,), (4,), (5,), (1, 4)])
            kind = rng.choice([np.float16, np.float32, np.int8, np.bool_])
            path.write_bytes(save({rng.choice(["WALL", "", "x" * 300]): np.ones(shape, kind)}))
        else:
            path.write_bytes(damage_bytes(rng, path.read_bytes()))
        towers = OnnxTowers(str(self.root), "cpu")
        found = towers.embed_frames(torch.arange(2 * 81, dtype=torch.uint8).view(2, 9, 9))
        assert found.dtype == torch.float32
        assert towers.embed_captions(["WALL"]).shape[1] == found.shape[1]
