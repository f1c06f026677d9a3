"""The names of a directory under change, while a scan of it is under way."""

import stat

from hypothesis import given
from hypothesis import strategies as st

from pyunionfs.overlay.listing import Listing, position

NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])


def test_a_name_that_is_made_again_during_a_scan_is_listed_once() -> None:
    listing = Listing(dict.fromkeys((b"a", b"b", b"c"), stat.S_IFREG))
    listing.after(0, 1)
    listing.remove(b"b")
    listing.add(b"b", stat.S_IFDIR)
    assert sorted(entry.name for entry in listing.after(0, None)) == [b"a", b"b", b"c"]


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "scan"]), NAMES)))
def test_each_name_is_listed_once_and_in_its_place(steps: list[tuple[str, bytes]]) -> None:
    listing, expected = Listing({}), set()
    for step, name in steps:
        if step == "add":
            listing.add(name, stat.S_IFREG)
            expected.add(name)
        elif step == "remove":
            listing.remove(name)
            expected.discard(name)
        else:
            listing.after(position(name) - 1, 1)
    assert [entry.name for entry in listing.after(0, None)] == sorted(expected, key=position)
