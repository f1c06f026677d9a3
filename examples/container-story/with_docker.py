"""The story of a container, with docker whose storage is pyunionfs; needs root, dockerd and docker.

``python with_docker.py > DOCKER.md`` writes the page. A daemon of its own is started, on a private socket.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from telling import Story, expect, told_in_a_place_of_its_own
from with_containerd import containerd


@contextmanager
def dockerd(home: Path) -> Iterator[None]:
    """A daemon that finds us under the name fuse-overlayfs."""
    (home / "bin").mkdir()
    (home / "bin/fuse-overlayfs").symlink_to(Path(sys.executable).with_name("pyunionfs"))
    os.environ["PATH"] = f"{home / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["DOCKER_HOST"] = f"unix://{home / 'docker.sock'}"
    command: list[str | Path] = [
        "dockerd",
        "--data-root",
        home / "docker",
        "--exec-root",
        home / "exec",
        "--pidfile",
        home / "pid",
    ]
    command += ["-H", os.environ["DOCKER_HOST"], "--storage-driver", "fuse-overlayfs"]
    command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    log = home / "dockerd.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as daemon:
        try:
            for _ in range(300):
                if "API listen" in log.read_text():
                    break
                if daemon.poll() is not None:
                    sys.exit(f"dockerd does not run here: {log.read_text().strip().splitlines()[-1]}")
                time.sleep(0.1)
            yield
            names = subprocess.run(["docker", "ps", "-aq"], capture_output=True, text=True).stdout.split()
            subprocess.run(["docker", "rm", "-f", *names], capture_output=True)
        finally:
            daemon.terminate()
            daemon.wait(30)


def asked(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.strip()


def containers(story: Story) -> None:
    story.chapter("1. An image, and a container of it")
    story.tell("The storage driver is the one for fuse-overlayfs, and the program that it calls is pyunionfs.")
    story.run("docker info 2>/dev/null | grep 'Storage Driver'; fuse-overlayfs --version")
    story.run("docker import rootfs.tar app:1")
    story.run(
        "docker run --network none --name one app:1 sh -c 'echo hello > /greeting; rm /etc/old; cat /greeting'"
    )
    story.tell("A second container of the same image does not have the file.")
    story.run("docker run --network none --rm app:1 cat /greeting", fails=True)

    story.chapter("2. What a container has changed")
    story.run("docker diff one | sort -k2")
    upper = asked("inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", "one")
    story.run(f"cd {upper} && find . ! -type d -printf '%M %p\\n' | grep -v etc/[hmr] | sort -k2")
    expect(Path(upper, "etc/old").is_char_device(), "there should be a whiteout")


def images(story: Story) -> None:
    story.chapter("3. Commit: the changes become a layer")
    story.run("docker commit -m 'a greeting' one app:2")
    story.run("docker images --format '{{.Repository}}:{{.Tag}}  {{.ID}}'")
    story.run("docker history --format '{{.ID}}  {{.Size}}  {{.Comment}}' app:2")
    story.run("docker run --network none --rm app:2 cat /greeting")

    story.chapter("4. Save: an image is a tar of tars and some JSON")
    story.run("docker save app:2 -o app.tar && mkdir app && tar -C app -xf app.tar")
    story.run("find app -type f | sed 's/[0-9a-f]\\{64\\}/(digest)/' | sort -u")
    story.run("""python3 -c "
import json
manifest = json.load(open('app/manifest.json'))[0]
config = json.load(open('app/' + manifest['Config']))
print(json.dumps(manifest['RepoTags']), len(manifest['Layers']), 'layers')
print(json.dumps(config['rootfs'], indent=1))" """)
    story.tell("A deletion is an empty file with `.wh.` before its name.")
    layer = "$(python3 -c \"import json; print(json.load(open('app/manifest.json'))[0]['Layers'][-1])\")"
    story.run(f"tar tf app/{layer} | grep -v etc/[hmr]")
    story.tell("What docker has saved, pyunionfs loads, and has the same image.")
    story.run("PYUNIONFS_ROOT=$PWD/store pyunionfs image load app.tar; docker inspect -f '{{.Id}}' app:2")


def unions(story: Story) -> None:
    story.chapter("5. Lower, upper, merged")
    for name in ("two", "three"):
        story.run(f"docker run -d --network none --name {name} app:2 sleep 1000")
    story.run("mount | grep story- | grep -c 'fuse-overlayfs on .* type fuse.pyunionfs'")
    story.run("docker exec two mount | grep ' on / '")
    lowers = [
        asked("inspect", "-f", "{{.GraphDriver.Data.LowerDir}}", name).split(":")[1:] for name in ("two", "three")
    ]
    expect(lowers[0] == lowers[1], "both should have the same layers")
    story.tell("Below the layer that docker makes for each container (`-init`), both have the same layers.")
    story.run(
        "for c in two three; do docker inspect -f '{{.GraphDriver.Data.LowerDir}}' $c | cut -d: -f2-; done "
        "| sort | uniq -c | wc -l"
    )
    story.run("docker exec two sh -c 'echo changed >> /etc/motd'")
    story.run("for c in two three; do docker exec $c cat /etc/motd; done")


def processes(story: Story) -> None:
    story.chapter("6. Namespaces: what a process sees of the machine")
    story.tell("A mount that is made in another mount namespace is not there for anybody else.")
    story.run("mkdir a b && touch a/seen && unshare -m sh -c 'mount --bind a b; ls b'; echo; ls b")
    story.tell("The container has namespaces of its own: for the hostname, processes and the network.")
    story.run("hostname > host; docker exec two hostname | diff -q - host", fails=True)
    story.run("docker exec two ps | head -2")
    story.run("docker exec two ip -o link | cut -d: -f2")
    os.environ["PID"] = asked("inspect", "-f", "{{.State.Pid}}", "two")
    story.run(
        "for n in uts ipc pid net mnt user; do test $(readlink /proc/self/ns/$n) = $(readlink /proc/$PID/ns/$n) "
        "&& echo $n: the same || echo $n: its own; done"
    )

    story.chapter("7. Killed from outside, and started again")
    os.kill(int(os.environ["PID"]), signal.SIGKILL)
    story.run("docker wait two")
    story.run("docker ps -a --filter name=two --format '{{.Names}}  {{.Status}}'")
    story.run("docker start two && docker exec two cat /etc/motd")


def by_hand(story: Story) -> None:
    story.chapter("8. The same by hand: a union, and runc")
    story.tell("""
        For a container docker mounts a union of its layers, and gives runc a `config.json`. Here are the layers of
        container two, without what it has changed.
    """)
    story.run("mkdir -p bundle/rootfs")
    story.run(
        "fuse-overlayfs -o lowerdir=$(docker inspect -f '{{.GraphDriver.Data.LowerDir}}' two) bundle/rootfs "
        "&& cat bundle/rootfs/etc/motd"
    )
    story.run("cd bundle && runc spec && grep -A12 namespaces config.json")
    story.run("""cd bundle && python3 -c "
import json
config = json.load(open('config.json'))
config['process'].update(terminal=False, args=['cat', '/greeting'], rlimits=[])
json.dump(config, open('config.json', 'w'))" """)
    story.run("runc run --bundle bundle by-hand; umount bundle/rootfs")


def main() -> None:
    with told_in_a_place_of_its_own() as home, dockerd(home):
        story = Story(home)
        print("# The story of a container, with docker on pyunionfs\n")
        story.tell("""
            Every command here was typed by [with_docker.py](with_docker.py), as root, with a docker daemon whose
            storage is pyunionfs, and printed what is shown; ids and times are made the same in each run.
            [OURS.md](OURS.md) tells the same with pyunionfs alone.
        """)
        containers(story)
        images(story)
        unions(story)
        processes(story)
        by_hand(story)
        containerd(story, home, 9)


if __name__ == "__main__":
    main()
