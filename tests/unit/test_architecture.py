"""The shape of the code: pure packages import neither ray nor deepspeed, and imports go one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = [
    "echodfkd.config",
    "echodfkd.records",
    "echodfkd.schemas",
    "echodfkd.storage",
    "echodfkd.lease",
    "echodfkd.run_folder",
    "echodfkd.losses",
    "echodfkd.mask_codes",
    "echodfkd.losses_features",
    "echodfkd.losses_pixels",
    "echodfkd.losses_regions",
    "echodfkd.losses_shape",
    "echodfkd.models.build",
    "echodfkd.models.authors_checkpoint",
    "echodfkd.models.convlstm",
    "echodfkd.models.fusion",
    "echodfkd.models.teacher_files",
    "echodfkd.models.library_networks",
    "echodfkd.models.monai_bundle",
    "echodfkd.models.cost",
    "echodfkd.models.recurrences",
    "echodfkd.models.deeplabv3",
    "echodfkd.models.unet",
    "echodfkd.models.judge",
    "echodfkd.models.embedded_judge",
    "echodfkd.metrics.overlap",
    "echodfkd.metrics.cardiac",
    "echodfkd.metrics.summary",
    "echodfkd.redaction",
    "echodfkd.untrusted",
    "echodfkd.video.decode",
    "echodfkd.video.dicom",
    "echodfkd.synthesis.conditions",
    "echodfkd.synthesis.mixture",
    "echodfkd.synthesis.phantom",
    "echodfkd.synthesis.recorded",
    "echodfkd.synthesis.preview",
    "echodfkd.synthesis.shards",
    "echodfkd.synthesis.stored",
    "echodfkd.synthesis.writing",
    "echodfkd.teachers.build",
    "echodfkd.teachers.fusing",
    "echodfkd.slots",
    "echodfkd.teachers.exchange",
    "echodfkd.teachers.protocol",
    "echodfkd.teachers.remote",
    "echodfkd.teachers.service",
    "echodfkd.teaching",
    "echodfkd.scoring",
    "echodfkd.scoring_heads",
    "echodfkd.evaluation",
    "echodfkd.scoring_agreement",
    "echodfkd.scoring_judge",
    "echodfkd.synthesis.camus",
    "echodfkd.video.volumes",
    "echodfkd.scoring_truth",
    "echodfkd.models.echoclip",
    "echodfkd.models.judge_controls",
    "echodfkd.metrics.ranks",
    "echodfkd.metrics.strata",
    "echodfkd.metrics.surface",
    "echodfkd.reporting.comparisons",
    "echodfkd.metrics.beat",
    "echodfkd.models.heads",
    "echodfkd.training.objective",
    "echodfkd.training.worker",
    "echodfkd.training.limited",
    "echodfkd.training.judge_report",
    "echodfkd.training.checkpoints",
    "echodfkd.training.manifests",
    "echodfkd.training.conversion",
    "echodfkd.soak",
    "echodfkd.reporting.summary",
    "echodfkd.reporting.teacher_study",
    "echodfkd.reporting.report",
    "echodfkd.reporting.across",
    "echodfkd.reporting.follow",
    "echodfkd.reporting.redraw",
    "echodfkd.video.sheets",
]
LAYERS = [
    {"errors", "clock", "redaction", "untrusted", "records", "storage", "schemas", "command", "lease", "run_folder"}
    | {"object_store", "sizing", "mask_codes", "host_memory"}
    | {p.stem for p in (ROOT / "echodfkd").glob("config*.py")},
    {"video", "models", "metrics"} | {p.stem for p in (ROOT / "echodfkd").glob("losses*.py")},
    {
        "synthesis",
        "teachers",
        "slots",
        "teaching",
        "training",
        "scoring",
        "scoring_heads",
        "scoring_truth",
        "reporting",
        "soak",
    }
    | {"scoring_judge", "scoring_agreement", "evaluation", "evaluated_models"},
    {"runtime"},
]


def test_pure_modules_leave_ray_and_deepspeed_alone() -> None:
    """One fresh interpreter imports them one by one and names the first that brings in a banned package."""
    code = (
        "import importlib, sys\n"
        f"for name in {PURE!r}:\n"
        "    importlib.import_module(name)\n"
        "    for banned in ('ray', 'deepspeed'):\n"
        "        assert banned not in sys.modules, f'{name} imports {banned}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-800:]


@pytest.mark.parametrize(
    "module", ["echodfkd.losses", "echodfkd.losses_shape", "echodfkd.models.convlstm", "echodfkd.synthesis.phantom"]
)
def test_numeric_modules_need_no_config_or_decoder(module: str) -> None:
    """They must run on a machine that has torch and numpy alone."""
    code = (
        f"import sys, {module}\n"
        "found = {'omegaconf', 'av', 'ray', 'deepspeed', 's3fs'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-800:]


def test_the_processes_that_carry_the_stream_load_no_torch() -> None:
    """Ray unpickles the plan in a manager and a coordinator: each would start 2 s later, and hold 130 MB more."""
    code = (
        "import sys, echodfkd.runtime.clip_stream, echodfkd.runtime.parts, echodfkd.runtime.teacher_pool\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-800:]


def test_imports_go_from_left_to_right() -> None:
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    wrong = []
    for path in sorted((ROOT / "echodfkd").rglob("*.py")):
        part = path.relative_to(ROOT / "echodfkd").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                pieces = name.split(".")
                if pieces[0] == "echodfkd" and len(pieces) > 1 and part in rank and rank[pieces[1]] > rank[part]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, wrong


def test_jobs_are_short_and_explain_themselves() -> None:
    for path in sorted((ROOT / "jobs").glob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 60, path.name
        assert ast.get_docstring(ast.parse(text)), path.name
