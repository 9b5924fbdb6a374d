"""The checkout, the sdist and the wheel hold the same rooms; a broken checkout says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("traces", "geometry", "hooks", "optim", "trainer", "figures", "dashboard")


def _run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_a_relative_link_to_the_folder_at_the_top(room: str) -> None:
    link = ROOT / "src" / "optgeom" / room
    assert link.is_symlink()
    assert str(link.readlink()) == f"../../{room}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_bare_import_of_a_room_names_the_right_one(room: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"write 'import optgeom.{room}'" in done.stderr


@pytest.mark.slow
def test_wheel_built_from_the_sdist_holds_every_room(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = _run("git", "ls-files", "-coz", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"))
    _run(*build, "--sdist", cwd=source)
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    _run(*build, "--wheel", cwd=unpacked)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    expected = {
        "optgeom/py.typed",
        "optgeom/cli.py",
        "optgeom/commands/ask/compare.py",
        "optgeom/geometry/analysis/units.py",
        "optgeom/geometry/comparison/rules.py",
        "optgeom/traces/store.py",
        "optgeom/geometry/measure.py",
        "optgeom/hooks/watch.py",
        "optgeom/optim/normuon.py",
        "optgeom/trainer/train.py",
        "optgeom/figures/spectra.py",
        "optgeom/trainer/presets/demo.toml",
        "optgeom/dashboard/app.py",
        "optgeom/dashboard/pages/balance.py",
    }
    assert expected <= names
    assert any(name.startswith("optgeom/dashboard/assets/") for name in names)
    assert not [name for name in names if name.partition("/")[0] in ROOMS]
    where = "import optgeom.hooks, optgeom.traces; print(optgeom.traces.__file__)"
    isolated = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {where}"
    assert str(tmp_path) in _run(sys.executable, "-c", isolated, cwd=tmp_path)


def test_a_checkout_without_links_says_how_to_mend_it(tmp_path: Path) -> None:
    package = tmp_path / "optgeom"
    package.mkdir()
    shutil.copy(ROOT / "src" / "optgeom" / "__init__.py", package)
    (package / "traces").write_text("../../traces")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import optgeom"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "git config core.symlinks true" in done.stderr
