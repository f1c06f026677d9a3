"""A full disk, a broken one, no descriptors left: the caller is told, nothing has changed, the next try works.

Each case meets a failure at each call that changes the upper or the work directory or opens something
(``faults.py`` says how, and what is right): the likeliest error of each call, and with ``--long`` all of them, for
the cases that the options bear upon.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import Case
from faults import Faults
from known import BROKEN_LINK, SUID_FIRST, Known, known
from option_sets import OptionSet
from ordinary import acting_as
from rehearsal import Rehearsal

_WITHOUT_WHITEOUT = ("", " a closed directory", " in *", " for *", " under *", " with *")
# Why an operation that failed is half done where the kernel's would be as well.
ACCEPTED = (
    BROKEN_LINK,
    SUID_FIRST,
    Known(
        "a file that is opened with O_TRUNC is copied up empty (ovl_copy_up_flags)",
        {"open a lower file with O_TRUNC": ("ftruncate*",), "empty a lower file": ("ftruncate*",)},
    ),
    Known(
        "chown has cleared the setuid bits that chmod was to clear",
        {"chown a setuid file": ("open *", "chmod*")},
    ),
    Known(
        "without a redirect a directory or a metacopy is not moved: EXDEV (ovl_set_redirect)",
        {"[rel]*": ("setxattr *redirect*", "symlink * #mode*")},  # rename, exchange, link
        only="redirect_dir",
    ),
    Known(
        "the mark of a new directory only spares looking below it (ovl_create_upper)",
        {f"mkdir{where}": ("setxattr new *opaque*", "setxattr #? *opaque*") for where in _WITHOUT_WHITEOUT},
    ),
    Known(
        "the mode of what was opened up to an ordinary user's daemon is given back by the next mount",
        {"*closed*": ("chmod*",)},
        only="userxattr",
    ),
)
# What is still to be mended. When it is, the test says so.
BUGS: tuple[Known, ...] = ()


def test_a_failed_call_fails_the_operation_and_changes_nothing(
    case: Case, options: OptionSet, place: Path, request: pytest.FixtureRequest, tell: Callable[..., None]
) -> None:
    everything = request.config.getoption("--long") and options.concerns(case)
    count = 0
    with acting_as(options.user):
        rehearsal = Rehearsal.of(case, options.options, place)
        faults = Faults(rehearsal, place)
        bad = {"no fault": [f"{rehearsal.leaks} descriptors are left open"]} if rehearsal.leaks else {}
        for point, numbers in faults.points():
            for number in numbers if everything else numbers[:1]:
                count += 1
                if wrong := faults.judge(point, number):
                    wrong = [f"{errno.errorcode[number]}: {line}" for line in wrong]
                    bad.setdefault(faults.name_of(point), []).extend(wrong)
    names = [faults.name_of(point) for point, _ in faults.points()] + ["no fault"]
    accepted, bugs = (known(table, case, options.options, names) for table in (ACCEPTED, BUGS))
    unknown = bad.keys() - accepted.keys() - bugs.keys()
    tell("fault injection", points=count, bad=len(unknown), known=len(bad) - len(unknown))
    assert not unknown, "\n".join(f"{point}: {line}" for point in sorted(unknown) for line in bad[point])
    assert bugs.keys() <= bad.keys(), f"no longer bad, remove from BUGS: {bugs.keys() - bad.keys()}"
    if bugs:
        pytest.xfail("; ".join(sorted(set(bugs.values()))))
