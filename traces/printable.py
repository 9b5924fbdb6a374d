"""Text from a trace as a terminal may show it, and sizes in words."""

from __future__ import annotations

import re

# control characters, what turns the direction of writing, and halves of characters
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with what would move a cursor, or cannot be written, as escapes.

    >>> print(printable("a\x1b[2Jb\nc"))
    a\x1b[2Jb\nc
    >>> printable("blocks.0[q] · 3 × 4")
    'blocks.0[q] · 3 × 4'
    """
    return _UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def size_in_words(size: int) -> str:
    """Bytes in the unit that suits them.

    >>> [size_in_words(size) for size in (940, 93_210, 345_000_000, 2 << 30)]
    ['1 kB', '93 kB', '0.3 GB', '2.1 GB']
    """
    for unit, step in (("GB", 1e9), ("MB", 1e6)):
        if size >= 0.1 * step:
            return f"{size / step:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"
