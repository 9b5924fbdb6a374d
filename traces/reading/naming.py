"""The names of layers and stages: their codes, and what is said where there is no such name."""

from __future__ import annotations

import difflib

from optgeom.traces.errors import NotCaptured
from optgeom.traces.reading.asked import stage_rank
from optgeom.traces.reading.reader import TraceFiles
from optgeom.traces.schema import CELL_TABLES

_LIKE = 3


class Naming:
    """Finds what a caller names in one trace.

    Args:
        files: the trace's.
    """

    def __init__(self, files: TraceFiles):
        self._files = files

    @property
    def stages(self) -> tuple[str, ...]:
        """The captured stages, in the order of the data's way through an optimizer."""
        words = self._files.vocabulary.words
        found = {words[one] for table in CELL_TABLES for one in self._files.index(table).stages}
        return tuple(sorted(found, key=lambda one: (stage_rank(one), one)))

    def shape(self, layer: str) -> tuple[int, int] | None:
        """The shape that run.json says a layer has; None where it does not name it."""
        return next((one.shape for one in self._files.info.layers if one.name == layer), None)

    def layer(self, name: str) -> int:
        """A layer's code.

        Raises:
            NotCaptured: neither run.json nor any record names it.
        """
        if all(layer.name != name for layer in self._files.info.layers):
            # loaded first: a word has no code before a table brings it
            indexes = [self._files.index(table) for table in CELL_TABLES]
            code = self._files.vocabulary.find(name)
            if not any(code in index.layers for index in indexes):
                raise self.no_layer(name)
        return self._files.vocabulary.find(name)

    def stage(self, name: str) -> int:
        """A stage's code.

        Raises:
            NotCaptured: no record is of it.
        """
        indexes = [self._files.index(table) for table in CELL_TABLES]
        code = self._files.vocabulary.find(name)
        if not any(code in index.stages for index in indexes):
            raise self.no_stage(name)
        return code

    def no_layer(self, name: str) -> NotCaptured:
        """The error that names the layers most like it."""
        names = [layer.name for layer in self._files.info.layers]
        there = f"no layer {name!r} in {self._files.place.shown}"
        # a part of a name is like it, however short
        close = [one for one in names if name and name in one][:_LIKE]
        close = close or difflib.get_close_matches(name, names, n=_LIKE, cutoff=0.6)
        if close:
            count = f"{len(names)} layer{'s' if len(names) > 1 else ''}"
            return NotCaptured(f"{there}: did you mean {' or '.join(close)}? ({count})")
        if not names:
            return NotCaptured(f"{there}: it has no layers")
        more = f", … ({len(names)} layers)" if len(names) > _LIKE else ""
        return NotCaptured(f"{there}: there are {', '.join(names[:_LIKE])}{more}")

    def no_stage(self, name: str) -> NotCaptured:
        """The error that names the stages that are there."""
        there = ", ".join(self.stages) or "no stage at all"
        return NotCaptured(
            f"no stage {name!r} was captured in {self._files.place.shown}: there is {there}"
        )
