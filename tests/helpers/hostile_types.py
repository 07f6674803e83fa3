"""Columns of Arrow extension types by the names of Ray's, with a pickle: Ray unpickles it, our readers do not."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

OBJECT = "ray.data.arrow_pickled_object"
"""Its values are unpickled as they are listed."""
TENSORS = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2", "ray.data.arrow_variable_shaped_tensor")
"""Their parameters are unpickled as a file is opened, if RAY_DATA_AUTOLOAD_CLOUDPICKLE_TENSOR_METADATA is set, and by
Ray before 2.55 always."""

NESTS: tuple[Callable[[pa.Array], pa.Array], ...] = (
    lambda column: column,
    lambda column: pa.ListArray.from_arrays(pa.array(range(len(column) + 1), pa.int32()), column),
    lambda column: pa.StructArray.from_arrays([column], ["x"]),
)
"""The column itself, in a list, and in a struct."""


class _Typed(pa.ExtensionType):
    """A type of any name, not registered: only for writing."""

    def __init__(self, storage: pa.DataType, name: str, parameters: bytes) -> None:
        self.parameters = parameters
        super().__init__(storage, name)

    def __arrow_ext_serialize__(self) -> bytes:
        return self.parameters

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> _Typed:
        return cls(storage, "", serialized)


def hostile_column(name: str, payload: bytes, rows: int = 1) -> pa.Array:
    """Rows of the type ``name`` with a pickle in their values or their parameters."""
    if name == OBJECT:
        storage, parameters = pa.array([payload] * rows, pa.large_binary()), b""
    elif name == TENSORS[2]:
        kind = pa.struct([("data", pa.list_(pa.float64())), ("shape", pa.list_(pa.int64()))])
        storage, parameters = pa.array([{"data": [1.0], "shape": [1]}] * rows, kind), payload
    else:
        kind = pa.list_(pa.float64()) if name == TENSORS[0] else pa.large_list(pa.float64())
        storage, parameters = pa.array([[1.0]] * rows, kind), payload
    return pa.ExtensionArray.from_storage(_Typed(storage.type, name, parameters), storage)
