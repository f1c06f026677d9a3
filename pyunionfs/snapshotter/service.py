"""Answers containerd: each method of the service calls :class:`.snapshots.Snapshots`, and each of its errors
becomes the code that containerd knows."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from . import snapshots
from .messages import MESSAGES, METHODS, SERVICE
from .snapshots import Snapshot, Snapshots

_THREADS = 8
_PAGE = 100  # snapshots in one message of a stream
_CODES = {
    snapshots.NotFoundError: grpc.StatusCode.NOT_FOUND,
    snapshots.ExistsError: grpc.StatusCode.ALREADY_EXISTS,
    snapshots.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    ValueError: grpc.StatusCode.INVALID_ARGUMENT,
}


class Service:
    """The methods of ``containerd.services.snapshots.v1.Snapshots``."""

    def __init__(self, kept: Snapshots) -> None:
        self._kept = kept

    def prepare(self, request: Any) -> Any:
        return self._made(request, "PrepareSnapshotResponse", snapshots.ACTIVE)

    def view(self, request: Any) -> Any:
        return self._made(request, "ViewSnapshotResponse", snapshots.VIEW)

    def _made(self, request: Any, response: str, kind: int) -> Any:
        mounts = self._kept.prepare(request.key, request.parent, request.labels, kind=kind)
        return MESSAGES[response](mounts=[_mount(item) for item in mounts])

    def mounts(self, request: Any) -> Any:
        return MESSAGES["MountsResponse"](mounts=[_mount(item) for item in self._kept.mounts(request.key)])

    def commit(self, request: Any) -> Any:
        self._kept.commit(request.name, request.key, request.labels)
        return MESSAGES["Empty"]()

    def remove(self, request: Any) -> Any:
        self._kept.remove(request.key)
        return MESSAGES["Empty"]()

    def stat(self, request: Any) -> Any:
        return MESSAGES["StatSnapshotResponse"](info=_info(self._kept.stat(request.key)))

    def update(self, request: Any) -> Any:
        found = self._kept.update(request.info.name, request.info.labels, list(request.update_mask.paths))
        return MESSAGES["UpdateSnapshotResponse"](info=_info(found))

    def list(self, request: Any) -> Iterator[Any]:
        """All of them: containerd filters by itself what it is given too much."""
        found = self._kept.all()
        for start in range(0, len(found), _PAGE):
            page = [_info(item) for item in found[start : start + _PAGE]]
            yield MESSAGES["ListSnapshotsResponse"](info=page)

    def usage(self, request: Any) -> Any:
        size, inodes = self._kept.usage(request.key)
        return MESSAGES["UsageResponse"](size=size, inodes=inodes)

    def cleanup(self, request: Any) -> Any:
        self._kept.cleanup()
        return MESSAGES["Empty"]()


def _mount(item: snapshots.Mount) -> Any:
    return MESSAGES["Mount"](type=item.type, source=item.source, options=item.options)


def _info(item: Snapshot) -> Any:
    info = MESSAGES["Info"](name=item.key, parent=item.parent, kind=item.kind, labels=item.labels)
    info.created_at.FromNanoseconds(int(item.created * 10**9))
    info.updated_at.FromNanoseconds(int(item.updated * 10**9))
    return info


def _handler(method: Callable[[Any], Any], request: str, response: str, *, streams: bool) -> Any:
    def answer(message: Any, context: Any) -> Any:
        try:
            return method(message)
        except tuple(_CODES) as error:
            context.abort(_CODES[type(error)], str(error))

    def answer_each(message: Any, context: Any) -> Iterator[Any]:
        yield from method(message)

    how = {
        "request_deserializer": MESSAGES[request].FromString,
        "response_serializer": MESSAGES[response].SerializeToString,
    }
    if streams:
        return grpc.unary_stream_rpc_method_handler(answer_each, **how)
    return grpc.unary_unary_rpc_method_handler(answer, **how)


def serve(address: Path, root: Path) -> Any:
    """Begin to answer on a unix socket, which takes the place of one that a dead process has left. Returns the
    server, to be stopped. Raises OSError."""
    kept = Snapshots(root)
    service = Service(kept)
    handlers = {
        name: _handler(getattr(service, name.lower()), request, response, streams=name == "List")
        for name, (request, response) in METHODS.items()
    }
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address.parent.mkdir(parents=True, exist_ok=True)
    address.unlink(missing_ok=True)
    old = os.umask(0o177)  # it is root's alone
    try:
        server.add_insecure_port(f"unix://{address.absolute()}")
        server.start()
    finally:
        os.umask(old)
    return server
