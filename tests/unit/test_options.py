"""Mount options and the list of layers, as people type them."""

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyunionfs import daemon
from pyunionfs.overlay import params
from pyunionfs.spec import MountSpec, escape, join_layers, split_layers, split_lower


@given(st.lists(st.text(alphabet="ab:\\/. ", min_size=1), min_size=1))
def test_any_paths_survive_escaping(paths: list[str]) -> None:
    assert split_layers(":".join(escape(path) for path in paths)) == paths


@pytest.mark.parametrize("text", ["", ":", "a:", ":a", "a::b"])
def test_an_empty_layer_is_refused(text: str) -> None:
    with pytest.raises(OSError) as caught:
        split_layers(text)
    assert caught.value.errno == errno.EINVAL


@given(paths := st.lists(st.text(alphabet="ab:\\/. ", min_size=1), min_size=1), st.just([]) | paths)
def test_data_only_layers_survive_too(lower: list[str], data: list[str]) -> None:
    assert split_lower(join_layers(lower, data)) == (lower, data)


@pytest.mark.parametrize("text", ["", ":", "a:", "a::", "::a", ":a", "a:::b", "a::b:c", "a::b:::c"])
def test_a_malformed_list_of_layers_is_refused(text: str) -> None:
    with pytest.raises(OSError, match="layer") as caught:
        split_lower(text)
    assert caught.value.errno == errno.EINVAL


def parse(options: dict[str, str | bool | None], *, upper: bool = True, privileged: bool = True) -> params.Params:
    return params.parse(options, upper=upper, privileged=privileged)


def test_defaults_are_those_of_a_kernel_with_no_features_on() -> None:
    assert parse({}) == params.Params()
    assert parse({option.name: option.default for option in params.OPTIONS}) == parse({})
    assert parse({}).allows_offline_changes


@pytest.mark.parametrize("value", ["on", None, "", True])
def test_a_flag_may_be_written_in_several_ways(value: str | bool | None) -> None:
    assert parse({"userxattr": value}).userxattr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonsense": "1"}, "unknown mount option 'nonsense'"),
        ({"redirect_dir": "maybe"}, "not one of off, on, follow, nofollow"),
        (
            {"metacopy": "on", "redirect_dir": "follow"},
            "conflicting mount options: metacopy=on,redirect_dir=follow",
        ),
        ({"nfs_export": "on", "index": "off"}, "conflicting mount options: nfs_export=on,index=off"),
        ({"nfs_export": "on", "metacopy": "on"}, "conflicting mount options: nfs_export=on,metacopy=on"),
        ({"userxattr": "on", "redirect_dir": "on"}, "conflicting mount options: userxattr,redirect_dir=on"),
        ({"userxattr": "on", "redirect_dir": "follow"}, "conflicting mount options: userxattr,redirect_dir=follow"),
        ({"userxattr": "on", "metacopy": "on"}, "conflicting mount options: userxattr,metacopy=on"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, str | bool | None], words: str) -> None:
    with pytest.raises(OSError, match=words) as caught:
        parse(options)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("options", "upper", "expected"),
    [
        ({"metacopy": "on"}, True, {"metacopy": True, "redirect_dir": "on"}),
        ({"nfs_export": "on"}, True, {"nfs_export": True, "index": True}),
        ({"redirect_dir": "off"}, True, {"redirect_dir": "follow"}),
        ({"userxattr": "on"}, True, {"userxattr": True, "redirect_dir": "nofollow"}),
        ({"index": "on", "volatile": "on", "uuid": "on"}, False, {"redirect_dir": "on", "uuid": "null"}),
        ({"nfs_export": "on"}, False, {"redirect_dir": "on"}),
        ({"metacopy": "on"}, False, {"metacopy": True, "redirect_dir": "on"}),
        ({"posix": "on"}, True, {"posix": True, "redirect_dir": "on", "index": True}),
        ({"posix": "on", "index": "off"}, True, {"posix": True, "redirect_dir": "on"}),
    ],
)
def test_options_bring_others_along(
    options: dict[str, str | bool | None], upper: bool, expected: dict[str, Any]
) -> None:
    assert parse(options, upper=upper) == params.Params(**expected)


def test_an_ordinary_user_may_have_what_the_kernel_keeps_for_root() -> None:
    options: dict[str, str | bool | None] = {
        "userxattr": "on",
        "redirect_dir": "on",
        "metacopy": "on",
        "index": "on",
    }
    chosen = parse(options, privileged=False)
    assert chosen == params.Params(userxattr=True, redirect_dir="on", metacopy=True, index=True)
    assert parse({}, privileged=False).redirect_dir == "nofollow"


def test_options_are_told_apart() -> None:
    spec = MountSpec(
        lower=["/a"], upper="/u", mountpoint="/m", allow_other=True,
        options={"userxattr": None, "noexec": None, "writeback": "on", "typo": "x"},
    )  # fmt: skip
    assert spec.overlay_options() == {"userxattr": None, "typo": "x"}  # typos reach the one who refuses them
    assert {"noexec", "allow_other", "subtype=pyunionfs"} <= spec.fuse_options()
    assert "ro" not in spec.fuse_options()
    assert "ro" in MountSpec(lower=["/a"], mountpoint="/m").fuse_options()


@pytest.mark.parametrize(
    ("release", "expected"), [("5.3.18", False), ("5.4.0-150-generic", True), ("4.19", False), ("6.18.44-fc", True)]
)
def test_the_direct_transport_is_taken_where_the_kernel_suits_it(
    release: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.release", lambda: release)
    assert daemon.suits_directly() == expected
