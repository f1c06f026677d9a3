"""Which mount options go together: what the kernel refuses we refuse, what it makes of them we make of them.

All pairs of values, enumerated. /proc/self/mountinfo tells what the kernel has made of its options.
"""

import errno
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from mounts import Layers, Options

from pyunionfs.overlay import params

# redirect_dir=off means "follow" or "nofollow", by a parameter of the kernel's module.
VALUES: dict[str, tuple[str | bool, ...]] = {
    "redirect_dir": ("on", "follow", "nofollow"),
    "index": ("on", "off"),
    "metacopy": ("on", "off"),
    "nfs_export": ("on", "off"),
    "verity": ("on", "require", "off"),
    "xino": ("on", "auto", "off"),
    "uuid": ("on", "auto", "null", "off"),
    "userxattr": (True,),
    "volatile": (True,),
}
IN_FORCE = {"redirect_dir": "follow", "index": "off", "metacopy": "off", "nfs_export": "off", "verity": "off"}
PARAMETERS = Path("/sys/module/overlay/parameters")


def pairs() -> Iterator[Options]:
    for (one, ones), (two, twos) in itertools.combinations(VALUES.items(), 2):
        for first, second in itertools.product(ones, twos):
            yield {one: first, two: second}


def by_kernel(layers: Layers, options: Options, *, read_only: bool) -> str | dict[str, str]:
    """The options that are in force, or the errno."""
    try:
        with mounts.kernel(layers, options, read_only=read_only) as merged:
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            (line,) = [line for line in lines if line.split()[4] == str(merged)]
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    shown = dict(word.split("=") for word in line.split()[-1].split(",") if "=" in word)
    return {name: shown.get(name, default) for name, default in IN_FORCE.items()}


def by_us(options: Options, *, read_only: bool) -> str | dict[str, str]:
    try:
        chosen = params.parse(options, upper=not read_only, privileged=True)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    words = {name: getattr(chosen, name) for name in IN_FORCE}
    return {name: {True: "on", False: "off"}.get(value, value) for name, value in words.items()}


@pytest.mark.parametrize("read_only", [False, True], ids=["upper", "read-only"])
def test_every_pair_of_values(tmp_path: Path, requires: Callable[..., None], read_only: bool) -> None:
    requires("kernel_overlay", "handles")
    on = {path.name for path in PARAMETERS.iterdir() if path.read_text().strip() == "Y"}
    if on != {"redirect_always_follow"}:
        pytest.skip(f"this kernel's defaults are of its own: {on}")
    lower = Layers.create(tmp_path, lowers=2)
    differ = []
    for number, options in enumerate(pairs()):
        layers = lower.with_upper(tmp_path / str(number))
        told = [by_kernel(layers, options, read_only=read_only), by_us(options, read_only=read_only)]
        if told[0] != told[1]:
            differ.append(f"{options}: kernel {told[0]}, ours {told[1]}")
    assert not differ, "\n".join(differ)
