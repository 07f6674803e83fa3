"""A long run's scores on an object store 30 ms away: a resume lists them, the end of a run reads them all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.core.records import CaseScore
from echodfkd.reporting.rows import read_rows
from echodfkd.storage.files import RunStorage
from echodfkd.storage.schemas import SCORE_SCHEMA
from tests.benchmarks.timing import Report
from tests.helpers.s3 import FaultyProxy, S3Server, environment, forgetting_clients

CHECKPOINTS, STUDENTS, CASES, METRICS = 62, 16, 24, 42
"""Those of configs/conditional_million.yaml: 992 parts, a million rows."""
DELAY_S = 0.03
TARGET_S = 30.0


def score_parts(report: Report, *, quick: bool) -> dict[str, Any]:
    """Seconds to list and to read a long run's scores on S3 (moto, each request 30 ms later)."""
    checkpoints = 3 if quick else CHECKPOINTS
    server = S3Server()
    proxy = FaultyProxy(server.port, lambda number, method, path: f"delay {DELAY_S}")
    root = f"s3://{server.bucket()}/run"
    try:
        with _reached(server.port):
            _write(RunStorage(root), checkpoints)
        with _reached(proxy.port):
            storage = RunStorage(root)
            listed_s, parts = _timed(lambda: storage.sizes("scores"))
            requests = len(proxy.seen)
            read_s, rows = _timed(lambda: read_rows(storage).scores)
    finally:
        proxy.close()
        server.close()
    report(f"{'':28}{'seconds':>9}{'requests':>10}")
    report(f"{f'list {len(parts)} parts (a resume)':28}{listed_s:9.2f}{requests:10}")
    report(f"{f'read {rows.num_rows:,} rows (the end)':28}{read_s:9.2f}{len(proxy.seen) - requests:10}")
    return {
        "value": max(listed_s, read_s),
        "target": TARGET_S,
        "holds": max(listed_s, read_s) <= TARGET_S,
        "parts": len(parts),
        "rows": rows.num_rows,
    }


def _write(storage: RunStorage, checkpoints: int) -> None:
    """The scores of a run, a part for each checkpoint and student, as `EvaluatorPool` writes them."""
    storage.write("config.yaml", config_to_yaml(load_config(None, ["students.s00={blocks: 1}"])).encode())
    rows = [
        asdict(CaseScore(f"case-{case:03}", "teacher", "", 0, f"metric_{metric:02}", "truth", "", 0.5, case / 70, 48))
        for case in range(CASES)
        for metric in range(METRICS)
    ]
    for step in range(checkpoints):
        for student in (f"s{number:02}" for number in range(STUDENTS)):
            own = ({**row, "step": step, "student": student} for row in rows)
            storage.write_table(f"scores/part-step{step:08d}-{student}.parquet", own, SCORE_SCHEMA)


def _timed(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


@contextmanager
def _reached(port: int) -> Iterator[None]:
    """S3 at this port for every client of the block."""
    with patch.dict(os.environ, environment(port)), forgetting_clients():
        yield
