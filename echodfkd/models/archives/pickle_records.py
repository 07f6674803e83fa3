"""Read the tensors that a pickle describes, opcode by opcode, without running anything.

A pickle is a program: loading it may call any function that it names. Training checkpoints name classes of other
packages (callbacks, hyper-parameters), so that refusing all but tensors would refuse the whole file. Here plain values
and containers are built, calls that rebuild a tensor become a record of it, and every other call, class or state
becomes a mark that does nothing. No name is ever looked up and no function ever called, so there is nothing that a
file could run.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names, ``"module name"``; it is not looked up."""

    name: str


class _Opaque:
    """Stands for an object that the pickle would have made by a call."""


@dataclass(frozen=True)
class StorageRecord:
    """A tensor's storage: class name (``"torch FloatStorage"``), entry of the archive, number of values."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class TensorRecord:
    """A tensor that the pickle describes: its view of a storage, in values. Nothing of it is checked yet."""

    storage: StorageRecord
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class _Stack:
    """The state of a pickle's program."""

    values: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def pop(self) -> Any:
        """The topmost value."""
        return self.values.pop()

    def pop_mark(self) -> list[Any]:
        """All values above the newest mark."""
        start = self.marks.pop()
        items = self.values[start:]
        del self.values[start:]
        return items


_ARGUMENTS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES"
    " SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split()
)
"""Opcodes that push their argument."""
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": _Opaque}
_SILENT = frozenset({"PROTO", "FRAME"})


def follow_pickle(program: bytes) -> Any:
    """The object that a pickle describes, with `TensorRecord` in place of its tensors.

    ``pickletools.genops`` decodes the opcodes and checks that each argument lies within the bytes; there is no
    opcode that loops, so that the work is bounded by their number.

    Raises:
        ValueError, IndexError, KeyError, TypeError: the bytes are not a valid pickle.
    """
    stack = _Stack()
    for opcode, argument, _ in pickletools.genops(program):
        name = opcode.name
        if name in _ARGUMENTS:
            stack.values.append(argument)
        elif name in _CONSTANTS:
            stack.values.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.values.append(_EMPTY[name]())
        elif name == "STOP":
            return stack.pop()
        elif name not in _SILENT and not (_move(stack, name, argument) or _fill(stack, name)):
            _call(stack, name, argument)
    raise ValueError("its description ends before its last opcode")


def _move(stack: _Stack, name: str, argument: Any) -> bool:
    """Opcodes of the stack itself and of the memo. Returns whether this was one."""
    if name == "MARK":
        stack.marks.append(len(stack.values))
    elif name == "POP":
        stack.pop()
    elif name == "POP_MARK":
        stack.pop_mark()
    elif name == "DUP":
        stack.values.append(stack.values[-1])
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
        stack.memo[argument] = stack.values[-1]
    elif name == "MEMOIZE":
        stack.memo[len(stack.memo)] = stack.values[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.values.append(stack.memo[argument])
    else:
        return False
    return True


def _fill(stack: _Stack, name: str) -> bool:
    """Opcodes that make or fill a container. Returns whether this was one."""
    if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack.values.append(tuple([stack.pop() for _ in range(count)][::-1]))
    elif name == "TUPLE":
        stack.values.append(tuple(stack.pop_mark()))
    elif name == "LIST":
        stack.values.append(stack.pop_mark())
    elif name in ("DICT", "FROZENSET"):
        items = stack.pop_mark()
        stack.values.append(_Opaque() if name == "FROZENSET" else {})
        _set_items(stack.values[-1], items)
    elif name in ("APPEND", "APPENDS", "ADDITEMS"):
        items = [stack.pop()] if name == "APPEND" else stack.pop_mark()
        if isinstance(stack.values[-1], list):
            stack.values[-1].extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else stack.pop_mark()
        _set_items(stack.values[-1], items)
    else:
        return False
    return True


def _set_items(target: Any, items: list[Any]) -> None:
    """Put alternating keys and values into a dictionary. A key that is no plain value becomes an `_Opaque`:

    hashing a tuple of tuples of tuples ... would exhaust the interpreter's own stack.
    """
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key if isinstance(key, str | int | float | bytes | None) else _Opaque()] = value


def _call(stack: _Stack, name: str, argument: Any) -> None:
    """Opcodes that would look names up, call them, or hand them state."""
    if name == "GLOBAL":
        stack.values.append(_Name(argument))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.values.append(_Name(f"{module} {attribute}") if isinstance(attribute, str) else _Opaque())
    elif name in ("REDUCE", "NEWOBJ"):
        arguments, function = stack.pop(), stack.pop()
        stack.values.append(_result(function, arguments))
    elif name == "NEWOBJ_EX":
        del stack.values[-3:]
        stack.values.append(_Opaque())
    elif name in ("INST", "OBJ"):
        stack.pop_mark()
        stack.values.append(_Opaque())
    elif name == "BUILD":
        stack.pop()
        stack.values[-1]  # state is dropped, but there must be something that it was meant for
    elif name == "BINPERSID":
        stack.values.append(_storage(stack.pop()))
    elif name in ("EXT1", "EXT2", "EXT4"):
        stack.values.append(_Opaque())
    else:
        raise ValueError(f"its description has the opcode {name}, which torch never writes")


def _result(function: object, arguments: object) -> object:
    """The result of a call: a tensor, an ordered dictionary, or an `_Opaque`."""
    name = function.name if isinstance(function, _Name) else ""
    if name == "collections OrderedDict" and arguments == ():
        return {}
    if not isinstance(arguments, tuple):
        return _Opaque()
    if name == "torch._utils _rebuild_parameter" and arguments and isinstance(arguments[0], TensorRecord):
        return arguments[0]
    if name == "torch._utils _rebuild_tensor_v2" and len(arguments) >= 4:
        storage, offset, size, stride = arguments[:4]
        if isinstance(storage, StorageRecord) and isinstance(offset, int) and _are_ints(size) and _are_ints(stride):
            return TensorRecord(storage, offset, size, stride)
    return _Opaque()


def _storage(persistent_id: object) -> object:
    """A storage's record; its last field counts values."""
    if isinstance(persistent_id, tuple) and len(persistent_id) == 5 and persistent_id[0] == "storage":
        _, kind, key, _, numel = persistent_id
        if isinstance(kind, _Name) and isinstance(key, str) and isinstance(numel, int):
            return StorageRecord(kind.name, key, numel)
    return _Opaque()


def _are_ints(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, int) for value in values)
