"""The direct transport without a kernel: golden bytes, and any bytes."""

import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sized
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire import call_of, message

from pyunionfs.overlay.fs import Overlay
from pyunionfs.transport import options as transport_options
from pyunionfs.transport.devfuse import abi, idle, replies, supervisor, uring
from pyunionfs.transport.devfuse.abi import ARGUMENTS, Opcode
from pyunionfs.transport.devfuse.channel import DevFuse, Spinner
from pyunionfs.transport.devfuse.files import ByRequest
from pyunionfs.transport.devfuse.idle import Idle
from pyunionfs.transport.devfuse.requests import Call, Requests
from pyunionfs.vfs import FIRST, ROOT, Attr, DirEntry, Ino

HEX = bytes.fromhex

# -- structures: sizes as in include/uapi/linux/fuse.h, and whole messages as a kernel sends them --------------

SIZES = {
    "IN_HEADER": 40,
    "OUT_HEADER": 16,
    "INIT_IN": 64,
    "INIT_OUT": 64,
    "FORGET_ONE": 16,
    "SETATTR_IN": 88,
    "ATTR_OUT": 104,
    "ENTRY_OUT": 128,
    "OPEN_OUT": 16,
    "READ_IN": 40,
    "WRITE_IN": 40,
    "STATFS_OUT": 80,
    "DIRENT": 24,
    "DIRENTPLUS": 152,
    "IOCTL_IN": 32,
    "IOCTL_OUT": 16,
    "FALLOCATE_IN": 32,
    "LSEEK_IN": 24,
    "COPY_FILE_RANGE_IN": 56,
    "STATX_IN": 24,
    "STATX_OUT": 288,
    "INVAL_INODE_OUT": 24,
    "INVAL_ENTRY_OUT": 16,
    "BACKING_MAP": 16,
}


@pytest.mark.parametrize("name", SIZES)
def test_structures_have_the_size_of_the_header(name: str) -> None:
    assert getattr(abi, name).size == SIZES[name]


# What Linux 6.18 sent: its first request; for os.mkdir("dir", 0o777) by uid and gid 1000 with umask 022;
# 022, and to os.utime("file", (1, 1)) by root.
INIT = HEX(
    "680000001a0000000200000000000000000000000000000000000000000000000000000000000000070000002d000000"
    "00000200fbffff73fd050000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000"
)
MKDIR = HEX(
    "340000000900000014000000000000000100000000000000e8030000e8030000bf08000000000000ff0100001200000064697200"
)
SETATTR = HEX(
    "80000000040000000c00000000000000aac72400000000000000000000000000bf080000000000003000000000000000"
    "000000000000000000000000000000000000000000000000010000000000000001000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
)


class Recorder:
    """A filesystem that notes how it is called."""

    journal = stale = interrupted = None

    def __init__(self, **answers: object) -> None:
        self.calls: list[tuple[object, ...]] = []
        self._answers = answers

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            self.calls.append((name, *arguments, *named.values()))
            answer = self._answers.get(name)
            if isinstance(answer, OSError):
                raise answer
            return answer

        return call


ATTR = Attr(Ino(7), 9, stat.S_IFREG | 0o644, 1, 1000, 1001, 0, 3, 8, 1_500_000_001, 2_000_000_002, 3_000_000_003)


def requests_over(operations: object) -> Requests:
    return Requests(operations, info=lambda: b"{}", orders={}, files=None)  # type: ignore[arg-type]


def test_golden_requests() -> None:
    fs = Recorder(mkdir=ATTR, setattr=ATTR)
    requests = requests_over(fs)
    for golden in (MKDIR, SETATTR):
        call = call_of(golden)
        requests.by_opcode[call.opcode](call)
    (mkdir, parent, name, mode, caller), (setattr_, ino, changes, _) = fs.calls
    assert (mkdir, parent, name, mode) == ("mkdir", 1, b"dir", 0o777)
    assert (caller.uid, caller.gid, caller.umask) == (1000, 1000, 0o22)  # type: ignore[attr-defined]
    assert (setattr_, ino) == ("setattr", 0x24C7AA)
    assert (changes.atime_ns, changes.mtime_ns, changes.mode) == (10**9, 10**9, None)  # type: ignore[attr-defined]


def test_the_first_request() -> None:
    call = call_of(INIT)
    major, minor, readahead, flags, _ = abi.INIT_IN.unpack_from(call.head, call.at)
    assert (call.opcode, major, minor, readahead) == (Opcode.INIT, 7, 45, 131072)
    assert flags & abi.Init.INIT_EXT and flags & abi.Init.NO_OPEN_SUPPORT


def test_golden_replies() -> None:
    fields = (
        "0900000000000000 0300000000000000 0800000000000000"  # ino, size, blocks
        "0100000000000000 0200000000000000 0300000000000000"  # times
        "0165cd1d 02000000 03000000 a4810000 01000000 e8030000 e9030000 00000000 00100000 00000000"
    )
    assert replies.attributes(ATTR) == HEX("0000000000010000 00000000 00000000" + fields)
    forever = "0000000000010000"
    assert replies.entry(ATTR) == HEX("0700000000000000 0000000000000000" + forever * 2 + "00" * 8 + fields)
    assert replies.NEGATIVE[:8] == bytes(8) and len(replies.NEGATIVE) == abi.ENTRY_OUT.size
    listing = replies.Dirents(1000, plus=False)
    assert listing.add(DirEntry(b"name", stat.S_IFREG, 77), ATTR)
    assert listing.encode() == HEX("0900000000000000 4d00000000000000 04000000 08000000 6e616d65 00000000")


@given(st.integers(-(1 << 62), 1 << 62))
def test_times_of_any_sign_are_told(time_ns: int) -> None:
    told = replies.attributes(ATTR._replace(atime_ns=time_ns, mtime_ns=time_ns, ctime_ns=time_ns))
    seconds, nanoseconds = struct.unpack_from("=q", told, 16 + 24)[0], struct.unpack_from("=I", told, 16 + 48)[0]
    assert seconds * 10**9 + nanoseconds == time_ns


def test_a_listing_ends_where_its_room_does() -> None:
    listing = replies.Dirents(400, plus=True)
    added = [listing.add(DirEntry(b"x" * 20, stat.S_IFREG, n + 3), ATTR) for n in range(4)]
    assert added == [True, True, False, False]
    assert len(listing.encode()) == 2 * 176


# -- any bytes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def union(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Requests]:
    root = tmp_path_factory.mktemp("union")
    for name in ("lower", "upper", "work"):
        (root / name).mkdir()
    (root / "lower" / "file").write_bytes(b"x" * 5000)
    (root / "lower" / "dir").mkdir()
    with Overlay([root / "lower"], root / "upper", root / "work") as overlay:
        overlay.lookup(ROOT, b"file")
        overlay.lookup(ROOT, b"dir")
        yield requests_over(overlay)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([opcode for opcode in Opcode if opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET)]),
    st.binary(max_size=150),
    st.integers(0, 3) | st.integers(0, (1 << 64) - 1),
)
def test_any_bytes_are_answered_or_refused(union: Requests, opcode: Opcode, rest: bytes, nodeid: int) -> None:
    """A request is from the kernel and well formed; but a mistake in reading one must not end the mount."""
    padded = rest.ljust(ARGUMENTS.get(opcode, 0), b"\0") + b"\0"
    call = call_of(message(opcode, padded, nodeid=nodeid))
    handler = union.by_opcode.get(opcode)
    if handler is None:
        assert opcode in REFUSED
        return
    try:
        answer = handler(call)
    except (OSError, ValueError, OverflowError):
        return  # the session turns these into errors
    assert answer is None or isinstance(answer, bytes | int)


REFUSED = {Opcode.INIT, Opcode.FLUSH, Opcode.OPENDIR, Opcode.RELEASEDIR, Opcode.GETLK, Opcode.SETLK, Opcode.SETLKW}
REFUSED |= {Opcode.ACCESS, Opcode.INTERRUPT, Opcode.BMAP, Opcode.POLL, Opcode.NOTIFY_REPLY, Opcode.SETUPMAPPING}
REFUSED |= {Opcode.REMOVEMAPPING}


def test_what_is_not_kept_open_is_not_asked_for_again(union: Requests) -> None:
    for opcode in (Opcode.OPEN, Opcode.CREATE):
        with pytest.raises(OSError) as caught:
            union.by_opcode[opcode](call_of(message(opcode, bytes(16), b"name\0")))
        assert caught.value.errno == errno.ENOSYS
    assert not REFUSED & union.by_opcode.keys()


def test_what_was_written_since_the_last_sync_is_counted(union: Requests) -> None:
    made = call_of(message(Opcode.MKNOD, abi.MKNOD_IN.pack(stat.S_IFREG | 0o600, 0, 0, 0), b"written\0"))
    nodeid = abi.ENTRY_OUT.unpack_from(union.mknod(made))[0]  # type: ignore[arg-type]

    def write(size: int) -> None:
        arguments = abi.WRITE_IN.pack(0, 0, size, 0, 0, os.O_RDWR, 0)
        union.write(call_of(message(Opcode.WRITE, arguments, bytes(size), nodeid=nodeid)))

    union.fsync(call_of(message(Opcode.FSYNC, abi.FSYNC_IN.pack(0, 0, 0), nodeid=nodeid)))
    write(1000)
    write(24)
    assert union.unsynced == 1024
    union.fsync(call_of(message(Opcode.FSYNC, abi.FSYNC_IN.pack(0, 0, 0), nodeid=nodeid)))
    assert union.unsynced == 0


# -- listings -------------------------------------------------------------------------------------------------


def test_who_only_lists_a_long_directory_looks_nothing_up(tmp_path: Path) -> None:
    """But for what fits into the first reply; and again all of it, once somebody wants to know of a name."""
    (tmp_path / "lower").mkdir()
    for number in range(1000):
        (tmp_path / "lower" / f"{number}").touch()

    def attributes(*, asking: bool) -> list[bool]:
        """Of each entry, in order, whether its attributes came with it."""
        with Overlay([tmp_path / "lower"]) as overlay:
            requests, after, came = requests_over(overlay), 0, []
            while told := requests.readdirplus(listing(after)):
                assert isinstance(told, bytes)
                entries = list(direntplus(told))
                came += [nodeid != 0 for nodeid, _ in entries]
                after = entries[-1][1]
                if asking and after > FIRST:
                    requests.lookup(call_of(message(Opcode.LOOKUP, b"", b"17\0")))
            return came[2:]

    first = attributes(asking=False)
    assert len(first) == 1000
    assert 10 < first.count(True) < 30
    assert first.index(False) == first.count(True), "they are the first"
    again = attributes(asking=True)
    assert again.count(False) < 60
    assert all(again[60:])


def listing(after: int) -> Call:
    return call_of(message(Opcode.READDIRPLUS, abi.READ_IN.pack(0, after, 4096, 0, 0, 0, 0)))


def direntplus(told: bytes) -> Iterator[tuple[int, int]]:
    """nodeid and position of each entry."""
    at = 0
    while at < len(told):
        fields = abi.DIRENTPLUS.unpack_from(told, at)
        nodeid, position, size = fields[0], fields[-3], fields[-2]
        yield nodeid, position
        at += abi.DIRENTPLUS.size + size
        at += -at % 8


# -- polling -------------------------------------------------------------------------------------------------


HALT = Idle()


@pytest.fixture
def device() -> Iterator[tuple[int, int]]:
    """In place of /dev/fuse: where requests are read, and where they come from."""
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def spinning(slow: Sized = ()) -> Spinner:
    """Requests have come soon, just often enough."""
    spinner = Spinner(slow=slow)
    spinner.able = True
    for _ in range(4):
        spinner.slept(50_000)
    return spinner


def test_an_idle_daemon_does_not_spin() -> None:
    spinner = Spinner()
    spinner.able = True
    for _ in range(100):
        spinner.slept(10**9)
    assert not spinner.worth_it()


def test_requests_that_come_soon_make_it_spin_and_in_vain_it_stops() -> None:
    spinner = spinning()
    assert spinner.worth_it()
    spins = 0
    for _ in range(10_000):  # a machine where nobody makes requests while we spin
        if spinner.worth_it():
            spins += 1
            spinner.missed()
        spinner.slept(50_000)
    assert spins < 100


def test_a_pause_costs_one_spin_and_the_next_burst_is_met() -> None:
    spinner = spinning()
    for _ in range(1000):
        for _ in range(8):
            assert spinner.worth_it()
            spinner.met()
        spinner.missed()
        spinner.slept(10**8)


def test_single_requests_after_long_pauses_are_not_worth_a_spin() -> None:
    spinner = Spinner()
    spinner.able = True
    for _ in range(20):
        spinner.slept(50_000)
    for _ in range(20):
        if spinner.worth_it():
            spinner.missed()
        spinner.slept(10**9)
    assert not spinner.worth_it()


def test_a_spin_in_vain_costs_nothing_while_something_slow_is_under_way() -> None:
    slow = {1}
    spinner = spinning(slow=slow)
    for _ in range(20):
        spinner.missed()
    assert spinner.worth_it()
    slow.clear()
    spinner.missed()
    assert not spinner.worth_it()


def test_what_a_disk_brings_soon_is_waited_for_as_long_as_no_request_arrives(device: tuple[int, int]) -> None:
    reading, writing = device
    channel, patience = DevFuse(reading, Spinner(), HALT), Spinner(10**9)
    patience.able = True
    outcomes = iter([False, False, True, False, False])

    def attempt() -> bool:
        try:
            return next(outcomes)
        except StopIteration:
            os.write(writing, b"a request")
            return False

    assert not channel.retry(attempt, patience)  # no disk has been that fast
    for _ in range(4):
        patience.slept(10**8)
    assert channel.retry(attempt, patience)
    assert not channel.retry(attempt, patience)
    assert patience.worth_it()  # it was not in vain


def test_what_can_be_done_meanwhile_is_done_until_a_request_arrives(device: tuple[int, int]) -> None:
    reading, writing = device
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        if steps == 1000:
            os.write(writing, message(Opcode.GETATTR, bytes(16)))
        return True

    call = DevFuse(reading, spinning(), HALT, step).receive()
    assert call is not None and call.opcode == Opcode.GETATTR
    assert steps == 1000


def test_what_is_there_already_is_answered_first(device: tuple[int, int]) -> None:
    reading, writing = device
    done: list[bool] = []
    channel = DevFuse(reading, spinning(), HALT, lambda: bool(done.append(True)))
    os.write(writing, message(Opcode.GETATTR, bytes(16)))
    assert channel.receive() is not None
    assert not done


def test_it_is_known_whether_there_is_one_client(device: tuple[int, int]) -> None:
    reading, writing = device
    channel = DevFuse(reading, Spinner(), HALT)

    def asks(pid: int) -> bool:
        os.write(writing, message(Opcode.GETATTR, bytes(16), pid=pid))
        assert channel.receive() is not None
        return channel.serves_one

    assert [asks(7) for _ in range(10)].count(True) == 2
    assert asks(0)  # the kernel, of its own accord
    assert asks(7)
    assert not asks(8)
    assert not asks(7)
    assert [asks(7) for _ in range(10)][-1]


def test_what_can_wait_is_done_when_no_request_is_expected(device: tuple[int, int]) -> None:
    reading, writing = device
    done = 0

    def at_rest() -> bool:
        nonlocal done
        done += 1
        if done == 5:
            os.write(writing, message(Opcode.GETATTR, bytes(16)))
        return True

    channel = DevFuse(reading, spinning(), HALT, at_rest=at_rest)
    os.write(writing, message(Opcode.GETATTR, bytes(16)))
    assert channel.receive() is not None
    assert done == 0  # it was there already
    assert channel.receive() is not None
    assert done == 5


def test_one_processor_never_spins() -> None:
    spinner = Spinner()
    spinner.able = False
    for _ in range(100):
        spinner.slept(1000)
    assert not spinner.worth_it()


@pytest.mark.parametrize("soon", [True, False], ids=["soon", "already"])
def test_idle_processors_poll_while_requests_come_and_halt_after_a_pause(
    tmp_path: Path, device: tuple[int, int], soon: bool
) -> None:
    latency = tmp_path / "latency"
    latency.touch()
    processors = Idle()
    processors.open(str(latency))
    reading, writing = device
    asks = [message(Opcode.GETATTR, bytes(16))] * 3

    def ask() -> bool:
        if asks and soon:
            os.write(writing, asks.pop())
        return False

    channel = DevFuse(reading, spinning(), processors, ask)

    def wished() -> list[int]:
        return [us for (us,) in struct.iter_unpack("=i", latency.read_bytes())]

    for _ in range(3):
        if not soon:
            os.write(writing, asks.pop())
        assert channel.receive() is not None
    assert wished() == [0]
    threading.Timer(0.2, os.write, (writing, message(Opcode.GETATTR, bytes(16)))).start()
    assert channel.receive() is not None  # after what is more than a pause
    assert wished() == [0, -1]
    assert not processors.polls


@pytest.mark.parametrize(
    ("driver", "processors", "polls"),
    [("haltpoll\n", 2, True), ("haltpoll\n", 64, False), ("intel_idle\n", 2, False), (None, 2, False)],
)
def test_by_default_they_poll_on_virtual_machines_of_few_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str | None, processors: int, polls: bool
) -> None:
    if driver is not None:
        (tmp_path / "driver").write_text(driver)
    monkeypatch.setattr(idle, "_DRIVER", tmp_path / "driver")
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert idle.wanted("auto") is polls
    assert idle.wanted("poll") and not idle.wanted("halt")


def test_where_the_latency_cannot_be_wished_for_processors_halt(tmp_path: Path) -> None:
    processors = Idle()
    processors.open(str(tmp_path / "none"))
    processors.poll()
    assert not processors.able and not processors.polls


# -- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"transport": "pyfuse3", "channel": "uring"},
        {"transport": "pyfuse3", "passthrough": None},
        {"passthrough": "on", "writeback": "on"},
        {"channel": "smoke"},
        {"channel": "block", "idle": "poll"},
        {"transport": "pyfuse3", "idle": "poll"},
        {"takeover": "perhaps"},
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, str | None]) -> None:
    with pytest.raises(OSError) as caught:
        transport_options.parse(options)
    assert caught.value.errno == errno.EINVAL


def test_the_default_is_the_direct_transport_with_no_opens() -> None:
    parsed = transport_options.parse({})
    assert (parsed.transport, parsed.channel, parsed.noopen, parsed.takeover) == ("auto", "auto", True, True)
    assert not transport_options.parse({"passthrough": "on"}).noopen


def test_rings_are_counted_for_every_processor() -> None:
    assert uring.queues() >= len(os.sched_getaffinity(0))
    assert abi.OPEN_OUT.unpack(ByRequest().open(Ino(2), os.O_RDONLY))[2] == 0


def test_a_direct_mount_loads_neither_pyfuse3_nor_trio() -> None:
    import subprocess
    import sys

    program = (
        "import sys, pyunionfs.daemon as d, pyunionfs.transport.devfuse\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"pyfuse3", "trio", "rich", "click"} & set(done.stdout.split())


def test_without_clone3_the_daemon_serves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_SYS_CLONE3", 1 << 20)

    def never() -> NoReturn:
        raise AssertionError("called")

    assert not supervisor.supervise(never, never, never)


def test_what_is_forgotten_waits_but_not_much_of_it() -> None:
    fs = Recorder(forget=OSError(errno.ESTALE, "stale"))
    requests = requests_over(fs)
    for number in range(10):
        head = message(Opcode.FORGET, abi.FORGET_IN.pack(number), nodeid=100 + number)
        assert requests.by_opcode[Opcode.FORGET](call_of(head)) is None
    assert fs.calls == [("forget", 100 + number, number) for number in range(8)]
    while requests.let_go():
        pass
    assert fs.calls == [("forget", 100 + number, number) for number in range(10)]


def test_an_unknown_inode_stops_no_forgetting() -> None:
    fs = Recorder(forget=OSError(errno.ESTALE, "stale"))
    pairs = abi.FORGET_ONE.pack(5, 1) + abi.FORGET_ONE.pack(6, 2)
    call = call_of(message(Opcode.BATCH_FORGET, abi.BATCH_FORGET_IN.pack(2, 0), pairs))
    requests_over(fs).by_opcode[Opcode.BATCH_FORGET](call)
    assert fs.calls == [("forget", 5, 1), ("forget", 6, 2)]
