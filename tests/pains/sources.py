"""What users of this field complain of, each with the test that shows it does not happen here.

A source is a thread, ``project number``; a project without an owner is at home in the repository named in
:data:`PROJECTS`. A complaint is HERE (a test of this folder names it by :func:`source`), at ANOTHER test of
the suite, given as ``file::test``, or it has a :class:`Reason` why there is none (yet).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., object])

PROJECTS = {
    "fuse-overlayfs": "containers/fuse-overlayfs",
    "mergerfs": "trapexit/mergerfs",
    "mergerfs-tools": "trapexit/mergerfs-tools",
    "moby": "moby/moby",
    "buildkit": "moby/buildkit",
    "podman": "containers/podman",
    "buildah": "containers/buildah",
    "toolbox": "containers/toolbox",
    "containerd": "containerd/containerd",
    "apptainer": "apptainer/apptainer",
    "unionfs-fuse": "rpodgorny/unionfs-fuse",
    "branchfs": "multikernel/branchfs",
    "agentfs": "tursodatabase/agentfs",
    "ratarmount": "mxmlnkn/ratarmount",
    "rustup": "rust-lang/rustup",
    "conda": "conda/conda",
    "try": "binpash/try",
    "gocryptfs": "rfjakob/gocryptfs",
    "dive": "wagoodman/dive",
    "ai-bwrap": "ai-bwrap",
}


@dataclass(frozen=True)
class Reason:
    """Why no test shows a complaint on a mount."""

    words: str


HERE = "here"
_TMPFILE = Reason("O_TMPFILE needs the direct transport; posix/test_open.py has the test, divergences.py the entry")
_IMAGE_COMMANDS = Reason("search, diff and extraction of a layer are image commands to come, nothing of a mount")

COMPLAINTS: dict[str, str | Reason] = {
    # wrong results
    "fuse-overlayfs 478": HERE,
    "fuse-overlayfs 425": HERE,
    "fuse-overlayfs 324": HERE,
    "fuse-overlayfs 271": HERE,
    "fuse-overlayfs 475": HERE,
    "fuse-overlayfs 470": HERE,
    "fuse-overlayfs 192": HERE,
    "mergerfs 1343": HERE,
    "fuse-overlayfs 391": HERE,
    "fuse-overlayfs 376": HERE,
    "fuse-overlayfs 359": HERE,
    "fuse-overlayfs 384": HERE,
    "moby 10180": "posix/test_open.py::test_a_descriptor_opened_before_the_copy_up_reads_what_is_written_after",
    "moby 32351": "posix/test_open.py::test_two_writers_opened_before_the_copy_up_write_one_file",
    "moby 33919": "posix/test_mmap.py::test_a_mapping_made_before_the_copy_up_sees_what_is_written_after",
    "moby 31587": HERE,
    "moby 11705": HERE,
    "fuse-overlayfs 175": "posix/test_open_unlinked.py::test_an_unlinked_file_can_be_read_written_and_asked",
    "fuse-overlayfs 399": HERE,
    "fuse-overlayfs 127": HERE,
    "fuse-overlayfs 407": "posix/test_ownership.py::test_umask_applies_to_everything_created",
    "fuse-overlayfs 336": HERE,
    "podman 10764": "posix/test_extended_attributes.py::test_an_acl_lets_a_user_in",
    "apptainer 796": HERE,
    "fuse-overlayfs 327": HERE,
    "unionfs-fuse 91": HERE,
    # refusals
    "moby 25409": HERE,
    "rustup 1239": HERE,
    "conda 6711": HERE,
    "podman 13123": HERE,
    "try 119": _TMPFILE,
    "gocryptfs 641": _TMPFILE,
    "moby 26380": "mount/test_layers.py::test_500_layers",
    "buildkit 4810": "mount/test_layers.py::test_500_layers",
    "fuse-overlayfs 307": HERE,
    "fuse-overlayfs 325": HERE,
    "fuse-overlayfs 299": HERE,
    "fuse-overlayfs 380": HERE,
    # death and leaks
    "fuse-overlayfs 169": "stress/test_stress.py::test_random_operations_of_16_processes",
    "podman 4856": "unit/test_libfuse.py::test_a_bug_is_logged_and_answered_with_eio",
    "mergerfs 417": "mount/test_lifetime.py::test_after_a_sudden_death_umount_heals",
    "mergerfs 965": "mount/test_lifetime.py::test_after_a_sudden_death_umount_heals",
    "fuse-overlayfs 222": HERE,
    "fuse-overlayfs 238": "mount/test_memory.py::test_what_the_kernel_forgets_the_daemon_forgets",
    "fuse-overlayfs 360": HERE,
    "fuse-overlayfs 210": HERE,
    "fuse-overlayfs 364": HERE,
    "fuse-overlayfs 318": HERE,
    "fuse-overlayfs 344": HERE,
    "fuse-overlayfs 393": HERE,
    "fuse-overlayfs 80": HERE,
    "branchfs 28": HERE,
    "branchfs 29": Reason("there is no commit yet"),
    # slow: what can be counted is; seconds are the business of benchmarks/
    "fuse-overlayfs 390": HERE,
    "fuse-overlayfs 281": "mount/test_use.py::test_a_large_copy_up_does_not_stall_others",
    "agentfs 228": Reason("seconds of a parallel make: benchmarks/"),
    "toolbox 513": HERE,
    "moby 47399": HERE,
    "containerd 6310": HERE,
    "buildah 2411": HERE,
    "ratarmount 71": HERE,
    # blind
    "mergerfs-tools 126": "mount/test_lifecycle.py::test_explain_and_diff_on_a_mount",
    "mergerfs-tools 138": "unit/test_views.py::test_explain_a_file_that_several_layers_have",
    "moby 12641": "unit/test_views.py::test_explain_a_file_that_several_layers_have",
    "dive 63": _IMAGE_COMMANDS,
    "dive 52": _IMAGE_COMMANDS,
    "dive 224": _IMAGE_COMMANDS,
    "dive 336": _IMAGE_COMMANDS,
    "dive 525": _IMAGE_COMMANDS,
    "dive 379": "image/test_image_cli.py::test_history",
    "moby 17855": "image/test_image_cli.py::test_history",
    "fuse-overlayfs 320": HERE,
    "fuse-overlayfs 298": HERE,
    "fuse-overlayfs 190": HERE,
    "ai-bwrap 8": HERE,
}


def source(*names: str) -> Callable[[Test], Test]:
    """Say which complaints a test is about."""

    def mark(test: Test) -> Test:
        test.sources = names  # type: ignore[attr-defined]
        return test

    return mark
