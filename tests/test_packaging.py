"""Checkout, sdist and wheel hold the same, and the wheel works where it is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import optgeom

ROOT = Path(__file__).parents[1]
VERSION = optgeom.__version__
CONSUMER = ROOT / "tests" / "consumer"
ROOMS = ("traces", "geometry", "hooks", "optim", "trainer", "figures", "dashboard")


def _run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def _tracked() -> list[str]:
    """What git holds, or would after the next commit."""
    names = _run("git", "ls-files", "-coz", "--exclude-standard", cwd=ROOT).split("\0")
    return sorted({name for name in names if name and (ROOT / name).exists()})


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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist that is built from what git would hold."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    for name in _tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"))
    _run(*build, "--sdist", cwd=source)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    _run(*build, "--wheel", cwd=unpacked)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, where everything that it needs is this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    others = sysconfig.get_path("purelib")
    # after the environment's own folder, and without its .pth files: one of them is the checkout
    (site / "needed.pth").write_text(f"{others}\n")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    into = ("--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-index")
    _run(*pip, *into, str(built), cwd=folder)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_what_the_checkout_holds(built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
    inside = [name.removeprefix("src/optgeom/") for name in _tracked() if _is_packaged(name)]
    kept = {f"optgeom/{name}" for name in inside}
    assert {f"optgeom/{room}/__init__.py" for room in ROOMS} <= kept
    assert {"optgeom/py.typed", "optgeom/trainer/presets/demo.toml"} <= kept
    assert any(name.startswith("optgeom/dashboard/assets/") for name in kept)
    assert {name for name in names if name.startswith("optgeom/")} == kept
    assert not [name for name in names if name.partition("/")[0] in ROOMS]


def _is_packaged(name: str) -> bool:
    return (
        name.startswith(("src/optgeom/", *(f"{room}/" for room in ROOMS)))
        and not (ROOT / name).is_symlink()
    )


ATTACHED = """
import json, torch, optgeom
model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Linear(6, 4))
optimizer = torch.optim.AdamW(model.parameters())
with optgeom.watch(model, optimizer, out="run", every=1, layers=lambda name, _: True) as rec:
    for _ in range(3):
        loss = model(torch.ones(2, 8)).square().mean()
        loss.backward()
        optimizer.step()
        rec.log(loss=loss.detach())
trace = optgeom.open_trace("run")
figure = optgeom.figures.spectrum(trace, trace.layers[0].name)
page = optgeom.dashboard.write_report("run", "report.html")
versions = trace.info.versions["optgeom"]
print(json.dumps([optgeom.__file__, versions, trace.steps().tolist(), len(figure.data)]))
"""


@pytest.mark.slow
def test_the_wheel_works_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    command = str(installed / "bin" / "optgeom")
    assert _run(command, "--version", cwd=tmp_path).strip() == f"optgeom, version {VERSION}"
    told = _run(str(installed / "bin" / "python"), "-W", "error", "-c", ATTACHED, cwd=tmp_path)
    where, version, steps, lines = json.loads(told.splitlines()[-1])
    assert Path(where).is_relative_to(installed)
    assert version == VERSION
    assert steps == [0, 1, 2]
    assert lines
    assert "</html>" in (tmp_path / "report.html").read_text()
    assert _run(command, "trace", "verify", "run", cwd=tmp_path)
    (tmp_path / "run" / "run.json").write_text("{}")
    damaged = subprocess.run([command, "trace", "verify", "run"], cwd=tmp_path, capture_output=True)
    assert damaged.returncode != 0


@pytest.mark.slow
def test_there_is_one_version(built: Path) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", VERSION)
    assert built.name == f"optgeom-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(built) as archive:
        told = archive.read(f"optgeom-{VERSION}.dist-info/METADATA").decode()
    assert f"\nVersion: {VERSION}\n" in told
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d[^]]*)\]", changes, re.MULTILINE)
    assert "## [Unreleased]" in changes
    assert released[:1] in ([], [VERSION])  # what is on top was released as what is here


@pytest.mark.slow
def test_a_consumer_finds_every_public_name_typed(installed: Path, tmp_path: Path) -> None:
    """What the README shows, a fault in each line, and all names, against the installed wheel."""
    for path in CONSUMER.glob("*.py"):
        shutil.copy(path, tmp_path)
    names = [f"optgeom.{name}" for name in optgeom.__all__]
    names += [f"optgeom.{room}.{name}" for room in ROOMS for name in _public(room)]
    lines = [f"reveal_type({name})" for name in names]
    (tmp_path / "names.py").write_text("\n".join(["import optgeom", *lines]))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull),
            *("--python-executable", str(installed / "bin" / "python")),
            *("--cache-dir", str(tmp_path / "cache"), "uses.py", "misuses.py", "names.py"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    told = done.stdout.splitlines()
    revealed = [line.partition("Revealed type is ")[2] for line in told if "Revealed" in line]
    assert len(revealed) == len(names), done.stdout + done.stderr
    assert '"Any"' not in revealed
    found = {re.sub(r": error: .*\[", ": ", line)[:-1] for line in told if ": error: " in line}
    assert found == {
        f"misuses.py:{number}: {line.rpartition('  # ')[2]}"
        for number, line in enumerate((CONSUMER / "misuses.py").read_text().splitlines(), start=1)
        if "  # " in line
    }, done.stdout


def _public(room: str) -> list[str]:
    return list(getattr(optgeom, room).__all__)


def test_a_checkout_without_links_says_how_to_mend_it(tmp_path: Path) -> None:
    package = tmp_path / "optgeom"
    package.mkdir()
    shutil.copy(ROOT / "src" / "optgeom" / "__init__.py", package)
    (package / "traces").write_text("../../traces")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import optgeom"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "git config core.symlinks true" in done.stderr


def test_help_names_every_target_that_is_called_by_hand() -> None:
    told = _run("make", "--no-print-directory", "help", cwd=ROOT).splitlines()
    assert max(map(len, told)) <= 80
    named = [line.split()[0] for line in told[1:]]
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(named) == set(phony.split()) - {"chromium"}  # which others call
    assert len(named) == len(set(named))
