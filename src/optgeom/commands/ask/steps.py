"""The steps that a command line names."""

from __future__ import annotations

import click


def steps_of(text: str | None) -> int | slice | None:
    """The steps of FROM:TO, FROM:TO:EVERY or of a single number.

    Raises:
        click.UsageError: the text is none of these.

    >>> steps_of("100:400"), steps_of("300"), steps_of(None)
    (slice(100, 400, None), 300, None)
    """
    if text is None:
        return None
    try:
        parts = [int(part) if part else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None:
        return parts[0]
    if len(parts) not in (2, 3) or parts[2:] == [0]:
        raise click.UsageError(f"--steps takes FROM:TO or a step, such as 100:400, got {text!r}")
    return slice(*parts)
