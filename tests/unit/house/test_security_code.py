"""What the source may not contain: ways to run a file's content, and DeepSpeed's pickled checkpoints."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*(ROOT / "echodfkd").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])

UNPICKLES_PINNED = "echodfkd/models/teachers/teacher_files.py"
"""Reads torch.export archives, whose loader unpickles, after it has compared the bytes with a pinned sha256."""

READS_PARQUET = "echodfkd/storage/parquet.py"
"""Opens Parquet files without the types that they bring along."""
READERS_OF_ARROW = ("ParquetFile", "ParquetDataset", "read_schema", "read_metadata", "open_stream", "read_feather")
"""Functions of pyarrow that make a file's own types (and `pq.read_table`)."""

PARSES_FILES = {"echodfkd/storage/untrusted.py", "echodfkd/storage/plain_yaml.py"}
PARSES_OWN = {
    "echodfkd/core/records.py",
    "echodfkd/models/judges/embedded.py",
    "echodfkd/runtime/synthesis_run.py",
    "echodfkd/sources/written/stored.py",
    "echodfkd/teaching/members.py",
    "echodfkd/training/run_state.py",
    "echodfkd/training/teacher/embedded.py",
    "echodfkd/training/teacher/keeper.py",
}
"""Parse JSON or YAML that the same run, or this package, has just written."""
PARSERS = {"json.loads", "json.load", "yaml.safe_load", "yaml.safe_load_all", "OmegaConf.load"}

BANNED_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
BANNED_CALLS |= {"yaml.full_load", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads"}
BANNED_CALLS |= {"shelve.open", "dill.load", "joblib.load", "torch.jit.load", "tempfile.mktemp"}
BANNED_METHODS = {"save_checkpoint", "load_checkpoint", "load_module_only"}
BANNED_IMPORTS = {"dill", "cloudpickle", "joblib", "shelve", "marshal", "xml", "telnetlib"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def option(call: ast.Call, name: str) -> object:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else "not a constant"
    return None


def faults(text: str, path: str = "") -> list[str]:
    """What is wrong with one module."""
    tree, found = ast.parse(text), []
    for name, call in calls(tree):
        if name in BANNED_CALLS or name.rpartition(".")[2] in BANNED_METHODS:
            found.append(name)
        if name == "torch.export.load" and path != UNPICKLES_PINNED:
            found.append(name)
        if name == "torch.load" and option(call, "weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if name.rpartition(".")[2] in ("load", "loadtxt", "genfromtxt", "memmap") and name.startswith(
            ("np.", "numpy.")
        ):
            found.append(name)
        of_arrow = name.rpartition(".")[2] in READERS_OF_ARROW or name in ("pq.read_table", "pa.ipc.open_file")
        if of_arrow and path != READS_PARQUET:
            found.append(f"{name} beside {READS_PARQUET}")
        if name in PARSERS and path not in PARSES_FILES | PARSES_OWN:
            found.append(f"{name} beside {sorted(PARSES_FILES)}")
        if option(call, "allow_pickle") not in (None, False) or option(call, "shell") not in (None, False):
            found.append(f"{name} with allow_pickle or shell")
        if name.startswith("subprocess."):
            found.append(name)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"import {name}" for name in names if name.split(".")[0] in BANNED_IMPORTS]
    return found


def test_no_module_can_run_what_a_file_holds() -> None:
    assert len(SOURCES) > 80
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in SOURCES
        if (found := faults(path.read_text(), str(path.relative_to(ROOT))))
    }
    assert not wrong, wrong


def test_the_scan_finds_what_it_looks_for() -> None:
    for line in (
        "pickle.loads(x)",
        "engine.save_checkpoint('x')",
        "self.engine.load_checkpoint('x', tag=1)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "torch.load(x, weights_only=flag)",
        "torch.export.load(x)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "yaml.load(x, Loader=yaml.Loader)",
        "subprocess.run('x', shell=True)",
        "eval('1')",
        "pq.ParquetFile(x)",
        "pq.read_table(x)",
        "pa.ipc.open_stream(x)",
        "import cloudpickle",
        "yaml.safe_load(x)",
        "json.loads(x)",
    ):
        assert faults(line), line
    assert not faults("torch.load(x, weights_only=True)")
