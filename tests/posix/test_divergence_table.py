"""The table of divergences names tests and filesystems that exist."""

import re
from pathlib import Path

from divergences import DIVERGENCES
from filesystems import VARIANTS


def test_each_entry_names_a_test_of_the_suite() -> None:
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    tests = {name for source in sources for name in re.findall(r"^def (test_\w+)\(fs:", source, re.MULTILINE)}
    assert set(DIVERGENCES) <= tests


def test_each_entry_names_filesystems_and_a_reason() -> None:
    for entries in DIVERGENCES.values():
        for who, reason in entries:
            assert set(who) <= set(VARIANTS)
            assert "native" not in who
            assert reason
