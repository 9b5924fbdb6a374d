"""What `layers=` and `views=` name: kinds of layer, families of kinds, regular expressions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from optgeom.hooks.errors import WatchError
from optgeom.hooks.names import FAMILIES, KINDS

LayerFilter = str | Sequence[str] | Mapping[str, Any] | Callable[[str, nn.Parameter], bool] | None

DEFAULT = "*"
"""In `layers=`: whatever is captured without a filter."""

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Pattern:
    """One entry of a setting: what it names, and whether it named anything."""

    text: str
    kinds: frozenset[str]
    expression: re.Pattern[str] | None

    @classmethod
    def of(cls, text: str, setting: str) -> Pattern:
        """Read an entry.

        Args:
            text: a kind, a family of kinds, or a regular expression.
            setting: that it was given to, for the error.

        Raises:
            WatchError: it is none of them.
        """
        if text in KINDS or text in FAMILIES:
            kinds = {kind for kind in KINDS if text in (kind, kind.partition(".")[0])}
            return cls(text, frozenset(kinds), None)
        try:
            return cls(text, frozenset(), re.compile(text))
        except (re.error, TypeError) as error:
            raise WatchError(
                f"{setting} takes regular expressions or kinds of layer, got {text!r}: {error}"
            ) from error

    def means(self, name: str, kinds: Sequence[str]) -> bool:
        """Whether it names a layer.

        Args:
            name: of the layer; a regular expression is searched in it.
            kinds: what the layer is, and what it is a piece of.
        """
        if self.expression is None:
            return not self.kinds.isdisjoint(kinds)
        return self.expression.search(name) is not None


@dataclass(slots=True)
class Chooser:
    """`layers=`, as it was given; remembers which entries have named nothing yet."""

    patterns: dict[str, Pattern | None] = field(default_factory=dict)
    function: Callable[[str, nn.Parameter], bool] | None = None
    keyed: bool = False
    unused: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, layers: LayerFilter) -> Chooser:
        """Read the setting.

        Raises:
            WatchError: an entry is no kind, family or regular expression.
        """
        if layers is None:
            return cls({DEFAULT: None})
        if callable(layers):
            return cls(function=layers)
        entries = [layers] if isinstance(layers, str) else list(layers)
        patterns = {
            text: None if text == DEFAULT else Pattern.of(text, "layers") for text in entries
        }
        return cls(patterns, None, isinstance(layers, Mapping), set(patterns))

    def chooses(
        self, name: str, kinds: Sequence[str], parameter: nn.Parameter, *, by_default: bool
    ) -> tuple[bool, str | None]:
        """Whether a layer is wanted, and which key of a mapping says so: the first that does.

        Args:
            name: of the layer.
            kinds: what the layer is, and what it is a piece of.
            parameter: that it is seen in.
            by_default: whether it is captured without a filter.
        """
        if self.function is not None:
            return bool(self.function(name, parameter)), None
        found = [
            text
            for text, pattern in self.patterns.items()
            if (by_default if pattern is None else pattern.means(name, kinds))
        ]
        self.unused.difference_update(found)
        return bool(found), found[0] if found and self.keyed else None


def listed(names: Sequence[str], near: str) -> str:
    """A few names for an error: all of them, or those nearest to what was asked for.

    >>> listed(["a", "b"], "c")
    'a, b'
    """
    if len(names) <= _SHOWN:
        return ", ".join(names) or "none"
    close = difflib.get_close_matches(near, names, n=3, cutoff=0.3) or list(names[:3])
    return f"{', '.join(close)}, … ({len(names)} in all)"
