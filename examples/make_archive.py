"""Make a container image, the way ``docker save`` would write it, without docker.

Run it: ``python examples/make_archive.py web.tar`` (``--oci`` for the OCI layout in the same tar), then::

    pyunionfs image load web.tar
    pyunionfs image history web:1

The image is a little web service that was built, patched and cleaned up. Five build steps that change files
give five layers, and between them they show what a layer can say about those below it: a file deleted, a file
replaced, a directory emptied, a hard link, a symlink, a setuid program, a change of mode. The result is the
same to the byte each time.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

EPOCH = 1_700_000_000  # seconds; every build is of this time, so that digests do not change
REFERENCE = "web:1"


@dataclass(frozen=True)
class File:
    """One entry of a layer's tar; ``kind`` is a type of ``tarfile``."""

    name: str
    data: str = ""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    uid: int = 0


def directory(name: str, mode: int = 0o755, uid: int = 0) -> File:
    return File(name, mode=mode, kind=tarfile.DIRTYPE, uid=uid)


def program(name: str, text: str, mode: int = 0o755) -> File:
    return File(name, f"#!/bin/sh\n{text}\n", mode)


@dataclass(frozen=True)
class Step:
    """One line of a Dockerfile; without files it changes only the configuration and makes no layer."""

    line: str
    files: Sequence[File] = ()


STEPS = (
    Step(
        "ADD rootfs.tar /",
        (
            directory("etc"),
            File("etc/os-release", 'NAME="Tiny"\nVERSION="1"\n'),
            File("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/app:/bin/sh\n"),
            File("etc/shadow", "root:*:19000::::::\n", 0o640),
            directory("tmp", 0o1777),
            directory("usr"),
            directory("usr/bin"),
            program("usr/bin/serve", "echo serving /app on port $PORT"),
            program("usr/bin/as-root", "exec id", 0o4755),  # setuid
            File("usr/bin/httpd", kind=tarfile.SYMTYPE, link="serve", mode=0o777),
            directory("var"),
            directory("var/cache"),
            File("var/cache/packages.list", "serve 1.0\n"),
            File("var/cache/packages.bin", "x" * 20_000),
            directory("var/log"),
            File("var/log/install.log", "serve 1.0 installed\n"),
        ),
    ),
    Step("ENV PORT=8080"),
    Step(
        "COPY --chown=web app /app",
        (
            directory("app", uid=1000),
            File("app/README", "A web service.\n\nRun: serve\n", uid=1000),
            File("app/config.ini", "[web]\nport = 80\ndebug = yes\n", uid=1000),
            directory("app/static", uid=1000),
            File("app/static/index.html", "<h1>It works</h1>\n", uid=1000),
            File("app/static/old.css", "body { color: black }\n", uid=1000),
            # Two names of one file.
            File("app/static/start.html", kind=tarfile.LNKTYPE, link="app/static/index.html", uid=1000),
        ),
    ),
    Step(
        "RUN sed -i s/yes/no/ /app/config.ini && rm /app/README && chmod 600 /etc/passwd",
        (
            directory("app", uid=1000),
            File("app/.wh.README", mode=0),  # deleted: a whiteout
            File("app/config.ini", "[web]\nport = 8080\ndebug = no\n", uid=1000),  # replaced
            directory("etc"),
            File("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/app:/bin/sh\n", 0o600),
        ),
    ),
    Step(
        "RUN rm -rf /app/static && mkdir /app/static && echo new > /app/static/index.html",
        (
            directory("app", uid=1000),
            directory("app/static", uid=1000),
            File("app/static/.wh..wh..opq", mode=0),  # opaque: nothing of the old directory shows
            File("app/static/index.html", "<h1>New</h1>\n", uid=1000),
        ),
    ),
    Step(
        "RUN rm -rf /var/cache/* /var/log/install.log",  # the image does not get smaller by it
        (
            directory("var"),
            directory("var/cache"),
            File("var/cache/.wh.packages.list", mode=0),
            File("var/cache/.wh.packages.bin", mode=0),
            directory("var/log"),
            File("var/log/.wh.install.log", mode=0),
        ),
    ),
    Step("USER web"),
    Step('ENTRYPOINT ["/usr/bin/serve"]'),
)


def add_file(tar: tarfile.TarFile, file: File) -> None:
    info = tarfile.TarInfo(file.name)
    info.type, info.linkname, info.mode = file.kind, file.link, file.mode
    info.uid = info.gid = file.uid
    info.mtime = EPOCH
    data = file.data.encode()
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def make_layer(files: Sequence[File]) -> bytes:
    """The tar of one layer; its sha256 is the layer's diff id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            add_file(tar, file)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def make_config(layers: Sequence[bytes]) -> bytes:
    """The image's configuration; its sha256 is the image's id."""
    created = "2023-11-14T22:13:20Z"
    history = [
        {"created": created, "created_by": step.line} | ({} if step.files else {"empty_layer": True})
        for step in STEPS
    ]
    return compact(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "author": "pyunionfs",
            "config": {
                "User": "web",
                "Env": ["PATH=/usr/bin:/bin", "PORT=8080"],
                "Entrypoint": ["/usr/bin/serve"],
                "Cmd": ["--verbose"],
                "WorkingDir": "/app",
                "Labels": {"org.opencontainers.image.title": "web"},
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}" for layer in layers]},
            "history": history,
        }
    )


def docker_members(config: bytes, layers: Sequence[bytes]) -> dict[str, bytes]:
    """What ``docker save`` wrote until version 24."""
    members: dict[str, bytes] = {}
    parent = ""
    for layer in layers:
        # The id of the old format: any digest will do that depends on the layer and those below.
        identity = digest(f"{parent} {digest(layer)}".encode())
        table = {"id": identity, "created": "1970-01-01T00:00:00Z", "os": "linux"}
        members[f"{identity}/VERSION"] = b"1.0"
        members[f"{identity}/json"] = compact(table | ({"parent": parent} if parent else {}))
        members[f"{identity}/layer.tar"] = layer
        parent = identity
    members[f"{digest(config)}.json"] = config
    paths = [name for name in members if name.endswith("/layer.tar")]
    images = [{"Config": f"{digest(config)}.json", "RepoTags": [REFERENCE], "Layers": paths}]
    name, _, tag = REFERENCE.partition(":")
    return members | {"manifest.json": compact(images), "repositories": compact({name: {tag: parent}})}


def oci_members(config: bytes, layers: Sequence[bytes]) -> dict[str, bytes]:
    """What ``docker save`` writes since version 25: an OCI layout with a manifest.json beside it."""

    def describe(media_type: str, data: bytes) -> dict[str, object]:
        return {"mediaType": media_type, "digest": f"sha256:{digest(data)}", "size": len(data)}

    oci = "application/vnd.oci.image"
    manifest = compact(
        {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": describe(f"{oci}.config.v1+json", config),
            "layers": [describe(f"{oci}.layer.v1.tar", layer) for layer in layers],
        }
    )
    names = {
        "io.containerd.image.name": f"docker.io/library/{REFERENCE}",
        "org.opencontainers.image.ref.name": REFERENCE.partition(":")[2],
    }
    listed = describe(f"{oci}.manifest.v1+json", manifest) | {"annotations": names}
    paths = {data: f"blobs/sha256/{digest(data)}" for data in (*layers, config, manifest)}
    table = [{"Config": paths[config], "RepoTags": [REFERENCE], "Layers": [paths[item] for item in layers]}]
    return {path: data for data, path in paths.items()} | {
        "index.json": compact({"schemaVersion": 2, "manifests": [listed]}),
        "manifest.json": compact(table),
        "oci-layout": compact({"imageLayoutVersion": "1.0.0"}),
    }


def make(path: str | Path, *, oci: bool = False) -> None:
    """Write the archive."""
    layers = [make_layer(step.files) for step in STEPS if step.files]
    layout: Callable[[bytes, Sequence[bytes]], dict[str, bytes]] = oci_members if oci else docker_members
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in layout(make_config(layers), layers).items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), EPOCH
            tar.addfile(info, io.BytesIO(data))


@click.command(help=__doc__.partition("\n")[0])
@click.argument("path")
@click.option("--oci", is_flag=True, help="The layout of docker 25 and later.")
def main(path: str, oci: bool) -> None:
    make(path, oci=oci)


if __name__ == "__main__":
    main()
