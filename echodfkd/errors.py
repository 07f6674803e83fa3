"""The errors a user can meet. Each carries one sentence: what, got, allowed, which option.

Jobs print the sentence of these and end with a non-zero code; anything else is a bug and keeps its
traceback. All take exactly one string, so that they survive the way between processes.
"""


class EchoDFKDError(Exception):
    """Base of every error that is explained to the user in one sentence."""


class ConfigError(EchoDFKDError, ValueError):
    """An option is unknown, of the wrong type, or impossible together with another."""


class InputError(EchoDFKDError, ValueError):
    """A folder, file or checkpoint that the user named cannot be used at all."""


class ClipError(EchoDFKDError, ValueError):
    """One clip is at fault. The clip is quarantined with this reason and replaced; the run goes on."""


class RunError(EchoDFKDError, RuntimeError):
    """The run cannot go on (too many clips quarantined, non-finite loss, a cluster too small ...)."""
