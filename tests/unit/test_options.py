"""Mount options and the list of layers, as people type them."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyunionfs.daemon import MountSpec, escape, split_layers
from pyunionfs.overlay import params


@given(st.lists(st.text(alphabet="ab:\\/. ", min_size=1), min_size=1))
def test_any_paths_survive_escaping(paths: list[str]) -> None:
    assert split_layers(":".join(escape(path) for path in paths)) == paths


@pytest.mark.parametrize("text", ["", ":", "a:", ":a", "a::b"])
def test_an_empty_layer_is_refused(text: str) -> None:
    with pytest.raises(OSError) as caught:
        split_layers(text)
    assert caught.value.errno == errno.EINVAL


def test_defaults_are_those_of_a_kernel_with_no_features_on() -> None:
    assert params.parse({}) == params.Params(userxattr=False)
    assert params.parse({option.name: option.values[0] for option in params.OPTIONS}) == params.parse({})


@pytest.mark.parametrize("value", ["on", None, "", True])
def test_a_flag_may_be_written_in_several_ways(value: str | bool | None) -> None:
    assert params.parse({"userxattr": value}).userxattr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonsense": "1"}, "unknown mount option 'nonsense'"),
        ({"index": "on"}, "index=on is not supported yet"),
        ({"redirect_dir": "maybe"}, "not one of off, nofollow"),
    ],
)
def test_what_we_would_not_honour_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(OSError, match=words) as caught:
        params.parse(options)
    assert caught.value.errno == errno.EINVAL


def test_options_are_told_apart() -> None:
    spec = MountSpec(
        lower=["/a"], upper="/u", mountpoint="/m", allow_other=True,
        options={"userxattr": None, "noexec": None, "writeback": "on", "typo": "x"},
    )  # fmt: skip
    assert spec.overlay_options() == {"userxattr": None, "typo": "x"}  # typos reach the one who refuses them
    assert {"noexec", "allow_other", "subtype=pyunionfs"} <= spec.fuse_options()
    assert "ro" not in spec.fuse_options()
    assert "ro" in MountSpec(lower=["/a"], mountpoint="/m").fuse_options()
