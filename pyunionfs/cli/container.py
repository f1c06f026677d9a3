"""``run`` and what is done to containers: parse, call :class:`~pyunionfs.container.run.Runner`, print."""

import datetime
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import click

from ..container.bundle import Options, bundle, size_of
from ..container.commit import commit as make_image
from ..container.containers import Container, Containers
from ..container.run import NO_RUNTIME, Runner, choose_runtime
from ..image.store import Store
from ..image.workspace import to_json
from ..paths import Paths
from ..views.compare import union_of as union_of_layers
from ..views.compare import view
from ..views.union import Union
from .text import json_option, print_json, print_table, printable, table

_root = click.option("--root", metavar="DIR", help="The store. Default: as for 'pyunionfs image'.")
_container = click.argument("reference", metavar="CONTAINER")


def _runner(root: str | None) -> Runner:
    store = Store(root)
    return Runner(store, Containers(store.root))


def _running_options(command: Any) -> Any:
    """The options that say how an image is run."""
    for option in reversed(
        (
            click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable. Repeatable."),
            click.option("-v", "--volume", "volumes", multiple=True, metavar="SRC:DST[:ro]", help="Bind mount."),
            click.option("-w", "--workdir", default="", metavar="DIR", help="The working directory inside."),
            click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Who it is run as."),
            click.option("--hostname", default="", metavar="NAME", help="Default: the start of the id."),
            click.option(
                "--network",
                type=click.Choice(["none", "host"]),
                default="none",
                show_default=True,
                help="none: a network namespace with nothing in it. host: that of the caller.",
            ),
            click.option("--memory", default="", metavar="SIZE", help="A limit, as 64m."),
            click.option("--read-only", is_flag=True, help="Nothing of the root can be changed."),
        )
    ):
        command = option(command)
    return command


def _options(memory: str, **chosen: Any) -> Options:
    return Options(memory=size_of(memory) if memory else 0, **chosen)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_running_options
@click.option("--name", default="", help="What to call the container. Default: the start of its id.")
@click.option("--rm", "remove", is_flag=True, help="Remove it when it has ended.")
@click.option("-i", "--interactive", is_flag=True, help="For those who type docker's -it: stdin is always there.")
@click.option("-t", "--tty", "terminal", is_flag=True, help="Give it a terminal.")
@click.option("-d", "--detach", is_flag=True, help="Run it in the background, and print its id.")
@click.option("--runtime", metavar="PROGRAM", help="runc or crun. Default: the first that is installed.")
@click.option("--no-runtime", is_flag=True, help="Neither: namespaces and pivot_root alone, for learning.")
@_root
@click.argument("reference", metavar="IMAGE")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    name: str,
    remove: bool,
    interactive: bool,
    detach: bool,
    runtime: str | None,
    no_runtime: bool,
    root: str | None,
    reference: str,
    command: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Run a command in a container of IMAGE, an image of the store ('pyunionfs image load').

    The container has a directory for what it changes, over the layers of the image, which all its containers
    share; and namespaces of its own for processes, mounts, hostname, IPC and network. Its exit code is passed on.

    \b
    Examples:
      pyunionfs run --rm -it alpine sh
      pyunionfs run -d --name web app:4 && pyunionfs logs web
    """
    del interactive
    if detach and (remove or chosen["terminal"]):
        raise click.UsageError("-d excludes --rm and -t")
    if runtime and no_runtime:
        raise click.UsageError("--runtime excludes --no-runtime")
    runner = _runner(root)
    program = choose_runtime(NO_RUNTIME if no_runtime else runtime)
    image = runner.store.image(reference)
    made = runner.create(image, name, reference, program, _options(command=list(command), **chosen))
    try:
        code = runner.run(made, detach=detach)
    except BaseException:
        if runner.containers.find(made.id).state == "created":  # it has never run
            runner.remove(made)
        raise
    if detach:
        click.echo(made.id)
    elif remove:
        runner.remove(runner.containers.find(made.id))
    sys.exit(code)


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also those that do not run.")
@click.option("-q", "--quiet", is_flag=True, help="Ids only.")
@json_option
@_root
def ps(everything: bool, quiet: bool, as_json: bool, root: str | None) -> None:
    """List containers."""
    found = [item for item in _runner(root).containers.all() if everything or item.state == "running"]
    if as_json:
        print_json([_summary(item) for item in found])
        return
    if quiet:
        for item in found:
            click.echo(item.short_id)
        return
    rows = table("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAME")
    for item in found:
        words = shlex.join(item.options["command"]) or "(the image's)"
        shown = words if len(words) <= 30 else words[:29] + "…"
        rows.add_row(
            item.short_id, item.image_name, printable(shown), _when(item.created), _status(item), item.name
        )
    print_table(rows)


def _status(item: Container) -> str:
    return {"running": "Up", "exited": f"Exited ({item.exit_code})"}.get(item.state, "Created")


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def _summary(item: Container) -> dict[str, Any]:
    return {
        "Id": item.id,
        "Name": item.name,
        "Image": item.image_name,
        "Status": _status(item),
        "Created": item.created,
        "Command": item.options["command"],
    }


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as long as it runs.")
@_container
@_root
def logs(follow: bool, reference: str, root: str | None) -> None:
    """Print what a detached container has written."""
    import time

    containers = _runner(root).containers
    item = containers.find(reference)
    if not item.path("log").exists():
        return
    with item.path("log").open("rb") as log:
        while True:
            running = follow and containers.find(item.id).state == "running"
            while piece := log.read(1 << 16):
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            if not running:
                return
            time.sleep(0.1)


@click.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="Set a variable. Repeatable.")
@click.option("-i", "--interactive", is_flag=True, help="For those who type docker's -it: stdin is always there.")
@click.option("-t", "--tty", "terminal", is_flag=True, help="Give it a terminal.")
@_root
@_container
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(
    env: tuple[str, ...],
    interactive: bool,
    terminal: bool,
    root: str | None,
    reference: str,
    command: tuple[str, ...],
) -> None:
    """Run one more command in a container that runs."""
    del interactive
    runner = _runner(root)
    sys.exit(runner.exec(runner.containers.find(reference), command, env=env, terminal=terminal))


@click.command()
@click.option("-s", "--signal", "name", default="KILL", show_default=True, metavar="SIGNAL", help="Name or number.")
@click.argument("references", metavar="CONTAINER...", nargs=-1, required=True)
@_root
def kill(name: str, references: tuple[str, ...], root: str | None) -> None:
    """Send a signal to the first process of a container."""
    runner = _runner(root)
    try:
        word = name.upper().removeprefix("SIG")
        number = signal.Signals(int(word)) if word.isdecimal() else signal.Signals["SIG" + word]
    except (ValueError, KeyError):
        raise click.UsageError(f"there is no signal {name}") from None
    for reference in references:
        runner.kill(runner.containers.find(reference), number)


@click.command()
@click.argument("references", metavar="CONTAINER...", nargs=-1, required=True)
@_root
def start(references: tuple[str, ...], root: str | None) -> None:
    """Run a container again that has ended, in the background, with all that it had changed."""
    runner = _runner(root)
    for reference in references:
        runner.run(runner.containers.find(reference), detach=True)
        click.echo(reference)


@click.command()
@click.option("-f", "--force", is_flag=True, help="Kill it first, if it runs.")
@click.argument("references", metavar="CONTAINER...", nargs=-1, required=True)
@_root
def rm(force: bool, references: tuple[str, ...], root: str | None) -> None:
    """Remove containers, with everything that they have changed."""
    runner = _runner(root)
    for reference in references:
        runner.remove(runner.containers.find(reference), force=force)
        click.echo(reference)


@click.command()
@_container
@_root
def inspect(reference: str, root: str | None) -> None:
    """Print what is known of a container, as JSON in docker's shape."""
    runner = _runner(root)
    item = runner.containers.find(reference)
    lower = runner.store.image(item.image).lowerdirs
    directories = {
        "LowerDir": ":".join(map(str, lower)),
        "UpperDir": str(item.path("diff")),
        "WorkDir": str(item.path("work")),
        "MergedDir": str(item.path("merged")),
    }
    state = {"Status": item.state, "Running": item.state == "running", "Pid": item.pid, "ExitCode": item.exit_code}
    told = {
        "Id": item.id,
        "Created": item.created,
        "Name": "/" + item.name,
        "Image": item.image,
        "State": state,
        "LogPath": str(item.path("log")),
        "Runtime": os.path.basename(item.runtime) or NO_RUNTIME,
        "Config": {"Image": item.image_name, **item.options},
        "GraphDriver": {"Name": "pyunionfs", "Data": directories},
    }
    print_json([told])


@click.command()
@_container
@_root
def top(reference: str, root: str | None) -> None:
    """List the processes of a container, as this machine sees them and as they see themselves."""
    runner = _runner(root)
    rows = table(">PID", ">INSIDE", "COMMAND")
    for pid in runner.processes(runner.containers.find(reference)):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
        except OSError:
            continue  # it ended meanwhile
        inside = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
        rows.add_row(str(pid), inside, printable(words.decode(errors="replace")))
    print_table(rows)


def union_of(reference: str) -> Union:
    """The union of a container, for 'pyunionfs diff'. Raises ImageError if there is none of that name."""
    runner = _runner(None)
    item = runner.containers.find(reference)
    return union_of_layers(runner.store, runner.store.image(item.image).layers, str(item.path("diff")))


@click.command()
@click.option("--message", "-m", default="", help="A comment for the history.")
@click.option("--author", "-a", default="", help="Who has made it.")
@click.option("--change", "-c", "instructions", multiple=True, metavar="INSTRUCTION", help="As for 'image commit'.")
@_container
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@_root
def commit(
    message: str, author: str, instructions: tuple[str, ...], reference: str, name: str | None, root: str | None
) -> None:
    """Make an image of a container: its image, and what it has changed as one layer more."""
    runner = _runner(root)
    item = runner.containers.find(reference)
    made = make_image(
        runner.store,
        runner.store.image(item.image),
        item.path("diff"),
        tag=name,
        message=message,
        author=author,
        instructions=instructions,
        created_by=shlex.join(item.options["command"]),
    )
    click.echo(made.id)


@click.command(name="bundle", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_running_options
@click.option("-t", "--tty", "terminal", is_flag=True, help="Give it a terminal.")
@_root
@click.argument("reference", metavar="IMAGE")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def make_bundle(root: str | None, reference: str, directory: Path, command: tuple[str, ...], **chosen: Any) -> None:
    """Write an OCI bundle of IMAGE into DIR, for runc or crun by hand.

    DIR/rootfs is where to mount the image; what is printed does it, and runs the container.
    """
    store = Store(root)
    image = store.image(reference)
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("rootfs", "diff"):
        (directory / name).mkdir(exist_ok=True)
    rootfs = (directory / "rootfs").absolute()
    options = _options(command=list(command), **chosen)
    with view(store, image.layers) as overlay:

        def read(path: str) -> bytes:
            try:
                return Paths(overlay).read_bytes(path) if overlay is not None else b""
            except OSError:
                return b""

        spec = bundle(image.config, options, rootfs, hostname=image.short_id, read=read)
    (directory / "config.json").write_bytes(to_json(spec))
    upper, rootfs_words = shlex.quote(f"{directory / 'diff'}"), shlex.quote(f"{rootfs}")
    click.echo(f"pyunionfs mount --image {image.id} --upper {upper} {rootfs_words}")
    click.echo(f"runc run --bundle {shlex.quote(str(directory))} NAME")
    click.echo(f"pyunionfs umount {rootfs_words}")
