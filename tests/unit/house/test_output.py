"""Everything that is printed or stored for people passes one place: `core.terminal` and `core.redaction.dump_json`."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = sorted([*(ROOT / "echodfkd").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
PRINTS = "echodfkd/core/terminal.py"
KEPT = {
    "echodfkd/storage/lease.py", "echodfkd/storage/checkpoints.py", "echodfkd/config/identity.py",
    "echodfkd/training/teacher/keeper.py",
    "echodfkd/sources/written/stored.py", "echodfkd/sources/written/writing.py",
}  # fmt: skip
"""Records that the program reads back: names, hashes and numbers, whose bytes are compared."""
LOGS = {f"logging.{level}" for level in ("debug", "info", "warning", "error", "critical", "exception", "basicConfig")}
DRAWN = {
    "echodfkd/reporting/live/redraw.py",
    "echodfkd/runtime/evaluator_pool.py",
    "echodfkd/runtime/distillation_run.py",
}
"""Write names of drawn cases and sizes of students, likewise."""


def faults(text: str, path: str = "") -> list[str]:
    """Ways in which one module prints or stores text by itself."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if path != PRINTS and (name.startswith(("sys.stdout.write", "sys.stderr.", "traceback.print")) or name in LOGS):
            found.append(name)
        if name in ("argparse.ArgumentParser", "print", "warnings.warn") and path != PRINTS:
            plain = name == "warnings.warn" and ast.unparse(node.args[0]).startswith(("plain_sentence(", "'"))
            found += [] if plain or path == "echodfkd/config/options_page.py" else [name]
        writes = name.rpartition(".")[2] in ("write", "write_text", "write_bytes", "create_once")
        if writes and "json.dumps(" in ast.unparse(node) and path not in KEPT | DRAWN:
            found.append(f"{name}(json.dumps)")
    return found


def test_no_module_prints_or_stores_past_that_place() -> None:
    assert len(SOURCES) > 200
    names = {path: str(path.relative_to(ROOT)) for path in SOURCES}
    wrong = {name: found for path, name in names.items() if (found := faults(path.read_text(), name))}
    assert not wrong, wrong


def test_the_scan_finds_what_it_looks_for() -> None:
    for line in (
        "print(x)",
        "sys.stderr.write(x)",
        "sys.stdout.write(x)",
        "traceback.print_exc()",
        "warnings.warn(f'{x}')",
        "argparse.ArgumentParser()",
        "storage.write('x', json.dumps(y).encode())",
        "logging.error(x)",
    ):
        assert faults(line), line
    assert not faults("print_line(x); warnings.warn(plain_sentence(x)); storage.write('x', dump_json(y))")
