"""Text from a trace as a terminal may show it."""

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
