"""Our own containers: run, seen from both sides, killed, started again, committed; by each runtime and by none."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ours import Ours, until

from pyunionfs.container.run import choose_runtime

CATCHES = "trap 'echo caught; exit 5' INT; echo ready; while true; do sleep 0.1; done"


def test_what_it_is_from_the_inside(ours: Ours) -> None:
    seen = ours.run(
        "--rm", "--hostname", "inside", "app:1", "sh", "-c", "hostname; echo $$; ls /proc | grep -c '^[0-9]'"
    )
    assert seen.splitlines()[:2] == ["inside", "1"]
    assert int(seen.splitlines()[2]) <= 4
    mounted = ours.run("--rm", "app:1", "mount").splitlines()
    assert mounted[0].startswith("pyunionfs on / type fuse.pyunionfs (rw,")
    assert not [line for line in mounted if str(ours.root) in line]
    assert "lo" in ours.run("--rm", "app:1", "ip", "link")
    assert "eth" not in ours.run("--rm", "app:1", "ip", "link")
    assert (
        ours.run("--rm", "app:1", "sh", "-c", "echo x >/dev/null; ls -l /proc/self/fd/0 >/dev/null; echo fine")
        == "fine\n"
    )


def test_the_namespaces_are_its_own(ours: Ours) -> None:
    ours.run("-d", "--name", "one", "app:1", "sleep", "1000")
    pid = ours.inspect("one")["State"]["Pid"]
    for space in ("mnt", "uts", "ipc", "pid", "net"):
        assert os.readlink(f"/proc/{pid}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}"), space
    ours.run("-d", "--name", "two", "--network", "host", "app:1", "sleep", "1000")
    other = ours.inspect("two")["State"]["Pid"]
    assert os.readlink(f"/proc/{other}/ns/net") == os.readlink("/proc/self/ns/net")
    assert os.readlink(f"/proc/{other}/ns/pid") != os.readlink(f"/proc/{pid}/ns/pid")
    row = next(line.split() for line in ours("top", "one").splitlines() if "sleep" in line)
    assert row == [str(pid), "1", "sleep", "1000"]


def test_the_image_and_the_command_line_say_how(ours: Ours, tmp_path: Path) -> None:
    assert ours.run("--rm", "app:1") == "/data\n"
    env = ours.run("--rm", "-e", "B=mine", "app:1", "env")
    assert {"A=image", "B=mine", "HOME=/root"} <= set(env.splitlines())
    assert ours.run("--rm", "-w", "/tmp", "app:1", "pwd") == "/tmp\n"
    assert ours.run("--rm", "-u", "app", "app:1", "id") == "uid=12(app) gid=34(app) groups=77(extra)\n"
    assert ours.run("--rm", "-u", "5:6", "app:1", "sh", "-c", "id -u; id -g") == "5\n6\n"
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("shared\n")
    seen = ours.run(
        "--rm", "-v", f"{shared}:/mnt/deep", "app:1", "sh", "-c", "cat /mnt/deep/file; echo x >/mnt/deep/new"
    )
    assert seen == "shared\n"
    assert (shared / "new").read_text() == "x\n"
    ours.run("--rm", "-v", f"{shared}:/mnt:ro", "app:1", "sh", "-c", "echo x >/mnt/other", status=1)
    ours.run("--rm", "--read-only", "app:1", "sh", "-c", "echo x >/data/other", status=1)


def test_the_exit_code_is_passed_on(ours: Ours) -> None:
    ours.run("--rm", "app:1", "sh", "-c", "exit 7", status=7)
    failed = ours.attempt("run", "--rm", "app:1", "/bin/nothing")
    assert failed.returncode != 0
    assert "nothing" in failed.stderr
    assert ours("ps", "-aq") == ""


def test_containers_share_their_layers_and_nothing_else(ours: Ours) -> None:
    for name in ("one", "two"):
        ours.run("-d", "--name", name, "app:1", "sleep", "1000")
    ours("exec", "one", "sh", "-c", "echo mine >/data/mine; rm /data/old")
    assert ours("exec", "one", "ls", "/data") == "mine\n"
    assert ours("exec", "two", "ls", "/data") == "old\n"
    one, two = (ours.inspect(name)["GraphDriver"]["Data"] for name in ("one", "two"))
    assert one["LowerDir"] == two["LowerDir"]
    assert one["UpperDir"] != two["UpperDir"]
    served = {item["mountpoint"]: item for item in json.loads(ours("mounts", "--json"))}
    assert served[one["MergedDir"]]["lower"] == served[two["MergedDir"]]["lower"]
    assert sorted(os.listdir(Path(one["UpperDir"]) / "data")) == ["mine", "old"]
    assert (Path(one["UpperDir"]) / "data/old").is_char_device()


def test_a_killed_container_starts_again(ours: Ours) -> None:
    ours.run("-d", "--name", "one", "app:1", "sh", "-c", "echo started; sleep 1000")
    ours("exec", "one", "sh", "-c", "echo kept >/data/kept")
    os.kill(ours.inspect("one")["State"]["Pid"], signal.SIGKILL)
    ours.until("one", "exited")
    assert "Exited (137)" in ours("ps", "-a")
    assert ours("ps", "-q") == ""
    ours("start", "one")
    assert ours("exec", "one", "cat", "/data/kept") == "kept\n"
    assert ours("logs", "one") == "started\nstarted\n"
    ours("kill", "-s", "KILL", "one")
    ours.until("one", "exited")


def test_a_runner_that_is_killed_leaves_nothing_that_cannot_be_taken_away(ours: Ours) -> None:
    ours.run("-d", "--name", "one", "app:1", "sleep", "1000")
    pid = ours.inspect("one")["State"]["Pid"]
    ours.kill_runner()
    ours.until("one", "exited")
    ours("start", "one")
    assert ours("exec", "one", "echo", "alive") == "alive\n"
    assert not os.path.exists(f"/proc/{pid}") or ours.inspect("one")["State"]["Pid"] != pid


def test_somebody_types_at_a_terminal(ours: Ours) -> None:
    with ours.terminal("run", *ours.runtime, "--rm", "-it", "app:1", "sh") as terminal:
        terminal.types("sh -c 'echo $((40 + 2)) is said; exec sleep 1000'\n")
        terminal.until(b"42 is said")  # now the first shell waits for the second, or for what that became
        terminal.types("\x03")
        terminal.until(b"# ")
        terminal.types("echo $((40 + 3)) is said\n")
        terminal.until(b"43 is said")
        terminal.types("exit 7\n")
    assert terminal.status == 7
    assert ours("ps", "-aq") == ""


def test_a_runtime_that_makes_its_pid_file_before_it_writes_it(ours: Ours, tmp_path: Path) -> None:
    if "--no-runtime" in ours.runtime:
        pytest.skip("it is no program that could be slowed down")
    slow = tmp_path / "slow"
    slow.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--pid-file*) : > "$(echo "$*" | sed "s/.*--pid-file //; s/ .*//")"; sleep 0.3;; esac\n'
        f'exec {shutil.which(ours.runtime[-1])} "$@"\n'
    )
    slow.chmod(0o755)
    assert ours("run", "--runtime", f"{slow}", "--rm", "app:1", "echo", "fine") == "fine\n"


def test_what_is_typed_to_end_it_the_container_gets(ours: Ours) -> None:
    with ours.terminal("run", *ours.runtime, "--rm", "-it", "app:1", "sh", "-c", CATCHES) as terminal:
        terminal.until(b"ready")
        terminal.types("\x03")
        terminal.until(b"caught")
    assert terminal.status == 5


def test_signals_are_passed_on(ours: Ours) -> None:
    script = "trap 'exit 6' TERM; touch /data/ready; while true; do sleep 0.1; done"
    with ours.begin("run", *ours.runtime, "--name", "one", "app:1", "sh", "-c", script) as process:
        upper = ours.root / "containers"
        until(lambda: str(bool(list(upper.glob("*/diff/data/ready")))), "True")
        process.terminate()
        assert process.wait(30) == 6
    assert ours.inspect("one")["State"]["ExitCode"] == 6
    ours("start", "one")


def test_a_command_that_is_killed_in_it(ours: Ours) -> None:
    ours.run("-d", "--name", "one", "app:1", "sleep", "1000")
    ours("exec", "one", "sh", "-c", "kill -9 $$", status=137)
    ours("kill", "-s", "sigkill", "one")


def test_memory_is_limited_by_a_runtime(ours: Ours) -> None:
    words = ("-d", "--name", "one", "--memory", "64m", "app:1", "sleep", "1000")
    if "--no-runtime" in ours.runtime:
        assert "set by a runtime" in ours.attempt("run", *ours.runtime, *words).stderr
        return
    ours.run(*words)
    lines = Path(f"/proc/{ours.inspect('one')['State']['Pid']}/cgroup").read_text().splitlines()
    groups = {controller: path for _, controller, path in (line.split(":", 2) for line in lines)}
    if "memory" in groups:  # version 1
        limit = Path("/sys/fs/cgroup/memory" + groups["memory"]) / "memory.limit_in_bytes"
    else:
        limit = Path("/sys/fs/cgroup" + groups[""]) / "memory.max"
    assert int(limit.read_text()) == 64 << 20


def test_a_commit_is_an_image(ours: Ours) -> None:
    ours.run("--name", "one", "app:1", "sh", "-c", "echo new >/data/new; rm /data/old")
    assert "A /data/new" in ours("diff", "one")
    ours("commit", "-m", "changed", "-c", 'CMD ["ls", "/data"]', "one", "app:2")
    assert ours.run("--rm", "app:2") == "new\n"
    assert "changed" in ours("image", "history", "app:2")
    refused = ours.attempt("image", "rm", "app:1")
    assert "the image is that of container one" in refused.stderr
    ours("rm", "one")
    ours("image", "rm", "app:1")
    assert ours.run("--rm", "app:2") == "new\n"


def test_a_symlink_of_the_image_does_not_lead_a_mount_out_of_it(ours: Ours, tmp_path: Path) -> None:
    """What a layer says is not to be trusted: `/out` leads to a directory of the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    ours.run("--name", "one", "app:1", "sh", "-c", f"ln -s {outside} /out")
    ours("commit", "one", "bad:1")
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").touch()
    tried = ours.attempt("run", *ours.runtime, "--rm", "-v", f"{shared}:/out/deep", "bad:1", "ls", "/")
    assert os.listdir(outside) == []
    assert "Traceback" not in tried.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["app:9", "ls"], "no image 'app:9'"),
        (["--name", "one", "app:1", "ls"], "the name 'one' is taken"),
        (["-u", "nobody", "app:1", "ls"], "no user nobody"),
        (["-v", "/missing:/mnt", "app:1", "ls"], "/missing does not exist"),
        (["-v", "nonsense", "app:1", "ls"], "not SOURCE:TARGET"),
        (["--memory", "much", "app:1", "ls"], "is no size"),
        (["-e", "=x", "app:1", "ls"], "has no name"),
        (["--hostname", "x" * 65, "app:1", "ls"], "longer than 64"),
        (["--name", "a\nb", "app:1", "ls"], "is no name of a container"),
        (["app:1", ""], "no command"),
    ],
)
def test_what_cannot_be_run_is_one_line(ours: Ours, words: list[str], said: str) -> None:
    ours.run("--name", "one", "app:1", "/bin/echo")
    failed = ours.attempt("run", *ours.runtime, *words)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert said in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert len(ours("ps", "-aq").split()) == 1


def test_a_bundle_is_run_by_hand(ours: Ours, tmp_path: Path) -> None:
    if "runc" not in ours.runtime:
        pytest.skip("by runc")
    told = ours("bundle", "-u", "app", "app:1", tmp_path / "bundle", "id")
    process = json.loads((tmp_path / "bundle/config.json").read_text())["process"]
    assert process["user"] == {"uid": 12, "gid": 34, "additionalGids": [77]}
    assert "HOME=/home/app" in process["env"]
    told = ours("bundle", "app:1", tmp_path / "bundle", "sh", "-c", "echo by hand; echo x >/data/new")
    for line in told.splitlines():
        words = line.replace("NAME", "by-hand").replace("pyunionfs ", f"{sys.executable} -m pyunionfs ").split()
        env = {**os.environ, "PYUNIONFS_ROOT": str(ours.root)}
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, (line, done.stderr)
        if words[0] == "runc":
            assert done.stdout == "by hand\n"
    assert (tmp_path / "bundle/diff/data/new").read_text() == "x\n"


SLOWLY = """
import signal, sys, time
from pathlib import Path
from pyunionfs.container import unshared

real = signal.signal
signal.signal = lambda *words: (time.sleep(0.2), real(*words))[1]
sys.exit(unshared.run(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_ctrl_c_does_not_end_who_watches_a_container_before_it_looks(ours: Ours, tmp_path: Path) -> None:
    if "--no-runtime" not in ours.runtime:
        pytest.skip("ours alone")
    told = ours("bundle", "app:1", tmp_path / "bundle", "sh", "-c", CATCHES)
    mount, *_, unmount = (line.split()[1:] for line in told.splitlines())
    ours(*mount)
    try:
        command = [sys.executable, "-c", SLOWLY, tmp_path / "bundle", tmp_path / "pid"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            assert process.stdout.readline() == b"caught\n"
        assert process.returncode == 5
    finally:
        ours(*unmount)


def test_who_has_started_a_container_knows_its_process(ours: Ours) -> None:
    """The runtime's note of it is looked for as soon as it is there."""
    for _ in range(5):
        ours.run("-d", "--name", "one", "app:1", "sleep", "1000")
        assert ours.inspect("one")["State"]["Pid"] > 0
        ours("rm", "-f", "one")


def test_a_runtime_that_does_not_work_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in (("runc", 1), ("crun", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_runtime(None) == str(tmp_path / "crun")
    assert choose_runtime("runc") == str(tmp_path / "runc"), "who asks for it gets it"
    (tmp_path / "crun").unlink()
    with pytest.raises(OSError, match="no runc or crun"):
        choose_runtime(None)
