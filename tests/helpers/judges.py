"""Small random files of a judge, in their true format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from echodfkd.config.sections.judge import EF_PLACE, JudgePromptsConfig
from echodfkd.models.judges.reading import fill_prompts


def write_onnx_judge(
    folder: Path, *, width: int = 4, side: int = 8, change: dict[str, object] | None = None
) -> torch.Tensor:
    """A linear image tower, captions of every prompt, and settings; returns the tower's matrix (3 S S, E)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    matrix = torch.randn(3 * side * side, width)
    nodes = [
        onnx.helper.make_node("Flatten", ["x"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "tower",
        [onnx.helper.make_tensor_value_info("x", floats, ["n", 3, side, side])],
        [onnx.helper.make_tensor_value_info("y", floats, ["n", width])],
        [onnx.numpy_helper.from_array(matrix.numpy(), "w")],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, folder / "image.onnx")
    prompts = JudgePromptsConfig()
    asked = [prompts.wall, prompts.nothing, prompts.left_ventricle, prompts.valve_closed, prompts.valve_open]
    asked += fill_prompts(prompts.ef, EF_PLACE)[0]
    save_file({caption: torch.randn(width) for caption in asked}, folder / "captions.safetensors")
    settings = {"side": side, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    (folder / "judge.json").write_text(json.dumps({**settings, **(change or {})}))
    return matrix
