"""The errors a user can meet. Each carries one sentence: the option, its value and the allowed values.

Jobs print the sentence of these and end with a non-zero code; anything else is a bug and keeps its
traceback. All take exactly one string, so that they can be pickled. The string may hold foreign text (a file's
name, another library's message): control characters are escaped, lines joined, secrets hidden, and the length
bounded here, once.
"""

from echodfkd.core.redaction import redact
from echodfkd.core.terminal import escaped

MAX_CHARACTERS = 1500
STOPPED = 75
"""Exit code of a job that ended early on request, and whose command goes on if it is given again (sysexits.h's
EX_TEMPFAIL): an orchestrator can tell it from a job that is done."""


class EchoDFKDError(Exception):
    """Base of every error that is explained to the user in one sentence."""

    def __init__(self, sentence: object = "") -> None:
        super().__init__(plain_sentence(str(sentence)))


class ConfigError(EchoDFKDError, ValueError):
    """An option is unknown, of the wrong type, or impossible together with another."""


class InputError(EchoDFKDError, ValueError):
    """A folder, file or checkpoint that the user named cannot be used at all."""


class ClipError(EchoDFKDError, ValueError):
    """One clip is at fault. The clip is quarantined with this reason and replaced; the run goes on."""


class RunError(EchoDFKDError, RuntimeError):
    """The run cannot go on (too many clips quarantined, non-finite loss, a cluster too small ...)."""


def plain_sentence(text: str) -> str:
    """One line of printable text without secrets, at most `MAX_CHARACTERS` long."""
    text = redact(text)
    if not text.isprintable():
        text = escaped(" ".join(text.split()))
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def one_line(error: object) -> str:
    """The first line of a message that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
