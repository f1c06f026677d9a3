"""The pyfuse3 adapter without a kernel: errors are translated in one place, and a bug is no death."""

import errno
import logging
import os
from collections.abc import Iterator
from typing import Any

import pyfuse3
import pytest
import trio
from unitstack import Stack

from pyunionfs.transport.libfuse import FOREVER, Adapter
from pyunionfs.vfs import ROOT


@pytest.fixture
def adapter(stack: Stack) -> Iterator[Adapter]:
    made = Adapter(stack.overlay, info=lambda: b"{}", on_ready=lambda: None)
    yield made
    made.close()


def call(handler: Any, *arguments: Any) -> Any:
    async def run() -> Any:
        return await handler(*arguments)

    return trio.run(run)


CONTEXT = pyfuse3.RequestContext()


def test_an_oserror_becomes_its_errno(adapter: Adapter) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        call(adapter.rmdir, ROOT, b"dir", CONTEXT)
    assert caught.value.errno == errno.ENOTEMPTY


def test_a_bug_is_logged_and_answered_with_eio(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stack: Stack
) -> None:
    def buggy(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(stack.overlay, "getattr", buggy)
    with caplog.at_level(logging.ERROR), pytest.raises(pyfuse3.FUSEError) as caught:
        call(adapter.getattr, ROOT, CONTEXT)
    assert caught.value.errno == errno.EIO
    assert "bug in getattr" in caplog.text
    assert "KeyError" in caplog.text
    monkeypatch.undo()
    assert call(adapter.getattr, ROOT, CONTEXT).st_mode & 0o40000


def test_a_bug_in_forget_is_logged(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    call(adapter.forget, [(987654321, 1)])
    assert "bug in forget(987654321, 1)" in caplog.text


def test_entries_and_their_absence_are_kept_by_the_kernel(adapter: Adapter) -> None:
    entry = call(adapter.lookup, ROOT, b"only", CONTEXT)
    assert entry.entry_timeout == entry.attr_timeout == FOREVER
    missing = call(adapter.lookup, ROOT, b"nothing", CONTEXT)
    assert missing.st_ino == 0
    assert missing.entry_timeout == FOREVER


def test_where_handle_and_number_differ_the_kernel_asks_again(adapter: Adapter, stack: Stack) -> None:
    os.link(stack.base / "only", stack.base / "second")
    first = call(adapter.lookup, ROOT, b"only", CONTEXT)
    second = call(adapter.lookup, ROOT, b"second", CONTEXT)
    assert first.st_ino != second.st_ino, "two names that a copy-up may part need two handles"
    assert (first.attr_timeout, second.attr_timeout) == (FOREVER, 0)
    asked = call(adapter.getattr, second.st_ino, CONTEXT)
    assert asked.st_ino == first.st_ino
    assert asked.attr_timeout == FOREVER
