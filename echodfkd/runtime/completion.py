"""Completion of `echodfkd` in a shell: a script made from the commands, their arguments and the options of a run."""

from __future__ import annotations

import ast
from pathlib import Path

from echodfkd.config.rules.names import option_names
from echodfkd.core.shipped import commands

_SCRIPT = """_echodfkd() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words options keys=''
  options='{keys}'
  if [ "$COMP_CWORD" -eq 1 ]; then words='{commands}'
  else
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    [ -z "$keys" ] || words="$words $options"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word") $([ "$COMP_CWORD" -eq 1 ] || compgen -f -- "$word"))
  [ "${{#COMPREPLY[@]}}" -ne 1 ] || case ${{COMPREPLY[0]}} in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -o filenames -F _echodfkd echodfkd"""
_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


def completion_script(shell: str) -> str:
    """The script for bash, or for zsh by its bashcompinit."""
    found, cases = commands(), []
    for name, path in found.items():
        arguments, takes_options = _arguments(path)
        cases.append(f"      {name}) words='{' '.join(arguments)}'{' keys=1' if takes_options else ''} ;;")
    keys = " ".join(f"{name}=" for name in option_names() if "NAME" not in name and "[" not in name)
    script = _SCRIPT.format(keys=keys, commands=" ".join(found), cases="\n".join(cases))
    return (_ZSH if shell == "zsh" else "") + script


def _arguments(path: Path) -> tuple[list[str], bool]:
    """A job's own --arguments, read from its calls of add_argument, and whether it takes options of a run."""
    calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func).rpartition(".")[2] for call in calls]
    texts = [
        argument.value
        for call, name in zip(calls, names, strict=True)
        for argument in call.args
        if name == "add_argument" and isinstance(argument, ast.Constant)
    ]
    flags = [text for text in texts if isinstance(text, str) and text.startswith("--")]
    if takes := "run_job" in names:
        flags += ["--config", "--dry-run"]
    return sorted({"--help", *flags}), takes
