"""The messages of ``containerd.services.snapshots.v1``, built from a table of their fields.

Source: containerd api/services/snapshots/v1/snapshots.proto and api/types/mount.proto. The numbers are the
protocol; the names are containerd's.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

SERVICE = "containerd.services.snapshots.v1.Snapshots"
_PACKAGE = "containerd.services.snapshots.v1"
_KIND_UNKNOWN, KIND_VIEW, KIND_ACTIVE, KIND_COMMITTED = range(4)

_NAMED = {"snapshotter": (1, "string"), "key": (2, "string")}
_CREATING = {**_NAMED, "parent": (3, "string"), "labels": (4, "map")}
# message -> field -> (number, type); "*" is repeated, "map" is from string to string.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Mount": {"type": (1, "string"), "source": (2, "string"), "target": (3, "string"), "options": (4, "string*")},
    "Info": {
        "name": (1, "string"),
        "parent": (2, "string"),
        "kind": (3, "int32"),
        "created_at": (4, "google.protobuf.Timestamp"),
        "updated_at": (5, "google.protobuf.Timestamp"),
        "labels": (6, "map"),
    },
    "PrepareSnapshotRequest": _CREATING,
    "PrepareSnapshotResponse": {"mounts": (1, "Mount*")},
    "ViewSnapshotRequest": _CREATING,
    "ViewSnapshotResponse": {"mounts": (1, "Mount*")},
    "MountsRequest": _NAMED,
    "MountsResponse": {"mounts": (1, "Mount*")},
    "RemoveSnapshotRequest": _NAMED,
    "CommitSnapshotRequest": {
        "snapshotter": (1, "string"),
        "name": (2, "string"),
        "key": (3, "string"),
        "labels": (4, "map"),
    },
    "StatSnapshotRequest": _NAMED,
    "StatSnapshotResponse": {"info": (1, "Info")},
    "UpdateSnapshotRequest": {
        "snapshotter": (1, "string"),
        "info": (2, "Info"),
        "update_mask": (3, "google.protobuf.FieldMask"),
    },
    "UpdateSnapshotResponse": {"info": (1, "Info")},
    "ListSnapshotsRequest": {"snapshotter": (1, "string"), "filters": (2, "string*")},
    "ListSnapshotsResponse": {"info": (1, "Info*")},
    "UsageRequest": _NAMED,
    "UsageResponse": {"size": (1, "int64"), "inodes": (2, "int64")},
    "CleanupRequest": {"snapshotter": (1, "string")},
}
_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "int32": FieldDescriptorProto.TYPE_INT32,  # on the wire an enum is one
    "int64": FieldDescriptorProto.TYPE_INT64,
}


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="snapshots.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.extend(item.DESCRIPTOR.file.name for item in (Empty, FieldMask, Timestamp))
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _add(message, field, number, kind)
    pool = descriptor_pool.Default()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    found = (pool.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in _MESSAGES)
    return {item.name: message_factory.GetMessageClass(item) for item in found} | {"Empty": Empty}


def _add(message: Any, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number)
    is_map, is_list = kind == "map", kind.endswith("*")
    kind = kind.rstrip("*")
    field.label = field.LABEL_REPEATED if is_map or is_list else field.LABEL_OPTIONAL
    if is_map:  # a message of its own, with key and value
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add(entry, "key", 1, "string")
        _add(entry, "value", 2, "string")
        field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{message.name}.{entry.name}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{kind}" if "." in kind else f".{_PACKAGE}.{kind}"


MESSAGES = _build()
"""By their names; ``google.protobuf.Empty`` too."""

METHODS: Mapping[str, tuple[str, str]] = {
    "Prepare": ("PrepareSnapshotRequest", "PrepareSnapshotResponse"),
    "View": ("ViewSnapshotRequest", "ViewSnapshotResponse"),
    "Mounts": ("MountsRequest", "MountsResponse"),
    "Commit": ("CommitSnapshotRequest", "Empty"),
    "Remove": ("RemoveSnapshotRequest", "Empty"),
    "Stat": ("StatSnapshotRequest", "StatSnapshotResponse"),
    "Update": ("UpdateSnapshotRequest", "UpdateSnapshotResponse"),
    "List": ("ListSnapshotsRequest", "ListSnapshotsResponse"),  # a stream of these
    "Usage": ("UsageRequest", "UsageResponse"),
    "Cleanup": ("CleanupRequest", "Empty"),
}
"""The methods of the service, with what they take and give."""
