"""Other users come in under the kernel's permission checks or not at all: allow_other never goes alone."""

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest
import syscalls
from mounts import Layers

import pyunionfs
from pyunionfs.spec import MountSpec
from pyunionfs.transport import attach, libfuse

ASKED = [{}, {"ro": None}, {"suid": None, "dev": None}, {"nosuid": None, "nodev": None, "noexec": None}]


class MountingError(Exception):
    """Instead of a mount."""


@pytest.mark.parametrize("allow_other", [True, False, None])
@pytest.mark.parametrize("options", ASKED, ids=lambda options: ",".join(options) or "none")
@pytest.mark.parametrize("by", ["mount(2)", "fusermount3"])
@pytest.mark.parametrize("transport", ["devfuse", "pyfuse3"])
def test_what_is_asked_of_the_kernel(
    layers: Layers,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    by: str,
    options: Mapping[str, None],
    allow_other: bool | None,
) -> None:
    """Each way of mounting, as far as the call that would mount."""
    asked: list[set[str]] = []

    def refuse(*arguments: object) -> NoReturn:
        asked.append(set(arguments[-1]))  # type: ignore[call-overload]
        raise MountingError

    monkeypatch.setattr(libfuse.os, "umask", lambda mask: 0)  # it is a daemon's to change
    direct = refuse if by == "mount(2)" else lambda *arguments: None
    monkeypatch.setattr(libfuse, "mount_directly", direct)
    monkeypatch.setattr(attach, "mount_directly", direct)
    if by == "fusermount3":
        monkeypatch.setattr(libfuse.pyfuse3, "init", refuse)
        monkeypatch.setattr(attach, "_by_fusermount", refuse)
    spec = MountSpec(
        lower=[str(layers.lower[0])],
        mountpoint=str(layers.merged),
        options={**options, "transport": transport},
        allow_other=allow_other,
    )
    with pytest.raises(MountingError):
        pyunionfs.daemon.serve(spec)
    assert "default_permissions" in asked[0]
    if allow_other is not None:
        assert ("allow_other" in asked[0]) == allow_other


@pytest.mark.parametrize("word", ["allow_other", "allow_root", "default_permissions=off", "no_default_permissions"])
def test_no_word_of_the_option_string_goes_around_it(layers: Layers, word: str) -> None:
    command = [sys.executable, "-m", "pyunionfs", "mount", "--lower", layers.lower[0], "-o", word, layers.merged]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert word.partition("=")[0] in done.stderr
    assert not layers.merged.is_mount()


def told_by_the_kernel(mountpoint: Path) -> set[str]:
    """The options that a mount really has (proc(5), mountinfo: those of the mount, and of its filesystem)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == str(mountpoint):
            return {*fields[5].split(","), *fields[-1].split(",")}
    raise AssertionError(f"{mountpoint} is not mounted")


@pytest.mark.parametrize("allow_other", [True, False, None])
def test_what_a_mount_by_root_has(layers: Layers, requires: Callable[..., None], allow_other: bool | None) -> None:
    requires("pyunionfs")
    with pyunionfs.mounted(lower=layers.lower, mountpoint=layers.merged, allow_other=allow_other) as merged:
        told = told_by_the_kernel(merged)
    assert "default_permissions" in told
    assert ("allow_other" in told) == (allow_other is not False)


def test_what_a_mount_by_an_ordinary_user_has(layers: Layers, ordinary_user: Callable[..., str]) -> None:
    told = ordinary_user("cat /proc/self/mountinfo")
    line = next(line for line in told.splitlines() if str(layers.merged) in line)
    assert {"nosuid", "nodev"} <= set(re.split("[ ,]", line))
    assert "default_permissions" in line
    assert "allow_other" not in line


def test_without_allow_other_nobody_else_comes_in(layers: Layers, requires: Callable[..., None]) -> None:
    requires("pyunionfs", "other_users")

    layers.lower[0].chmod(0o755)
    (layers.lower[0] / "file").write_text("x")
    with (
        pyunionfs.mounted(lower=layers.lower, mountpoint=layers.merged, allow_other=False) as merged,
        pytest.raises(PermissionError),
    ):
        syscalls.as_user(merged.parent, lambda: Path("merged/file").read_text())
