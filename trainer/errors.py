"""What the trainer raises at its users.

ConfigError(OptgeomError)      a setting that cannot work, or a corpus too short for it
"""

from __future__ import annotations

from optgeom.traces.errors import OptgeomError


class ConfigError(OptgeomError):
    """A run was asked for that cannot work; the message names the setting and the way out."""
