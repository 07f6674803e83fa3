"""Tables of patients, config files, overrides: how they are spoiled and what must hold then."""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from echodfkd.config.file import config_to_yaml, load_config
from echodfkd.config.run import RunConfig
from echodfkd.config.sections.student import StudentConfig
from echodfkd.sources.patients.table import read_patient_table
from tests.fuzz.mutate import NESTED, WORDS, YAML_BOMB, damage_bytes, damage_csv, damage_parquet


class Table:
    """Tables of patients, CSV and Parquet."""

    name = "table"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        rows = {
            "ef_percent": [55.0, 30.5, None], "edv_ml": [100.0, 180.0, 90.0], "esv_ml": [45.0, 125.0, 40.0],
            "sex": ["F", "M", None], "view": ["A4C", "A2C", "A4C"], "age_years": [60, 71, 18],
        }  # fmt: skip
        sink = io.BytesIO()
        pq.write_table(pa.table(rows), sink)
        self.parquet = sink.getvalue()
        lines = [
            ",".join(rows),
            *(",".join("" if c is None else str(c) for c in row) for row in zip(*rows.values(), strict=True)),
        ]
        self.csv = "\n".join(lines).encode()

    def run(self, rng: random.Random) -> None:
        is_csv = rng.random() < 0.5
        path = self.folder / ("t.csv" if is_csv else "t.parquet")
        path.write_bytes(damage_csv(rng, self.csv) if is_csv else damage_parquet(rng, self.parquet))
        read_patient_table.cache_clear()
        table = read_patient_table(str(path), "")
        assert all(len(column) == table.num_rows for column in table.columns.values())
        for name, column in table.columns.items():
            assert all(
                value is None or isinstance(value, str if name in ("sex", "view") else float) for value in column
            )


class ConfigText:
    """Config files: bytes, lines, values, nesting, anchors, tags."""

    name = "config"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "run.yaml"
        root = Path(__file__).parents[2] / "configs"
        self.good = [path.read_text() for path in sorted(root.glob("*.yaml"))]
        self.good.append(config_to_yaml(RunConfig(students={"a": StudentConfig()})))

    def run(self, rng: random.Random) -> None:
        lines = rng.choice(self.good).splitlines()
        kind = rng.randrange(8)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(lines))
            key, colon, _ = lines[at].partition(":")
            if kind <= 3 and colon:
                lines[at] = f"{key}: {rng.choice(WORDS)}"
            elif kind == 4:
                lines.insert(at, f"{' ' * rng.randint(0, 6)}{rng.choice(WORDS[:60])}: {rng.choice(WORDS[:60])}")
            elif kind == 5:
                lines[at] = f"{key}: {rng.choice(NESTED)}"
            elif kind == 6:
                lines[at] = " " * rng.randint(0, 9) + lines[at].lstrip()
        data = "\n".join(lines).encode("utf-8", "replace")
        if kind == 7:
            data = rng.choice(
                (damage_bytes(rng, data), data.decode().encode("utf-16"), YAML_BOMB, b"[" * 5000, b"\n" * 2_000_000)
            )
        self.path.write_bytes(data)
        config_to_yaml(load_config(str(self.path))).encode()


class Overrides:
    """``key=value`` on the command line."""

    name = "overrides"

    def __init__(self, folder: Path) -> None:
        self.keys = list(_dotted(dataclasses.asdict(RunConfig(students={"a": StudentConfig()}))))
        self.keys += [
            "source.parts.a.weight",
            "source.conditions.stratify.edges",
            "students.b",
            "students",
            "source.parts",
        ]

    def run(self, rng: random.Random) -> None:
        overrides = ["students.a={blocks: 2}"] if rng.random() < 0.8 else []
        for _ in range(rng.randint(1, 3)):
            key = rng.choice(self.keys) if rng.random() < 0.9 else rng.choice(WORDS)
            value = rng.choice((*WORDS, *NESTED, str(rng.randint(-5, 10**9)), str(rng.uniform(-1, 1))))
            overrides.append(f"{key}={value}" if rng.random() < 0.97 else key)
        config_to_yaml(load_config(None, overrides)).encode()


def _dotted(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
