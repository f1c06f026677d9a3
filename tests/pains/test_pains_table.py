"""The table of complaints is whole: each has its test, and each test has its complaint."""

import importlib
from pathlib import Path

import pytest
from sources import COMPLAINTS, HERE, PROJECTS, Reason

FOLDER = Path(__file__).parent
TESTS = FOLDER.parent


def named_here() -> dict[str, list[str]]:
    """The tests of this folder by the complaints that they name."""
    found: dict[str, list[str]] = {}
    for path in sorted(FOLDER.glob("test_pains_*.py")):
        for name, test in vars(importlib.import_module(path.stem)).items():
            for complaint in getattr(test, "sources", ()) if name.startswith("test_") else ():
                found.setdefault(complaint, []).append(f"{path.stem}::{name}")
    return found


def test_each_complaint_that_is_shown_here_has_its_test() -> None:
    assert set(named_here()) == {name for name, where in COMPLAINTS.items() if where == HERE}


def test_each_test_of_the_folder_names_its_source() -> None:
    named = {test for tests in named_here().values() for test in tests}
    for path in FOLDER.glob("test_pains_*.py"):
        if path != Path(__file__):
            module = importlib.import_module(path.stem)
            assert {f"{path.stem}::{name}" for name in vars(module) if name.startswith("test_")} <= named


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_a_complaint_names_a_thread_and_what_answers_it(complaint: str) -> None:
    project, number = complaint.split()
    assert project in PROJECTS
    assert number.isdigit()
    where = COMPLAINTS[complaint]
    if isinstance(where, Reason):
        assert where.words
    elif where != HERE:
        path, test = where.split("::")
        assert f"\ndef {test}(" in (TESTS / path).read_text()
