"""The page that a run shows on a terminal."""

from __future__ import annotations

import io

import pytest

from echodfkd.reporting.live.live_view import ProgressSnapshot, live_view, page

rich = pytest.importorskip("rich", reason="needs rich (extra [live])")

VALUES = {
    "step": 30, "published": 20, "losses": {f"c{n}": 0.5 - n / 100 for n in range(10)}, "wait_share": 0.05,
    "source_clips_s": 27.0, "teacher_clips_s": 15.4, 
    "teacher_cache_clips_s": 1e9, "scored": "step 20", "backlog": 3, "quarantined": 2,
}  # fmt: skip


def snapshot(values: dict[str, object]) -> ProgressSnapshot:
    return ProgressSnapshot(
        values,
        elapsed_s=100,
        total=120,
        clips_s=4.2,
        eta_s=180,
        queue=12,
        memory_mb=4100.2,
        shares={"source": 0.25, "teacher": 0.5},
        living={"teacher": "teacher 1 of 1..4", "student": "student 1 of 1"},
        waits="train[x]",
    )


def text(values: dict[str, object]) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(page("a[b]", snapshot(values)))
    return console.export_text()


def test_the_page_holds_every_number():
    shown = text(VALUES)
    assert "a[b]  update 30 of 120, 1:40, 3:00 left" in shown  # 90 updates at 0.5 a second
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "stage at work one actor student loss" in lines
    assert any(line.startswith("source 25 % 27 clips/s") for line in lines)
    assert any(line.startswith("teacher 50 % 15 clips/s") for line in lines)
    assert any(line.startswith("students 95 % 4.2 clips/s") for line in lines)
    assert "cache" not in shown
    assert "c9 0.4100" in " ".join(lines)  # the lowest loss first
    assert "and 2 more up to 0.5000" in " ".join(lines)
    assert "queue 12 clips; checkpoint at update 20; scored step 20; 3 scoring tasks left; 2 clips replaced" in shown
    assert "memory 4,100 MB" in shown
    assert lines[-3:-1] == ["teacher 1 of 1..4; student 1 of 1", "waits: train[x]"]


def test_before_the_first_update():
    shown = text({})
    assert "starting: actors load" in shown
    assert "memory 4,100 MB" in shown


def test_a_terminal_is_needed_and_left_as_it_was():
    class FakeTerminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert live_view("run", io.StringIO()) is None
    terminal = FakeTerminal()
    view = live_view("run", terminal)
    assert view is not None
    view.show(snapshot(VALUES))
    view.close()
    assert "update 30 of 120" in terminal.getvalue()
    assert terminal.getvalue().count("\x1b[?25h") == 1  # the cursor is shown again


def test_after_the_last_update_the_rest_is_named():
    shown = text({**VALUES, "step": 120, "drawings": 2})
    assert "a[b]  all 120 updates are done; scoring, drawing and the report follow, 1:40\n" in shown
    assert "3 scoring tasks left; 2 videos left to draw" in " ".join(shown.split())


@pytest.mark.parametrize("name", ["[red]x[/red]", "[link=http://x]y", "\x1b[31mz\u202e", "[/]"])
def test_names_and_facts_are_shown_as_they_are(name: str):
    values = {**VALUES, f"teacher.{name}_clips_s": 3.0, "losses": {name: 0.1}, "scored": name}
    shown = text(values)
    assert shown.isprintable() or "\x1b" not in shown
    escape = name.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert f"teacher.{escape} " in shown
    assert shown.count(escape) == 3
