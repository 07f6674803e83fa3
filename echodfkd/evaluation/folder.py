"""The folder of an evaluation, case by case: the same command goes on with the cases that it lacks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from echodfkd.config.identity import IDENTITY, config_hash, config_text, difference
from echodfkd.config.run import RunConfig
from echodfkd.config.stored import CONFIG
from echodfkd.core.errors import InputError
from echodfkd.core.redaction import dump_json, redact_values
from echodfkd.evaluation.agreement import JudgedMask
from echodfkd.evaluation.scorer import ScoredCase
from echodfkd.storage import schemas
from echodfkd.storage.files import LAYOUT, RunStorage, check_layout
from echodfkd.storage.untrusted import parse_json_object

EVALUATION = "evaluation.json"
"""What the rows of the folder were scored by; made before the first of them."""
CASES = "cases.parquet"
FLUSH_CASES = 8
"""Rows of cases are written after so many: one of a case that was scored since is scored again."""
_JUDGED = schemas.schema_of(JudgedMask)


class EvaluationFolder:
    """Rows of the cases that are scored.

    Args:
        config: of the evaluation; ``evaluate.out`` is the folder.
        known: ids that the config does not hold, by name: of teacher, judge and models.

    Raises:
        InputError: the folder holds a run, rows of unknown origin, or another evaluation.
    """

    def __init__(self, config: RunConfig, known: dict[str, Any]) -> None:
        self.storage, self._root = RunStorage(config.evaluate.out), config.evaluate.out
        own = {**_identity(config), **known}
        if not self.storage.exists(EVALUATION):
            if self.storage.exists(IDENTITY) or self.storage.list("scores"):
                raise InputError(f"evaluate.out: {self._root} holds scores or a run already; name another folder")
            self.storage.write(CONFIG, config_text(config).encode())
            self.storage.create_once(EVALUATION, dump_json({"layout": LAYOUT, **own}))
        self._check_same(own)
        self.last_fault = ""
        self.cases: dict[int, dict[str, Any]] = {}
        if self.storage.exists(CASES):
            rows = schemas.read_part(self.storage, CASES, schemas.CASE_SCHEMA).to_pylist()
            parts = set(self.storage.list("scores"))
            self.cases = {row["index"]: row for row in rows if _part(row["index"]) in parts}

    def keep(self, number: int, found: ScoredCase) -> None:
        """Write the rows of a case that was scored."""
        if found.quarantined:
            self.last_fault = found.quarantined[-1].reason
            schemas.write_records(self.storage, f"quarantine/part-cases-{number:06d}.parquet", found.quarantined)
        if found.case is None:
            return
        if found.judged:
            rows = [asdict(row) for row in found.judged]
            self.storage.write_table(f"judged/part-{number:06d}.parquet", rows, _JUDGED)
        schemas.write_records(self.storage, _part(number), found.scores)
        self.cases[number] = found.case
        if len(self.cases) % FLUSH_CASES == 0:
            self.flush()

    def flush(self) -> None:
        """Write the rows of the cases."""
        if self.cases:
            rows = [self.cases[number] for number in sorted(self.cases)]
            self.storage.write_table(CASES, rows, schemas.CASE_SCHEMA)

    def judged(self) -> Iterable[JudgedMask]:
        """The masks that the study of agreement is about, of all cases."""
        for name in self.storage.list("judged"):
            yield from (JudgedMask(**row) for row in schemas.read_part(self.storage, name, _JUDGED).to_pylist())

    def _check_same(self, own: dict[str, Any]) -> None:
        where = f"{self._root}/{EVALUATION}"
        stored = parse_json_object(self.storage.read(EVALUATION), where)
        check_layout(stored, where)
        if others := ", ".join(name for name, value in own.items() if stored.get(name) != value):
            raise InputError(
                f"evaluate.out: {self._root} holds another evaluation, whose {EVALUATION} differs in {others}; name"
                " another folder"
            )


def _part(number: int) -> str:
    return f"scores/part-{number:06d}.parquet"


def _identity(config: RunConfig) -> dict[str, Any]:
    """The config as far as it decides rows."""
    evaluate = difference(config.evaluate)
    return {"config_hash": config_hash(config), "evaluate": redact_values(evaluate)}
