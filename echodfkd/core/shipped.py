"""Folders that ship beside the package: in a checkout they lie at its root, in a wheel inside the package."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(name: str) -> Path:
    """jobs/ or configs/."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def commands() -> dict[str, Path]:
    """Every command of `echodfkd` and its file: those of jobs/."""
    return {path.stem.replace("_", "-"): path for path in sorted(shipped_folder("jobs").glob("[a-z]*.py"))}


def command_summary(path: Path) -> str:
    """The effect of a command: the first line of its file's docstring, without the example after a colon."""
    text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return text.partition("\n")[0].partition(": echodfkd")[0].rstrip(".")


def shipped_configs() -> dict[str, str]:
    """Names of the configs that ship, each with the first sentence of its comment."""
    found = {}
    for path in sorted(shipped_folder("configs").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.lstrip("# ") for line in lines[:3] if line.startswith("#"))
        found[path.name] = comment.partition(". ")[0].rstrip(".")
    return found
