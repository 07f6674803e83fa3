"""The folder of stored clips: its identity, its committed shards, and the lists made from them.

See `echodfkd.sources.written.writing` for its layout. Everything here reads only commit records: files of a shard
without one are ignored.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from echodfkd.core.errors import ConfigError, InputError
from echodfkd.core.redaction import dump_json
from echodfkd.sources.video.file_list import FILE_LIST_COLUMNS
from echodfkd.sources.video.tracing_list import TRACING_COLUMNS
from echodfkd.sources.written.writing import Record, Shard
from echodfkd.storage.files import LAYOUT, RunStorage, check_layout, describe
from echodfkd.storage.schemas import CASE_SCHEMA
from echodfkd.storage.untrusted import parse_json_object

_IDENTITY = "synthesis.json"
_MANIFEST = "manifest.json"

MAX_RECORD_BYTES = 1 << 26
"""Largest commit record of a shard: a clip takes some 500 bytes, its tracings up to 50 kB."""

_RECORDS_AT_ONCE = 128
"""Records read in one round trip: bounds memory on a local disk, and connections to an object store."""


def open_folder(root: str, identity: Mapping[str, object], *, on_exists: str) -> RunStorage:
    """Create the folder, or check that the existing one was made for the same request.

    Args:
        root: synthesize.out.
        identity: all options that decide the content, in sections, as in a config file.
        on_exists: resume or refuse.

    Raises:
        ConfigError: the folder belongs to another request or to something else, or must not be resumed.
        InputError: the folder cannot be written, or a newer version of this software made it.
    """
    storage = RunStorage(root)
    storage.check_readable("synthesize.out")
    wanted = json.loads(json.dumps(identity))
    if not storage.exists(_IDENTITY):
        if storage.list(""):
            raise ConfigError(
                f"synthesize.out: {root} is not empty and holds no clips of this job; name another folder"
            )
        storage.check_writable("synthesize.out")
        text = json.dumps({"layout": LAYOUT, **wanted}, indent=1, sort_keys=True)
        if storage.create_once(_IDENTITY, text.encode()):
            return storage
    stored = storage.read_json(_IDENTITY)
    check_layout(stored, f"{root}/{_IDENTITY}")
    stored.pop("layout", None)  # an older one still takes clips
    if on_exists == "refuse":
        raise ConfigError(f"synthesize.out: {root} holds clips already and on_exists is refuse")
    was, now = _flat(stored), _flat(wanted)
    for option in sorted({*was, *now}):
        if was.get(option) != now.get(option):
            raise ConfigError(
                f"synthesize.out: {root} holds clips of another {option} ({was.get(option)}, now {now.get(option)});"
                " name another folder"
            )
    return storage


def read_records(storage: RunStorage, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Record, bytes]]:
    """The committed shards among these, in order: the shard, its record, and the record's bytes."""
    committed = set(storage.list("shards"))
    waiting = [shard for shard in shards if shard.record in committed]
    for first in range(0, len(waiting), _RECORDS_AT_ONCE):
        part = waiting[first : first + _RECORDS_AT_ONCE]
        texts = storage.read_all([shard.record for shard in part], MAX_RECORD_BYTES)
        for shard, text in zip(part, texts, strict=True):
            yield shard, _parse_record(text, shard, f"{storage.root}/{shard.record}"), text


def _parse_record(text: bytes, shard: Shard, where: str) -> Record:
    """Parse a commit record and check its fields. Raises `InputError`."""
    record = parse_json_object(text, where)
    lists: dict[str, Any] = {key: record.get(key) for key in ("clips", "quarantined")}
    lists |= {key: record.get(key, []) for key in ("file_list", "tracings")}
    inner = {"clips": dict, "quarantined": dict, "file_list": list, "tracings": list}
    fits = record.get("shard") == shard.number and isinstance(record.get("files"), dict)
    fits = fits and all(isinstance(rows, list) for rows in lists.values())
    fits = fits and all(isinstance(row, inner[key]) for key, rows in lists.items() for row in rows or ())
    fits = fits and all(isinstance(row.get("clip_id"), str) for row in record["clips"])
    fits = fits and all(
        isinstance(cell, str) for key in ("file_list", "tracings") for row in lists[key] for cell in row
    )
    if not fits:
        raise InputError(f"{where} is not the commit record of shard {shard.number}; delete it to have the shard made")
    for name, known in record["files"].items():
        _check_entry(name, known, where)
    return record


def _check_entry(name: object, known: object, where: str) -> None:
    """Refuse a file's entry without size and sha256. Raises `InputError`."""
    entry = known if isinstance(known, dict) else {}
    if not (isinstance(name, str) and type(entry.get("size")) is int and isinstance(entry.get("sha256"), str)):
        raise InputError(f"{where} has no size and sha256 of {name!r}")


def pending_shards(storage: RunStorage, shards: Sequence[Shard], *, layout: str) -> tuple[list[Shard], int]:
    """Shards still to be made: without a record, or with a file that is missing or of another size.

    Returns:
        The shards in order, and the number of indices quarantined in the others.
    """
    folder = "Videos" if layout == "echonet" else "clips"
    storage.fs.invalidate_cache()
    sizes = storage.sizes(folder)
    whole, quarantined = set(), 0
    for shard, record, _ in read_records(storage, shards):
        if all(sizes.get(name) == known["size"] for name, known in record["files"].items()):
            whole.add(shard.number)
            quarantined += len(record["quarantined"])
    return [shard for shard in shards if shard.number not in whole], quarantined


def merge_lists(storage: RunStorage, shards: Sequence[Shard], *, layout: str) -> dict[str, Any]:
    """Write the lists of the committed clips, in index order. Returns the manifest, which `write_manifest` writes.

    Raises:
        InputError: two clips have the same id, or a commit record is damaged.
    """
    file_list, tracings = [FILE_LIST_COLUMNS], [TRACING_COLUMNS]
    rows: list[dict[str, Any]] = []
    entries, quarantined, size = [], [], 0
    for shard, record, text in read_records(storage, shards):
        rows += record["clips"]
        file_list += record.get("file_list", [])
        tracings += record.get("tracings", [])
        quarantined += record["quarantined"]
        size += sum(known["size"] for known in record["files"].values())
        entry = {"record": shard.record, "first_index": shard.first_index, "clips": len(record["clips"])}
        entries.append({**entry, **describe(text)})
    seen: set[str] = set()
    for row in rows:
        if row["clip_id"] in seen:
            raise InputError(f"the clip id {row['clip_id']!r} comes twice; the source breaks its promise of unique ids")
        seen.add(row["clip_id"])
    lists = {"VolumeTracings.csv": _csv(tracings), "FileList.csv": _csv(file_list)} if layout == "echonet" else {}
    try:
        storage.write_table("clips.parquet", rows, CASE_SCHEMA)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{storage.root}/shards: a record holds clips of another form: {error}") from error
    for name, data in lists.items():
        storage.write(name, data)
    return {
        "layout": LAYOUT,
        "format": layout,
        "clips": len(rows),
        "bytes": size,
        "complete": len(entries) == len(shards),
        "quarantined": quarantined,
        "lists": {name: describe(storage.read(name)) for name in (*lists, "clips.parquet")},
        "shards": entries,
    }


def write_manifest(storage: RunStorage, manifest: Mapping[str, Any]) -> None:
    """Write manifest.json; a reader that finds it with ``complete`` may rely on everything it names."""
    storage.write(_MANIFEST, dump_json(manifest))


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as dotted options."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
