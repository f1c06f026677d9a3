"""The story of a container, with pyunionfs alone. ``python ours.py > OURS.md`` writes the page; needs root."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from telling import Story, expect, told_in_a_place_of_its_own
from with_containerd import containerd

PIDS = r"\b\d{3,}(?= \d)"


def images_and_containers(story: Story, home: Path) -> None:
    story.chapter("1. An image, and a container of it")
    story.tell("""
        An image is a stack of layers and a configuration. This one has one layer: a directory with a shell in it,
        packed by tar. Any archive of `docker save` would do as well (`pyunionfs image load`).
    """)
    story.run("ls rootfs rootfs/etc")
    story.run("pyunionfs image import rootfs.tar app:1")
    story.run("pyunionfs image ls")
    story.tell("A container is a process with a root directory of its own. In the first one we write a file.")
    story.run("""pyunionfs run --name one app:1 sh -c 'echo hello > /greeting; rm /etc/old; cat /greeting'""")
    story.tell("A second container of the same image does not have it: each has its own place for changes.")
    story.run("pyunionfs run --rm app:1 cat /greeting", fails=True)
    story.run("pyunionfs ps -a")

    story.chapter("2. What a container has changed")
    story.tell("""
        The image's layers are never written to. What the container has changed lies in its upper directory, `diff`:
        the new file, and for the deleted one a *whiteout*, a character device 0:0 of its name.
    """)
    story.run("pyunionfs diff one")
    found = json.loads(subprocess.run(["pyunionfs", "inspect", "one"], capture_output=True, check=True).stdout)
    upper = found[0]["GraphDriver"]["Data"]["UpperDir"]
    story.run(f"cd {upper} && find . ! -type d -printf '%M %p\\n' | sort -k2")
    expect(Path(upper, "etc/old").is_char_device(), "there should be a whiteout")


def commit_and_save(story: Story) -> None:
    story.chapter("3. Commit: the changes become a layer")
    story.run("pyunionfs commit -m 'a greeting' one app:2")
    story.run("pyunionfs image history app:2")
    story.run("pyunionfs run --rm app:2 cat /greeting")
    story.tell("The image has one layer more, and shares the first with the one that it was made from.")
    story.run("pyunionfs image inspect --json app:1 | grep -A3 RootFS")
    story.run("pyunionfs image inspect --json app:2 | grep -A4 RootFS")

    story.chapter("4. Save: an image is a tar of tars and some JSON")
    story.run("pyunionfs image save app:2 -o app.tar && mkdir app && tar -C app -xf app.tar")
    story.run("find app -type f | sed 's/[0-9a-f]\\{64\\}/(digest)/' | sort")
    story.tell("`manifest.json` says what belongs together: the configuration, and the layers from the base up.")
    story.run("python3 -m json.tool app/manifest.json")
    story.tell("The configuration says how to run it, and how it was made. Its digest is the image's id.")
    story.run("""python3 -c "
import json
manifest = json.load(open('app/manifest.json'))[0]
config = json.load(open('app/' + manifest['Config']))
print(json.dumps({key: config[key] for key in ('rootfs', 'history')}, indent=1))" """)
    story.tell(
        "The new layer is a tar with what has changed. A deletion is an empty file with `.wh.` before its name."
    )
    story.run(
        """tar tf app/$(python3 -c "import json; print(json.load(open('app/manifest.json'))[0]['Layers'][-1])")"""
    )


def lower_and_upper(story: Story, home: Path) -> None:
    story.chapter("5. Lower, upper, merged: what the container's root is made of")
    story.run("pyunionfs run -d --name two app:2 sleep 1000")
    story.run("pyunionfs run -d --name three app:2 sleep 1000")
    story.tell("""
        Both run. Their roots are unions: the layers of the image below, which both share, and a directory of its
        own on top. (`pyunionfs inspect` has docker's shape: GraphDriver with LowerDir, UpperDir, MergedDir.)
    """)
    story.run("pyunionfs inspect two | grep -A6 GraphDriver")
    story.run("for c in two three; do pyunionfs inspect $c | grep LowerDir; done | sort | uniq -c")
    story.tell("From outside each is a mount; from inside it is simply the root.")
    story.run("mount | grep story- | grep -c 'type fuse.pyunionfs'")
    story.run("pyunionfs exec two mount | grep ' on / '")
    story.tell("The first write to a file of a layer copies it up; what the other container sees does not change.")
    story.run("pyunionfs exec two sh -c 'echo changed >> /etc/motd'")
    story.run("for c in two three; do pyunionfs exec $c cat /etc/motd; done")
    story.run("pyunionfs diff two | grep etc")


def namespaces(story: Story) -> None:
    story.chapter("6. Namespaces: what a process sees of the machine")
    story.tell("A mount that is made in another mount namespace is not there for anybody else.")
    story.run("mkdir a b && touch a/seen && unshare -m sh -c 'mount --bind a b; ls b'; echo; ls b")
    story.tell("The container has such namespaces of its own: for the hostname,")
    story.run("hostname > host; pyunionfs exec two hostname | diff -q - host", fails=True)
    story.tell("for processes: the first one is 1 inside, and has another number outside,")
    story.run("pyunionfs exec two ps | head -2")
    story.run("pyunionfs top two | tr -s ' '", hide=PIDS)
    story.tell("and for the network, in which there is nothing but a loopback device.")
    story.run("pyunionfs exec two ip -o link | cut -d: -f2")
    story.tell("Each is an object of the kernel that can be compared.")
    pid = json.loads(subprocess.run(["pyunionfs", "inspect", "two"], capture_output=True, check=True).stdout)
    os.environ["PID"] = str(pid[0]["State"]["Pid"])
    story.run(
        "for n in uts ipc pid net mnt user; do test $(readlink /proc/self/ns/$n) = $(readlink /proc/$PID/ns/$n) "
        "&& echo $n: the same || echo $n: its own; done"
    )


def kill(story: Story) -> None:
    story.chapter("7. Killed from outside, and started again")
    story.tell("For the machine the container is a process like others, and can be killed like others.")
    os.kill(int(os.environ["PID"]), signal.SIGKILL)
    story.run("sleep 1; pyunionfs ps -a | cut -c1-13,23-")
    story.tell("What it had changed is still there.")
    story.run("pyunionfs start two && pyunionfs exec two cat /etc/motd")


def by_hand(story: Story, home: Path) -> None:
    story.chapter("8. The same by hand: a bundle for runc")
    story.tell("""
        A runtime is given a directory with a root and a `config.json`. `--no-runtime` runs a container without one:
        `pyunionfs/container/unshared.py` can be read in ten minutes.
    """)
    story.run("pyunionfs bundle app:2 bundle cat /greeting")
    story.run("python3 -m json.tool bundle/config.json | grep -A12 namespaces")
    told = subprocess.run(
        ["pyunionfs", "bundle", "app:2", "bundle", "cat", "/greeting"], capture_output=True, text=True, cwd=home
    ).stdout.splitlines()
    story.run("; ".join(told).replace("NAME", "by-hand"))
    story.run("pyunionfs run --rm --no-runtime app:2 sh -c 'cat /greeting; hostname > /dev/null; echo I am $$'")


def main() -> None:
    with told_in_a_place_of_its_own() as home:
        os.environ["PYUNIONFS_ROOT"] = str(home / "store")
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        story = Story(home)
        print("# The story of a container, with pyunionfs alone\n")
        story.tell("""
            Every command here was typed by [ours.py](ours.py), as root, and printed what is shown; ids, times and
            process numbers are made the same in each run. [DOCKER.md](DOCKER.md) tells the same with docker on
            pyunionfs.
        """)
        try:
            images_and_containers(story, home)
            commit_and_save(story)
            lower_and_upper(story, home)
            namespaces(story)
            kill(story)
            by_hand(story, home)
            containerd(story, home, 9)
        finally:
            names = subprocess.run(["pyunionfs", "ps", "-aq"], capture_output=True, text=True).stdout.split()
            subprocess.run(["pyunionfs", "rm", "-f", *names], capture_output=True)


if __name__ == "__main__":
    main()
