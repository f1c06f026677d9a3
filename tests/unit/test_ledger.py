"""What is noted for a successor, in memory that outlives the daemon."""

import os
import threading
from collections.abc import Iterator

import pytest

from pyunionfs.transport.devfuse.ledger import Ledger
from pyunionfs.vfs import Held, Ino


def held(ino: int, lookups: int = 1, name: bytes = b"name") -> Held:
    return Held(Ino(ino), lookups, 0, Ino(1), name, Ino(0), b"", ino, -1, 0, b"")


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    fd = Ledger.make()
    made = Ledger(fd)
    yield made
    made.close()
    os.close(fd)


def test_the_latest_of_each_inode_counts(ledger: Ledger) -> None:
    ledger.note(held(5))
    ledger.note(held(6, name=b"gone"))
    ledger.note_named(Ino(5), 3, 0, Ino(1), b"renamed", 5)
    ledger.drop(Ino(6))
    special = Held(Ino(7), 1, 2, Ino(1), b"old", Ino(5), b"new", 70, 12, 3, b"a/b")
    ledger.note(special)
    expected = {5: held(5, 3, b"renamed"), 7: special}
    assert ledger.read() == expected
    assert Ledger(ledger._fd).read() == expected, "another process reads the same"


def test_a_ledger_is_written_anew_before_it_grows_for_ever(ledger: Ledger) -> None:
    for number in range(200_000):
        ledger.note(held(number % 100 + 2, lookups=number % 7 + 1))
    assert os.fstat(ledger._fd).st_size < 4 << 20
    assert Ledger(ledger._fd).read() == ledger.read()
    assert len(ledger.read()) == 100
    for number in range(50_000):
        ledger.note(held(number + 2))
    assert len(Ledger(ledger._fd).read()) == 50_000


def test_of_exchanges_the_latest_of_each_thread_is_kept(ledger: Ledger) -> None:
    """Also when the ledger is written anew; those of other threads may not have been answered."""
    ledger.note(held(5))
    thread = threading.Thread(target=ledger.note_exchange, args=(2, Ino(5)))
    thread.start()
    for unique in range(4, 100_000, 2):
        ledger.note_exchange(unique, Ino(6))
    thread.join()
    for reader in (ledger, Ledger(ledger._fd)):
        assert reader.exchanges() == {2: 5, 99_998: 6}
        assert reader.read() == {5: held(5)}
    assert os.fstat(ledger._fd).st_size < 4 << 20
