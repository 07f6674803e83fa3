"""The shape of the code: which rooms there are, who may import whom, and what a pure module brings in."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
MOST_ROOMS = 15
PURE = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "echodfkd").rglob("*.py")
    if path.name != "__init__.py"
    and "runtime" not in path.relative_to(ROOT).parts
    and path.stem not in ("deepspeed_engine", "limited")
)


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-800:]


def test_pure_modules_leave_ray_and_deepspeed_alone() -> None:
    """One fresh interpreter imports them one by one and names the first that brings in a banned package."""
    assert len(PURE) > 150
    run_python(
        "import importlib, sys\n"
        f"for name in {PURE!r}:\n"
        "    importlib.import_module(name)\n"
        "    for banned in ('ray', 'deepspeed'):\n"
        "        assert banned not in sys.modules, f'{name} imports {banned}'\n"
    )


def test_numeric_modules_need_no_config_or_decoder() -> None:
    """They must run on a machine that has only torch and numpy."""
    run_python(
        "import importlib, sys\n"
        "for name in ('losses.targets', 'losses.shape', 'models.students.convlstm', 'sources.phantom.source'):\n"
        "    importlib.import_module(f'echodfkd.{name}')\n"
        "    found = {'omegaconf', 'av', 'ray', 'deepspeed', 's3fs'} & set(sys.modules)\n"
        "    assert not found, (name, found)\n"
    )


def test_the_processes_that_carry_the_stream_load_no_torch() -> None:
    """Ray unpickles the plan in a manager and a coordinator: each would start 2 s later, and hold 130 MB more."""
    stream = "echodfkd.runtime.stream"
    modules = ", ".join(f"{stream}.{name}" for name in ("clip_stream", "builders", "teacher_pool"))
    run_python(f"import sys, {modules}\nassert 'torch' not in sys.modules\n")


def test_imports_keep_to_the_floors() -> None:
    """The contracts stand in setup.cfg: floors, and the independence of rooms on one floor."""
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint), "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-800:]


def test_the_top_of_the_package_is_a_table_of_contents() -> None:
    marks = ("__init__.py", "__pycache__", "py.typed")  # py.typed is an empty mark for type checkers (PEP 561)
    top = [path for path in (ROOT / "echodfkd").iterdir() if path.name not in marks]
    assert len(top) <= MOST_ROOMS, sorted(path.name for path in top)


def test_jobs_are_short_and_explain_themselves() -> None:
    for path in sorted((ROOT / "jobs").glob("*.py")):
        text = path.read_text()
        assert len(text.splitlines()) <= 60, path.name
        assert ast.get_docstring(ast.parse(text)), path.name
