"""The folder that stored clips lie in: whose it is, what of it is committed, and the lists made from that.

See `echodfkd.synthesis.writing` for its layout. Everything here reads commit records alone: files of a shard that has
none are void.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from echodfkd.errors import ConfigError, InputError
from echodfkd.schemas import CASE_SCHEMA
from echodfkd.storage import RunStorage
from echodfkd.synthesis.writing import Record, Shard, describe
from echodfkd.video.echonet import FILE_LIST_COLUMNS, TRACING_COLUMNS

IDENTITY = "synthesis.json"
MANIFEST = "manifest.json"

_RECORDS_AT_ONCE = 128
"""Records read in one round trip: bounds memory on a local disk, and connections to an object store."""


def open_folder(root: str, identity: Mapping[str, object], *, on_exists: str) -> RunStorage:
    """Make the folder, or check that the one there was made for this very request.

    Args:
        root: synthesize.out.
        identity: all that decides what is written: options in sections, as a config file has them.
        on_exists: resume or refuse.

    Raises:
        ConfigError: the folder belongs to another request or to something else, or must not be resumed.
        InputError: the folder cannot be written.
    """
    storage = RunStorage(root)
    wanted = json.loads(json.dumps(identity))
    if not storage.exists(IDENTITY):
        if storage.list(""):
            raise ConfigError(
                f"synthesize.out: {root} is not empty and holds no clips of this job; name another folder"
            )
        storage.check_writable()
        if storage.create_once(IDENTITY, json.dumps(wanted, indent=1, sort_keys=True).encode()):
            return storage
    stored = json.loads(storage.read(IDENTITY))
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
    """The committed ones of these shards, in order: the shard, its record, and the record's bytes."""
    committed = set(storage.list("shards"))
    waiting = [shard for shard in shards if shard.record in committed]
    for first in range(0, len(waiting), _RECORDS_AT_ONCE):
        part = waiting[first : first + _RECORDS_AT_ONCE]
        found = storage.fs.cat([storage.path(shard.record) for shard in part])  # one round trip on an object store
        texts = {json.loads(text)["shard"]: text for text in found.values()}
        yield from ((shard, json.loads(texts[shard.number]), texts[shard.number]) for shard in part)


def pending_shards(storage: RunStorage, shards: Sequence[Shard], *, layout: str) -> tuple[list[Shard], int]:
    """What is still to be made: shards without a record, or with a file that is missing or of another size.

    Returns:
        The shards in order, and the number of indices quarantined in the others.
    """
    folder = "Videos" if layout == "echonet" else "clips"
    storage.fs.invalidate_cache()
    try:
        listed = storage.fs.ls(storage.path(folder), detail=True)
    except FileNotFoundError:
        listed = []
    sizes = {f"{folder}/{str(entry['name']).rsplit('/', 1)[-1]}": entry["size"] for entry in listed}
    whole, quarantined = set(), 0
    for shard, record, _ in read_records(storage, shards):
        if all(sizes.get(name) == known["size"] for name, known in record["files"].items()):
            whole.add(shard.number)
            quarantined += len(record["quarantined"])
    return [shard for shard in shards if shard.number not in whole], quarantined


def merge_lists(storage: RunStorage, shards: Sequence[Shard], *, layout: str) -> dict[str, Any]:
    """Write the lists of what is committed, in index order. Returns the manifest, which `write_manifest` writes.

    Raises:
        InputError: two clips have the same id.
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
    storage.write_table("clips.parquet", rows, CASE_SCHEMA)
    for name, data in lists.items():
        storage.replace(name, data)
    return {
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
    storage.replace(MANIFEST, json.dumps(manifest, indent=1).encode())


def check_folder(storage: RunStorage) -> int:
    """Read everything that the manifest names and hold it against sizes and hashes. Returns the number of clips.

    Raises:
        InputError: there is no manifest, or a file is missing or damaged; which one.
    """
    if not storage.exists(MANIFEST):
        raise InputError(f"{storage.root} holds no {MANIFEST}: it is not whole; run the job that wrote it again")
    manifest = json.loads(storage.read(MANIFEST))
    for name, known in manifest["lists"].items():
        _check_file(storage, name, known)
    for entry in manifest["shards"]:
        for name, known in json.loads(_check_file(storage, entry["record"], entry))["files"].items():
            _check_file(storage, name, known)
    return int(manifest["clips"])


def _check_file(storage: RunStorage, name: str, known: Mapping[str, object]) -> bytes:
    try:
        data = storage.read(name)
    except FileNotFoundError as error:
        raise InputError(f"{storage.path(name)} is in the manifest and missing") from error
    if describe(data) != {key: known[key] for key in ("size", "sha256")}:
        raise InputError(f"{storage.path(name)} is damaged: {len(data)} bytes, the manifest has {known['size']}")
    return data


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
