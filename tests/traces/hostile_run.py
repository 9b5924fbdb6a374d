"""What a stranger's run.json and folder may be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.traces.crafting import sealed_run
from tests.traces.trees import segment


def run_says(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A case whose run.json is changed, its digest made anew."""

    def case(run: Path) -> None:
        content = json.loads((run / "run.json").read_bytes())
        made = change(content)
        (run / "run.json").write_bytes(sealed_run(content if made is None else made))

    return case


def layer_has(key: str, value: Any) -> Callable[[Path], None]:
    return run_says(lambda content: content["layers"][0].__setitem__(key, value))


def says(key: str, value: Any) -> Callable[[Path], None]:
    return run_says(lambda content: content.__setitem__(key, value))


def raw(data: bytes) -> Callable[[Path], None]:
    return lambda run: (run / "run.json").write_bytes(data) and None


def sparse(run: Path) -> None:
    os.truncate(run / "run.json", 1 << 40)


def many_layers(run: Path) -> None:
    """More than any model has."""
    content = json.loads((run / "run.json").read_bytes())
    (layer, *_) = content["layers"]
    content["layers"] = [{**layer, "name": f"x{number}"} for number in range(600_000)]
    (run / "run.json").write_bytes(sealed_run(content))


def linked(name: str, target: str) -> Callable[[Path], None]:
    """A file or folder that is a link out of the trace."""

    def case(run: Path) -> None:
        outside = run.parent / "outside"
        outside.mkdir(exist_ok=True)
        path = run / name if "*" not in name else next(run.glob(name))
        moved = outside / path.name
        if moved.exists() and moved.is_file():
            moved.unlink()
        if not moved.exists():
            path.rename(moved)
        elif path.is_dir():
            import shutil

            shutil.rmtree(path)
        path.symlink_to(target.format(outside=outside, name=path.name))

    return case


def special(make: Callable[[Path], None], table: str | None) -> Callable[[Path], None]:
    """Something that is no file in the place of one."""

    def case(run: Path) -> None:
        path = run / "run.json" if table is None else segment(run, table)
        path.unlink()
        make(path)

    return case


def circle(run: Path) -> None:
    """Folders of analyses that lead back, twice: listed without care they have no end."""
    (run / "derived" / "a").symlink_to("..")
    (run / "derived" / "b").symlink_to("..")
    (run / "derived" / "later" / "c").symlink_to("../..")


CASES: dict[str, Callable[[Path], Any]] = {
    "run.json of a terabyte": sparse,
    "run.json nests": raw(b'{"schema": 1, "config": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "run.json nests a little": says("config", {"a": json.loads("[" * 20 + "]" * 20)}),
    "run.json nests more than a little": says("config", {"a": json.loads("[" * 99 + "]" * 99)}),
    "run.json has many values": raw(b'{"schema": 1, "x": [' + b"{}," * 9_000_000 + b"0]}"),
    "run.json has a long integer": raw(b'{"schema": 1, "world_size": ' + b"9" * 5000 + b"}"),
    "run.json is no object": raw(b"[1, 2]"),
    "run.json is no text": raw(b"\xff\xfe\x00"),
    "run.json has a schema of true": says("schema", True),
    "run.json has no number of a schema": says("schema", -1),
    "a layer of 10^18 rows": layer_has("shape", [10**18, 4]),
    "a layer of 10^12 rows": layer_has("shape", [10**12, 4]),
    "a layer of 2^40 columns": layer_has("shape", [6, 2**40]),
    "a layer of fewer rows than none": layer_has("shape", [-6, 4]),
    "a layer of infinite rows": layer_has("shape", [float("inf"), 4]),
    "a layer of true rows": layer_has("shape", [True, 4]),
    "a layer of half rows": layer_has("shape", [6.5, 4]),
    "a layer of one side": layer_has("shape", [6]),
    "a layer of texts": layer_has("shape", ["six", "four"]),
    "a layer without a name": layer_has("name", None),
    "a layer of a large block": layer_has("block", 10**9),
    "a layer stored in many ways": layer_has("stored", [1] * 100),
    "two layers of one name": run_says(
        lambda content: content["layers"].append(content["layers"][0])
    ),
    "layers that are none": says("layers", ["a", 1]),
    "layers in an object": says("layers", {"a": 1}),
    "attempts of texts": run_says(lambda one: one["attempts"][0].__setitem__("attempt", "x")),
    "attempts of floats": run_says(lambda one: one["attempts"][0].__setitem__("attempt", 1e300)),
    "columns of another type": says("columns", {"metrics": {"neuron_norm_cv": 7}}),
    "columns of no type": says("columns", {"metrics": {"neuron_norm_cv": "list<item: x>"}}),
    "columns that are keys": says("columns", {"metrics": {"step": "string"}}),
    "columns in a text": says("columns", "metrics"),
    "many columns": says("columns", {"metrics": {f"m{at}": "float64" for at in range(9999)}}),
    "more layers than any": many_layers,
    "a table is a link out": linked("metrics", "{outside}/{name}"),
    "a table is a link out by way of itself": linked("metrics", "../run/../outside/{name}"),
    "a segment is a link out": linked("metrics/a0000*.parquet", "{outside}/{name}"),
    "a stream is a link out": linked("metrics/.wal-*.arrows", "{outside}/{name}"),
    "analyses are a link out": linked("derived", "{outside}/{name}"),
    "run.json is a link out": linked("run.json", "{outside}/{name}"),
    "a segment is a pipe": special(os.mkfifo, "metrics"),
    "a segment is a folder": special(Path.mkdir, "metrics"),
    "a segment is an endless device": special(lambda one: one.symlink_to("/dev/zero"), "spectra"),
    "a segment is a link to itself": special(lambda one: one.symlink_to(one.name), "metrics"),
    "folders lead in a circle": circle,
}
HARMLESS = {
    # other people's folders are left alone, and links are not followed there
    "folders lead in a circle",
    "run.json nests a little",
}
