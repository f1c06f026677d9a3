"""The example archive is a real one, and the same each time."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyunionfs.image.store import Store

SCRIPT = Path(__file__).parents[2] / "examples" / "make_archive.py"


def make(path: Path, *options: str) -> Path:
    subprocess.run([sys.executable, str(SCRIPT), str(path), *options], check=True)
    return path


@pytest.mark.parametrize("options", [(), ("--oci",)])
def test_it_is_deterministic(tmp_path: Path, options: tuple[str, ...]) -> None:
    one, two = make(tmp_path / "one.tar", *options), make(tmp_path / "two.tar", *options)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("options", [(), ("--oci",)])
def test_it_loads(store: Store, tmp_path: Path, options: tuple[str, ...]) -> None:
    (image,) = store.load(make(tmp_path / "web.tar", *options))
    assert image.tags == ("web:1",)
    assert [entry.layer is None for entry in image.history] == [False, True, False, False, False, False, True, True]
    reports = [layer.report for layer in image.layers]
    assert [report.whiteouts for report in reports] == [0, 0, 1, 0, 3]
    assert [report.opaques for report in reports] == [0, 0, 0, 1, 0]
    assert (reports[1].hard_links, reports[0].symlinks) == (1, 1)
    assert (image.layers[0].path / "usr/bin/as-root").stat().st_mode & 0o7777 == 0o4755


@pytest.mark.parametrize("options", [(), ("--oci",)])
def test_skopeo_reads_it(tmp_path: Path, options: tuple[str, ...]) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("no skopeo")
    path = make(tmp_path / "web.tar", *options)
    subprocess.run(["skopeo", "inspect", f"docker-archive:{path}"], check=True, capture_output=True)
    if options:
        subprocess.run(["skopeo", "inspect", f"oci-archive:{path}"], check=True, capture_output=True)
