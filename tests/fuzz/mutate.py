"""Ways to spoil an input: bytes, cells of a table, nodes of a JSON value. All take their chance from ``rng`` alone."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.hostile_types import NESTS, OBJECT, TENSORS, hostile_column

WORDS = (
    "", " ", "../x", "../../etc/passwd", "/etc/passwd", "~root", "..\\..\\x", "C:\\x", "a\0b", "a\nb", "a\rb",
    "\x1b[31mred",
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2+3",
    "nan", "inf", "-inf", "1e999", "1e308", "-1e308", "1e-320", "-1", "0", "-0", "9" * 400, "9" * 5000, "0x10", "1_000",
    "1:30", "٣", "ⅷ", "𝕏", "\ufeff", "\u202eabc", "a" * 300, "a" * 200_000, "'", '"', ",", ";", "null", "true", "~",
    "{}", "[]", "[[]]", "${oc.env:HOME}", "${nowhere}", "!!python/object/apply:os.system [touch x]", "*a",
    "&a b", "%s%n",
    "{{7*7}}", "$\\frac$", "$x", "2026-11-21", "0.5", "1.5", "32", "CON", ".", "..", "x" * 255 + "/y",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 10**30)
JSON_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**53, 10**30, -(10**400), "", "x", "../x", [], {}, [None], {"a": 1}, [[0, 2**61]],
    [[0, 1], [1, 2]], "<script>alert(1)</script>", "\x00", "é" * 500, [1, "a", None], {"size": 1, "sha256": "0" * 64},
)  # fmt: skip
YAML_BOMB = "\n".join(
    ["a0: &a0 x"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
).encode()
NESTED = (
    "[" * 200 + "]" * 200,
    "{a: {b: {c: [1, {d: x}]}}}",
    "[1, 2, 3]",
    "{low: .nan, high: .inf}",
    "{mean: 1e400, sd: -1}",
    "{a: {weight: 1e-300}, b: {weight: 1e300}}",
    "{'../x': {blocks: 2}}",
    "{? [1]: 2}",
    "&x [*x]",
    "<<: 5",
    "!!binary aGk=",
    "!!set {a, b}",
    "{value: 5, low: 1}",
    "{1: {blocks: 2}}",
    "{'a b': {}}",
    "{'<script>': {blocks: 1}}",
    "2026-11-21 10:00:00",
)


class _End:
    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (66,)


_ENDS_THE_PROCESS = pickle.dumps(_End())
"""Unpickled, it ends the child, which the harness counts as a failure."""


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four faults as transport, disks and attackers make them."""
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not spoiled:
            return rng.randbytes(rng.randint(0, 64))
        at = rng.randrange(len(spoiled))
        length = rng.randint(1, max(1, min(64, len(spoiled) - at)))
        kind = rng.randrange(8)
        if kind == 0:
            spoiled[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del spoiled[at:]
        elif kind == 2:
            spoiled[at : at + length] = bytes([rng.choice((0, 255, 10, 34))]) * length
        elif kind == 3:
            spoiled[at : at + length] = rng.randbytes(length)
        elif kind == 4:
            del spoiled[at : at + length]
        elif kind == 5:
            spoiled[at:at] = spoiled[at : at + length] * rng.randint(1, 20)
        elif kind == 6:
            spoiled[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(NUMBERS) & 0xFFFFFFFF)
        else:
            start = rng.randrange(len(spoiled))
            spoiled[at : at + length] = spoiled[start : start + length]
    return bytes(spoiled)


def patch_after(rng: random.Random, data: bytes, tags: Sequence[bytes], reach: int = 60) -> bytes:
    """Another 16- or 32-bit number somewhere behind a tag of the format: headers that lie."""
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        places = [at for tag in tags for at in _all(spoiled, tag)]
        if not places:
            break
        at = rng.choice(places) + 2 * rng.randint(0, reach // 2)
        value = rng.choice((*NUMBERS, rng.getrandbits(32)))
        code, mask = rng.choice((("I", 0xFFFFFFFF), ("H", 0xFFFF)))
        packed = struct.pack(rng.choice("<>") + code, value & mask)
        spoiled[at : at + len(packed)] = packed
    return bytes(spoiled)


def _all(data: bytes | bytearray, tag: bytes) -> list[int]:
    places, at = [], data.find(tag)
    while at >= 0:
        places.append(at)
        at = data.find(tag, at + 1)
    return places


def damage_csv(rng: random.Random, data: bytes) -> bytes:
    """Cells, columns, rows, or the encoding of a CSV file."""
    kind = rng.randrange(10)
    if kind == 0:
        return damage_bytes(rng, data)
    rows = list(csv.reader(io.StringIO(data.decode())))
    for _ in range(rng.randint(1, 3)):
        row = rng.randrange(rng.random() < 0.9 and len(rows) > 1, len(rows))  # the header one time in ten
        column = rng.randrange(len(rows[0]))
        if kind <= 4:
            if column < len(rows[row]):
                rows[row][column] = rng.choice(WORDS)
        elif kind == 5:
            other = rng.randrange(len(rows[0]))
            rows = [[*line[:column], *line[column + 1 :]] if rng.random() < 0.97 else line for line in rows]
            if rng.random() < 0.5 and rows and rows[0]:
                rows[0] = [*rows[0], rows[0][other % len(rows[0])]]
        elif kind == 6:
            rows[row] = (
                rows[row] + [rng.choice(WORDS)] * rng.randint(1, 4) if rng.random() < 0.5 else rows[row][:column]
            )
        elif kind == 7:
            rows = rows[:row] if rng.random() < 0.5 else rows + [rows[row]] * rng.randint(1, 300)
        if not rows or not rows[0]:
            break
    text = io.StringIO(newline="")
    delimiter = rng.choice(";\t| ") if kind == 8 and rng.random() < 0.3 else ","
    csv.writer(text, delimiter=delimiter, lineterminator=rng.choice(("\n", "\r\n"))).writerows(rows)
    encoding = rng.choice(("utf-8-sig", "utf-16", "latin-1")) if kind == 8 else "utf-8"
    spoiled = text.getvalue().encode(encoding, "replace")
    return damage_bytes(rng, spoiled) if kind == 9 else spoiled


def damage_json(rng: random.Random, data: bytes) -> bytes:
    """One to three nodes replaced, removed or added, or the text itself damaged."""
    if rng.random() < 0.2:
        return damage_bytes(rng, data)
    if rng.random() < 0.05:
        return rng.choice(
            (b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b'{"step": Infinity}', b"1" * 5000, b"\xff\xfe{}")
        )
    values = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        values = _damage_node(rng, values)
    return json.dumps(values).encode()


def _damage_node(rng: random.Random, values: Any) -> Any:
    if isinstance(values, dict) and values and rng.random() < 0.9:
        key = rng.choice(list(values))
        values = dict(values)
        if rng.random() < 0.15:
            del values[key]
        elif rng.random() < 0.15:
            values[rng.choice(WORDS[:40])] = values[key]
        else:
            values[key] = _damage_node(rng, values[key])
        return values
    if isinstance(values, list) and values and rng.random() < 0.8:
        place = rng.randrange(len(values))
        return [*values[:place], _damage_node(rng, values[place]), *values[place + 1 :]]
    return rng.choice(JSON_VALUES)


def damage_parquet(
    rng: random.Random, data: bytes, more: Callable[[random.Random, pa.Table], pa.Table] | None = None
) -> bytes:
    """Bytes, columns, types or values of a Parquet file."""
    if rng.random() < 0.35:
        return damage_bytes(rng, data)
    table = pq.read_table(io.BytesIO(data))
    for _ in range(rng.randint(1, 2)):
        if more is not None and rng.random() < 0.6:
            table = more(rng, table)
        elif table.num_columns:
            table = _damage_table(rng, table)
    if table.num_columns and rng.random() < 0.15:
        column = rng.choice(NESTS)(hostile_column(rng.choice((OBJECT, *TENSORS)), _ENDS_THE_PROCESS, table.num_rows))
        place = rng.randrange(table.num_columns)
        table = table.set_column(place, table.column_names[place], column)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression=rng.choice(("none", "zstd", "gzip")))
    return sink.getvalue()


def _damage_table(rng: random.Random, table: pa.Table) -> pa.Table:
    place = rng.randrange(table.num_columns)
    name, length = table.column_names[place], table.num_rows
    kind = rng.randrange(7)
    if kind == 0:
        return table.remove_column(place)
    if kind == 1:
        return table.append_column(name, table.column(place))
    if kind == 2:
        return table.slice(0, rng.choice((0, 1, length)))
    if kind == 3:
        return pa.concat_tables([table] * rng.randint(2, 5))
    old = table.column(place).to_pylist()
    typed = table.schema.field(place).type
    value: Any = None
    if pa.types.is_string(typed):
        value = rng.choice(WORDS[:-1])
    elif pa.types.is_floating(typed):
        value = rng.choice((float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e308, 5e-324))
    elif pa.types.is_integer(typed):
        value = rng.choice([number for number in NUMBERS if -(2**63) <= number < 2**63])
    if kind <= 5:
        new = [value if rng.random() < 0.5 else one for one in old]
        return table.set_column(place, table.schema.field(place), pa.array(new, typed))
    column = rng.choice((pa.nulls(length), pa.array([rng.choice(WORDS[:40]) for _ in old]), pa.array([1.5] * length)))
    column = rng.choice((column, pa.array([[1]] * length), pa.array([{"a": 1}] * length), pa.array([b"\xff"] * length)))
    return table.set_column(place, name, column)


def damage_yaml(rng: random.Random, data: bytes) -> bytes:
    """Bytes or the value of a line of a YAML file."""
    if rng.random() < 0.3:
        return rng.choice((damage_bytes(rng, data), YAML_BOMB))
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = f"{lines[at].partition(':')[0]}: {rng.choice((*WORDS, *NESTED))}"
    return "\n".join(lines).encode("utf-8", "replace")
