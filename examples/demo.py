"""The guided tour: a container image becomes a directory, and what happens when it is changed.

Run it with ``./dev demo``. Each command is one that a person would type; this script types it in a temporary
directory, shows what it prints, and says what to look at. It ends with an error if anything is not as told.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from make_archive import make
from rich.console import Console
from rich.text import Text

ARCHIVE = Path(__file__).parent / "web.tar"
console = Console(highlight=False, soft_wrap=True, color_system="auto" if sys.stdout.isatty() else None)


def tell(text: str) -> None:
    """Explain, in the voice of a person who shows something."""
    console.print()
    console.print(Text(text.strip(), style="green"))


def chapter(title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left")


def run(command: str) -> str:
    """Type a shell command, show it and what it prints."""
    console.print(Text(f"$ {command}", style="bold cyan"))
    done = subprocess.run(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    console.print(Text(done.stdout.rstrip("\n")) if done.stdout else "", end="\n" if done.stdout else "")
    if done.returncode:
        raise SystemExit(f"the demo has failed: {command!r} ended with {done.returncode}")
    return done.stdout


def expect(condition: bool, what: str) -> None:
    """What was told must be so."""
    if not condition:
        raise SystemExit(f"the demo has failed: {what}")


def tour() -> None:
    chapter("1. An image is a stack of layers")
    tell("This archive has the form that 'docker save' writes. Loading it unpacks each layer into a directory.")
    run("pyunionfs image load web.tar")
    run("pyunionfs image history web:1")
    tell(
        "A layer holds only what one build step changed. What a step deleted is there too, as a 'whiteout':\n"
        "a character device 0:0 of that name. A directory may be 'opaque': it hides the one below it."
    )
    run("pyunionfs image extract web:1 layers > /dev/null")
    run("cd layers && find . -type c -printf 'whiteout  %p\\n' | sort")

    chapter("2. A union shows the stack as one directory")
    tell("The layers are 'lower': they are only read. All that is changed goes to the directory 'upper'.")
    run("mkdir upper merged")
    run("pyunionfs mount --image web.tar --upper upper merged")
    run("pyunionfs mounts")
    run("cd merged && find . -type f | sort")
    tell("Why is a file what it is? Ask each layer. (lower 0 is the one on top.)")
    run("pyunionfs explain merged/app/config.ini merged/app/static merged/var/log/install.log")

    chapter("3. Writing copies up")
    edited, deleted = "app/config.ini", "etc/os-release"
    expect(not os.listdir("upper"), "the upper directory should be empty before the first write")
    tell("The upper directory is empty. The first write to a file of a lower layer copies it there.")
    run("ls -A upper | wc -l")
    run(f"echo 'threads = 4' >> merged/{edited}")
    run(f"cat merged/{edited}")
    run("find upper -type f -printf '%P  %s bytes\\n'")
    expect(Path("upper", edited).read_bytes() == Path("merged", edited).read_bytes(), "the copy should be shown")

    chapter("4. Deleting leaves a whiteout")
    tell("A lower layer is never changed, so a deletion must be written down above it.")
    run(f"rm merged/{deleted}")
    run("ls merged/etc; ls -l upper/etc")
    st = Path("upper", deleted).lstat()
    expect(stat.S_ISCHR(st.st_mode) and st.st_rdev == 0, "there should be a whiteout")
    expect(not Path("merged", deleted).exists(), "the deleted file should be hidden")
    run(f"pyunionfs explain merged/{deleted}")

    chapter("5. Several containers share the layers")
    tell("A second union on the same image has an upper directory of its own, and none of these changes.")
    run("mkdir upper2 merged2")
    run("pyunionfs mount --image web:1 --upper upper2 merged2")
    run(f"cat merged2/{edited}; ls merged2/etc")
    expect(Path("merged2", deleted).exists(), "what was deleted in one should be there in the other")
    tell("Both have the same lower layers, which are there once, however many containers there are.")
    run("pyunionfs mounts --json | grep -A4 lower")
    told = json.loads(subprocess.run(["pyunionfs", "mounts", "--json"], capture_output=True, check=True).stdout)
    here = [item["lower"] for item in told if item["mountpoint"].startswith(os.getcwd())]
    expect(len(here) == 2 and here[0] == here[1], "both should have the same layers")
    run("pyunionfs umount merged2")

    chapter("6. What a container would commit")
    run("pyunionfs diff merged")
    run("pyunionfs umount merged")
    expect(not os.listdir("merged"), "nothing should be mounted any more")
    run("find upper ! -type d -printf '%M  %p\\n'")
    tell("Unmounted. The upper directory keeps the changes; mount it again, or have the kernel do it:\n"
         "  mount -t overlay overlay -o lowerdir=...,upperdir=upper,workdir=... merged")  # fmt: skip


def main() -> None:
    console.print("[bold]pyunionfs: a union filesystem, shown on a container image")
    home = Path(tempfile.mkdtemp(prefix="pyunionfs-demo-"))
    os.environ["PYUNIONFS_ROOT"] = str(home / "store")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    make(ARCHIVE)
    shutil.copy(ARCHIVE, home / "web.tar")
    os.chdir(home)
    try:
        tour()
    finally:
        for mountpoint in ("merged", "merged2"):
            subprocess.run(["pyunionfs", "umount", "--lazy", mountpoint], capture_output=True, check=False)
        os.chdir("/")
        shutil.rmtree(home)
    console.print()
    console.print(
        "[bold]That is a union filesystem.[/] The archive is kept as examples/web.tar; see README.md for more."
    )


if __name__ == "__main__":
    main()
