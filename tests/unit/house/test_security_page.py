"""No page names a test that does not exist; SECURITY.md and the page of input checks promise nothing without one."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "SECURITY.md").read_text()
CHECKS = (ROOT / "docs/reference/input-checks.md").read_text()
DEFENCES = PAGE.partition("## Defences")[2].partition("\n## ")[0]


def defined_tests() -> set[str]:
    """Names of all test functions."""
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }


def named(text: str) -> tuple[set[str], set[str]]:
    """Test functions and files that a text names."""
    quoted = set(re.findall(r"`([^`\n]+)`", text))
    return {word for word in quoted if re.fullmatch(r"test_\w+", word)}, {
        word for word in quoted if re.fullmatch(r"(tests|echodfkd|cluster|configs|jobs)/[\w./-]+", word)
    }


def test_every_test_and_file_that_the_page_names_exists() -> None:
    tests, files = named(PAGE)
    assert len(tests) > 40
    assert not tests - defined_tests()
    assert not [name for name in files if not (ROOT / name.rstrip("/")).exists()]


def test_every_test_that_another_page_names_exists() -> None:
    defined = defined_tests()
    gone = {page.name: named(page.read_text())[0] - defined for page in sorted((ROOT / "docs").rglob("*.md"))}
    assert not {page: names for page, names in gone.items() if names}


def test_every_row_of_the_input_checks_names_a_test() -> None:
    rows = [line for line in CHECKS.splitlines() if line.startswith("| ") and not line.startswith("| kind of fault")]
    assert len(rows) > 30
    assert not [row for row in rows if not named(row)[0]]


def test_every_defence_names_a_test_that_holds_it() -> None:
    parts = re.split(r"\n(?=\*\*[A-Z])", DEFENCES)[1:]
    assert len(parts) > 12
    for part in parts:
        tests, files = named(part)
        assert tests or any(name.startswith("tests/") for name in files), part[:80]
    rows = [line for line in DEFENCES.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) > 20
    assert not [row for row in rows if "`test_" not in row.rsplit(" | ", 1)[-1]]


def test_the_check_finds_a_name_that_is_gone() -> None:
    assert named("see `test_no_such_thing` in `tests/unit/nowhere.py`, `x`") == (
        {"test_no_such_thing"},
        {"tests/unit/nowhere.py"},
    )
    assert "test_no_such_thing" not in defined_tests()
