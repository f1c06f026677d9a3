"""Several processes that are the first to write to one lower file."""

import threading

from mounts import Layers, Mounter

SIZE = 64 << 20


def test_two_writers_of_one_lower_file_copy_it_once(layers: Layers, our_mount: Mounter) -> None:
    (layers.lower[0] / "large").write_bytes(b"\1" * SIZE)
    failures: list[BaseException] = []
    with our_mount(layers) as merged:

        def append(text: bytes) -> None:
            try:
                with open(merged / "large", "ab") as file:
                    file.write(text)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=append, args=(b"%d" % number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with open(merged / "large", "rb") as file:
            assert file.read(SIZE) == b"\1" * SIZE
            assert sorted(file.read()) == sorted(b"01234567")
    assert (layers.lower[0] / "large").stat().st_size == SIZE
