"""The command `echodfkd`: every job by its name, help, completion, and the configs that ship."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from echodfkd.core.shipped import commands, shipped_folder
from echodfkd.runtime import command, console
from jobs import completion, configs

ROOT = Path(__file__).parents[3]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | None:
    """The console's exit code for these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["echodfkd", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    try:
        return console.main()
    except SystemExit as ended:
        return int(ended.code or 0)


def test_help_lists_every_job_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    told = {words[0]: words[1] for words in lines if words[0] != "echodfkd"}
    assert set(told) == {path.stem.replace("_", "-") for path in (ROOT / "jobs").glob("*.py")}
    assert told["distill"] == "Distil students from a teacher on a stream of clips"
    assert not [text for text in told.values() if "echodfkd" in text]


def test_help_imports_nothing_heavy() -> None:
    """So that it comes within a second on a slow machine, too: no timed test."""
    code = "import sys; sys.argv = ['echodfkd', '--help']; from echodfkd.runtime.console import main; main()\n"
    code += "assert not {'numpy', 'torch', 'ray', 'omegaconf', 'fsspec'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        (["distil", "--config", "x"], 2, "error: echodfkd has no command 'distil'; did you mean distill?"),
        (["predcit"], 2, "did you mean predict or preflight?"),
        (["\x1b[2Jx"], 2, r"no command '\x1b[2Jx'"),
        ([], 2, "usage: echodfkd COMMAND"),
        (["--version"], 0, "0.1.0"),
        (["distill", "--help"], 0, "usage: echodfkd distill [-h [SECTION]]"),
        (["list-videos", "--help"], 0, "usage: echodfkd list-videos"),
        (["list_videos", "--help"], 0, "usage: echodfkd list-videos"),
        (["study", "--help"], 0, "--list"),
        (["train-teacher", "--help"], 0, "--config FILE"),
        (["distill", "--help", "train.steps"], 0, "train.steps    int at least 1, at most 100000000    default: 200"),
        (["distill", "--help", "students.c33"], 0, "students.NAME.blocks    int 1 .. 6    default: 3"),
        (["distill", "--help", "train.step"], 2, "error: --help train.step: no option or section has this name; did"),
        (["distill", "steps=3"], 2, "did you mean train.steps"),
        (["distill", "--config", "configs/none.yaml"], 2, "`echodfkd configs` lists those that ship"),
    ],
)
def test_a_command_answers(
    words: list[str],
    code: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *words) == code
    out = capsys.readouterr()
    assert printed in out.out + out.err


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    code = "import sys; sys.argv = ['echodfkd', '--help']; from echodfkd.runtime.console import main; sys.exit(main())"
    done = subprocess.run(
        ["bash", "-c", '"$1" -c "$2" | head -1', "bash", sys.executable, code],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "usage: echodfkd COMMAND [arguments]"


def test_options_may_stand_between_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["students.a.blocks=1", "--config", str(ROOT / "configs/demo.yaml"), "train.steps=7", "--dry-run", "seed=5"]
    assert run(monkeypatch, "distill", *words) == 0
    assert "\nseed: 5\n" in capsys.readouterr().out


def test_a_flag_chooses_other_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "prepare_ray", lambda address: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for flags, did in (([], "work"), (["--list"], "list")):
        arguments = [*flags, "students.a.blocks=1"]
        other = {"list": ("help", lambda config: {"did": "list"})}
        assert (
            command.run_job(lambda config: {"did": "work"}, description="", arguments=arguments, other_work=other) == 0
        )
        assert json.loads(capsys.readouterr().out)["did"] == did


def test_configs_are_listed_and_copied_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo.yaml").write_text("mine")
    assert configs.main([]) == 0
    listed = capsys.readouterr().out
    assert "demo.yaml                  A whole run on a laptop: no GPU, no download" in listed
    assert configs.main([str(tmp_path)]) == 0
    names = json.loads(capsys.readouterr().out.splitlines()[-1])["configs"]
    assert names == sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
    assert (tmp_path / "demo.yaml").read_text() == "mine"
    assert (tmp_path / "study.yaml").read_bytes() == (ROOT / "configs/study.yaml").read_bytes()


def complete(*words: str) -> list[str]:
    """What bash offers for the last word, by the script that is printed."""
    script = 'eval "$("$1" -c \'from jobs.completion import main; main(["bash"])\')"; shift'
    script += '; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _echodfkd; printf \'%s\\n\' "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "echodfkd", *words], capture_output=True, text=True, cwd=ROOT
    )
    return done.stdout.split()


def test_a_shell_completes_commands_arguments_options_and_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert complete("pre") == ["predict", "preflight"]
    assert complete("distill", "train.st") == ["train.steps=", "train.stop_grace_s="]
    assert complete("distill", "--dr") == ["--dry-run"]
    assert complete("predict", "READ") == ["README.md"]
    assert "train.steps=" not in complete("predict", "train.st")
    assert completion.main(["zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out


def test_a_command_is_a_file_of_jobs() -> None:
    assert shipped_folder("jobs") == ROOT / "jobs"
    assert commands()["distill"] == ROOT / "jobs/distill.py"
