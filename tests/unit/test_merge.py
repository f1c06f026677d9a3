"""The rules, enumerated against a second, naive statement of them."""

import itertools
import stat
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyunionfs.overlay.merge import Kind, Rule, judge, listing, resolve

NO_DIRECTORY = (Kind.FILE, Kind.METACOPY, Kind.OTHER)


def naive(findings: Sequence[Kind]) -> tuple[int, ...]:
    """Who provides a name, said the other way round: cut the stack, then pick."""
    visible: list[tuple[int, Kind]] = []
    for index, kind in enumerate(findings):
        if kind is Kind.WHITEOUT:
            break
        if kind is not Kind.ABSENT:
            visible.append((index, kind))
        if kind in (Kind.OPAQUE, Kind.FILE, Kind.OTHER):
            break
    if not visible:
        return ()
    if visible[0][1] in (Kind.FILE, Kind.OTHER):
        return (visible[0][0],)
    if visible[0][1] is Kind.METACOPY:
        chain = list(itertools.takewhile(lambda item: item[1] in (Kind.FILE, Kind.METACOPY), visible))
        return tuple(index for index, _ in chain)
    directories = itertools.takewhile(lambda item: item[1] not in NO_DIRECTORY, visible)
    return tuple(index for index, _ in directories)


@pytest.mark.parametrize("depth", range(6))
def test_every_stack_of_findings(depth: int) -> None:
    for findings in itertools.product(Kind, repeat=depth):
        assert resolve(findings).providers == naive(findings), findings


def test_nothing_is_probed_below_the_layer_that_decides() -> None:
    def probes() -> object:
        yield Kind.ABSENT
        yield Kind.OTHER
        raise AssertionError("probed below the answer")

    resolution = resolve(probes())  # type: ignore[arg-type]
    assert resolution.rules == (Rule.ABSENT, Rule.FIRST)


def test_a_file_below_a_directory_is_hidden_and_ends_the_search() -> None:
    resolution = resolve([Kind.DIRECTORY, Kind.OTHER, Kind.DIRECTORY])
    assert resolution.providers == (0,)
    assert resolution.rules == (Rule.MERGES, Rule.HIDDEN)


def test_each_rule_says_whether_it_ends_and_provides() -> None:
    goes_on = {Rule.MERGES, Rule.METACOPY, Rule.ABSENT, Rule.NOT_REACHED}
    assert {rule for rule in Rule if not rule.ends} == goes_on
    assert {rule for rule in Rule if rule.provides} == {
        Rule.FIRST,
        Rule.MERGES,
        Rule.OPAQUE,
        Rule.METACOPY,
        Rule.DATA,
    }
    assert judge(Kind.OTHER, None) is Rule.FIRST


def test_a_metacopy_finds_its_data_or_lacks_it() -> None:
    assert resolve([Kind.METACOPY, Kind.ABSENT, Kind.METACOPY, Kind.FILE]).providers == (0, 2, 3)
    for below in ([], [Kind.ABSENT], [Kind.WHITEOUT, Kind.FILE], [Kind.DIRECTORY], [Kind.OTHER], [Kind.METACOPY]):
        assert resolve([Kind.METACOPY, *below]).lacks_data
    assert not resolve([Kind.METACOPY, Kind.FILE]).lacks_data
    assert not resolve([Kind.DIRECTORY, Kind.METACOPY]).lacks_data


REG, DIR = stat.S_IFREG, stat.S_IFDIR
entry = st.tuples(st.sampled_from([b"a", b"b", b"c", b"d"]), st.sampled_from([REG, DIR]), st.booleans())
directory = st.lists(entry, unique_by=lambda item: item[0])


@given(st.lists(directory, max_size=5))
def test_a_listing_is_what_a_lookup_of_each_name_finds(layers: list[list[tuple[bytes, int, bool]]]) -> None:
    merged = listing(layers)
    for name in (b"a", b"b", b"c", b"d"):
        for layer in layers:
            found = {item[0]: item for item in layer}.get(name)
            if found is not None:
                assert (name in merged) is not found[2]
                if not found[2]:
                    assert merged[name] == found[1]
                break
        else:
            assert name not in merged


def test_a_listing_keeps_the_order_of_the_layers() -> None:
    assert list(listing([[(b"z", REG, False)], [(b"a", REG, False), (b"z", DIR, False)]])) == [b"z", b"a"]
