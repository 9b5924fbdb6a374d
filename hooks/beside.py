"""What reads the trace beside the run that writes it: the rules' findings, and the sinks."""

from __future__ import annotations

from dataclasses import dataclass

from optgeom.hooks.findings import Findings
from optgeom.hooks.sinks.following import Following


@dataclass(frozen=True, slots=True)
class Beside:
    """Both, on threads of their own.

    Attributes:
        findings: looks for what goes wrong.
        following: sends numbers to where teams look.
    """

    findings: Findings
    following: Following

    @property
    def seconds(self) -> float:
        """Of a processor, so far."""
        return self.findings.seconds + self.following.seconds

    def look(self, step: int) -> None:
        """A step was captured.

        Args:
            step: that was captured.
        """
        self.findings.look(step)
        self.following.look(step)
