"""The interface by which a run reports its progress; the terminal's screen implements this interface."""

from collections.abc import Collection, Sequence
from typing import Protocol

from ..judge.outcome import Group
from ..machine.findings import Finding


class Progress(Protocol):
    """Receives the progress of a run."""

    def begin(self, ids: Sequence[str]) -> None:
        """The run begins; `ids` are its checks."""

    def findings(self, findings: Sequence[Finding]) -> None:
        """These problems of the machine were found before JAX was imported."""

    def rung(self, group: Group) -> None:
        """All checks of a rung have ended, for the machine or for one trainer."""

    def waiting(self, done: Collection[str], running: Sequence[str]) -> None:
        """Called several times a second, with the ids of ended checks and the names of running ones."""

    def trying(self, what: str) -> None:
        """Failed checks are being rerun to look for a setting that fixes them; `what` says which rerun begins."""
