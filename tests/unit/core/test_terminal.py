"""Lines on the terminal: no character of a value drives it, and no secret is in them."""

import io
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echodfkd.core.errors import InputError
from echodfkd.core.terminal import escaped, print_bugs_plainly, print_line, print_traceback
from echodfkd.runtime.command import ArgumentParser, fail, run_guarded

HOSTILE = "\x1b]0;pwned\x07\x1b[2J\nerror: forged\r\x9b31m\x7f\u202egpj.exe\u2066\u2028"


@given(st.text(max_size=100))
def test_one_line_stays_one_printable_line(text: str) -> None:
    sink = io.StringIO()
    print_line(text, to=sink)
    assert sink.getvalue().endswith("\n")
    assert sink.getvalue()[:-1].isprintable()


def test_controls_and_marks_of_direction_are_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(f"leased by {HOSTILE} s3://a:b@c")
    assert capsys.readouterr().out == (
        r"leased by \x1b]0;pwned\x07\x1b[2J\nerror: forged\r\x9b31m\x7f\u202egpj.exe\u2066\u2028 s3://***@c" + "\n"
    )
    assert escaped("Zoë, 50 % → 3 µs") == "Zoë, 50 % → 3 µs"


def test_letters_that_the_terminal_does_not_have_are_escaped() -> None:
    sink = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_line("Zoë", to=sink)
    sink.seek(0)
    assert sink.read() == "Zo\\xeb\n"


def test_results_errors_and_arguments_pass_the_same_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_guarded(lambda: {"ok": True, "report": "s3://a:b@c/x", "password": "y z"}) == 0
    assert capsys.readouterr().out == '{"ok": true, "report": "s3://***@c/x", "password": "***"}\n'
    fail(ValueError(f"s3://a:b@c {HOSTILE}"))
    assert capsys.readouterr().err.startswith("error: s3://***@c \\x1b]0;pwned")
    with pytest.raises(SystemExit):
        ArgumentParser(prog="x").parse_args([f"--storage=s3://a:b@c{HOSTILE}"])
    shown = capsys.readouterr().err
    assert shown.splitlines()[-1].startswith(r"x: error: unrecognized arguments: --storage=s3://***@c\x1b]0;pwned")
    assert "s3://a:b@" not in shown


def test_a_bug_s_traceback_is_printed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    hooks = sys.excepthook, threading.excepthook
    try:
        print_bugs_plainly()
        try:
            raise ValueError(f"s3://a:b@c {HOSTILE}")
        except ValueError as error:
            sys.excepthook(ValueError, error, None)
            thread = threading.Thread(target=lambda: 1 // 0)
            thread.start()
            thread.join()
    finally:
        sys.excepthook, threading.excepthook = hooks
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last):\n" in shown
    assert "ValueError: s3://***@c \\x1b]0;pwned\\x07" in shown
    assert "ZeroDivisionError" in shown
    assert all(line.isprintable() for line in shown.split("\n"))
    print_traceback(None)
    assert str(InputError(HOSTILE)).isprintable()
