"""run.json: everything about a run that is not a record.

Value objects and their JSON; the file itself is replaced as a whole by rank 0 alone. A digest over
the canonical JSON tells a changed byte from a changed mind: whoever edits the file by hand removes
the `digest` entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from optgeom.traces.content import check_bytes, check_content, check_depth
from optgeom.traces.errors import DamagedTrace, SchemaTooNew
from optgeom.traces.schema import SCHEMA_VERSION, check_columns

Scalar = bool | int | float | str | None
RUN_FILE = "run.json"
RUN_COPY = ".run-copy.json"
"""The same bytes once more, written after it: what a repair restores a damaged run.json from."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One captured matrix, as stored: rows are neurons (output features).

    Attributes:
        name: of the parameter, with the labels of a piece in brackets.
        kind: of layer, such as mlp.up.
        block: depth in the model; None outside blocks.
        shape: (neurons, inputs).
        dtype: of the parameter.
        optimizer: the name of one of the run's optimizers.
        group: the number of its group there.
        algorithm: what the group says it is updated by.
        neuron_axis: which axis of this matrix the optimizer normalizes, where that is known.
        transposed: the module keeps (inputs, outputs); the records are turned.
        split: what a piece is, such as "q", "3" or "3,gate"; None for a whole parameter.
        placement: how the parameter lies on its mesh, in words.
        parameter: of which this is a piece; None for a whole one.
        stored: the parameter's own shape; empty where an older version wrote the trace.
    """

    name: str
    kind: str
    block: int | None
    shape: tuple[int, int]
    dtype: str
    optimizer: str
    group: int
    algorithm: str | None = None
    neuron_axis: str | None = None
    transposed: bool = False
    split: str | None = None
    placement: str = "replicate"
    parameter: str | None = None
    stored: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {**asdict(self), "shape": list(self.shape), "stored": list(self.stored)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of to_json; entries that this version does not know are left out."""
        rows, cols = value["shape"]
        stored = tuple(int(size) for size in value.get("stored", ()))
        return cls(**{**_known(cls, value), "shape": (int(rows), int(cols)), "stored": stored})

    @property
    def piece(self) -> str:
        """What `split` says beyond the kind: "3" where kind is mlp.gate and split "3,gate"."""
        known = self.kind.rpartition(".")[2]
        return ",".join(label for label in (self.split or "").split(",") if label != known)

    @property
    def label(self) -> str:
        """How the layer is shown: "block 3 · mlp.up · 512 × 128"."""
        place = self.name if self.block is None else f"block {self.block}"
        kind = f"{self.kind}[{self.piece}]" if self.piece else self.kind
        return f"{place} · {kind} · {self.shape[0]} × {self.shape[1]}"  # noqa: RUF001  as shown


@dataclass(frozen=True, slots=True)
class OptimizerInfo:
    """One optimizer object: its class and the settings of its groups."""

    name: str
    type: str
    groups: tuple[Mapping[str, Scalar], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        groups = [dict(group) for group in self.groups]
        return {"name": self.name, "type": self.type, "groups": groups}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of to_json."""
        return cls(**{**_known(cls, value), "groups": tuple(value.get("groups", ()))})


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """One process's life: a run that was resumed has several.

    Attributes:
        attempt: its number.
        start_step: the first step that it may write.
        created: ISO 8601 time.
        closed: ISO 8601 time; None while a process writes, if it was killed, or failed.
        failed: what ended the run or its writing early, the error's type first.
    """

    attempt: int
    start_step: int
    created: str
    closed: str | None = None
    failed: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it was closed, or failed; rank 0 says so, and of itself alone."""
        return self.closed is not None or self.failed is not None

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of to_json."""
        return cls(**_known(cls, value))


@dataclass(frozen=True, slots=True)
class RunInfo:
    """All of run.json.

    Attributes:
        run: the run's name, as in the key column.
        created: ISO 8601 time; of the writing, where it is left empty.
        versions: optgeom, torch, python.
        capture: every, spectra_every, updates_every, burst, stages, budget.
        config: what the trainer or the user wants kept beside the records.
        columns: table -> metric column -> Arrow type by name; the reader's schema.
        attempts: the writer's own business; filled in when a trace is made or resumed.
        computed: of a trace that no run wrote, but `whatif` made of another one: from, rule,
            settings, input, second_moment; else empty.
    """

    run: str
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    world_size: int = 1
    capture: Mapping[str, Any] = field(default_factory=dict)
    optimizers: tuple[OptimizerInfo, ...] = ()
    layers: tuple[LayerInfo, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attempts: tuple[AttemptInfo, ...] = ()
    computed: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    @property
    def newest(self) -> int:
        """The number of the newest attempt; 0 where there is none yet."""
        return max((one.attempt for one in self.attempts), default=0)

    @property
    def is_over(self) -> bool:
        """Whether rank 0 of the newest attempt has ended."""
        return bool(self.attempts) and self.attempts[-1].has_ended

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return {
            "schema": self.schema,
            "run": self.run,
            "created": self.created,
            "versions": dict(self.versions),
            "command": list(self.command),
            "world_size": self.world_size,
            "capture": dict(self.capture),
            "optimizers": [one.to_json() for one in self.optimizers],
            "layers": [one.to_json() for one in self.layers],
            "config": dict(self.config),
            "columns": {table: dict(names) for table, names in self.columns.items()},
            "attempts": [one.to_json() for one in self.attempts],
            **({"computed": dict(self.computed)} if self.computed else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of to_json."""
        return cls(
            **{
                **_known(cls, value),
                "command": tuple(value.get("command", ())),
                "optimizers": tuple(map(OptimizerInfo.from_json, value.get("optimizers", ()))),
                "layers": tuple(map(LayerInfo.from_json, value.get("layers", ()))),
                "attempts": tuple(map(AttemptInfo.from_json, value.get("attempts", ()))),
            }
        )


def dump(info: RunInfo) -> bytes:
    """The bytes of run.json.

    Raises:
        TypeError: config or capture has keys that JSON cannot hold.
    """
    content = json.loads(json.dumps(info.to_json(), default=str))
    text = json.dumps({**content, "digest": _digest(content)}, indent=1)
    return text.encode() + b"\n"


def parse(data: bytes, name: str) -> RunInfo:
    """Read run.json's bytes.

    Args:
        data: the whole file.
        name: how to call the file in errors.

    Raises:
        SchemaTooNew: a newer optgeom wrote it.
        DamagedTrace: it is truncated, its bytes changed, or it says what no run does.
    """
    check_bytes(data, name)
    try:
        content = json.loads(data.decode())
        schema = content["schema"]
        if type(schema) is not int or schema < 1:
            raise TypeError("schema is no number of a schema")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedTrace(
            f"{name} is damaged ({type(error).__name__}): restore it from a copy"
        ) from error
    if schema > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{name} has schema {schema}, this optgeom reads up to {SCHEMA_VERSION}: "
            "install a newer optgeom"
        )
    check_depth(content, name)
    digest = content.pop("digest", None)
    if digest is not None and digest != _digest(content):
        raise DamagedTrace(
            f"{name} is damaged: its bytes changed since it was written. Restore it from a copy, "
            'or, if it was edited by hand, remove its "digest" entry'
        )
    check_content(content, name)
    try:
        info = RunInfo.from_json(content)
        check_columns(info.columns)
        return info
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedTrace(f"{name} lacks what a trace needs ({error}): restore it") from error


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.blake2b(_canonical(content), digest_size=8).hexdigest()


def _known(cls: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(cls)}
    return {name: entry for name, entry in value.items() if name in names}
