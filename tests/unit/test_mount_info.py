"""What a daemon tells of itself, also when its layers are many."""

import pytest

from pyunionfs.transport.mount import decode_info, encode_info


@pytest.mark.parametrize("layers", [1, 500, 5000])
def test_any_number_of_layers_fits_an_xattr(layers: int) -> None:
    info = {
        "pid": 1,
        "lower": [f"/var/lib/pyunionfs/layers/sha256/{'0123456789abcdef' * 4}/{n}" for n in range(layers)],
    }
    value = encode_info(info)
    assert len(value) <= 65536
    assert decode_info(value) == info


def test_few_layers_are_told_in_plain_json() -> None:
    assert encode_info({"pid": 1}) == b'{"pid": 1}'
