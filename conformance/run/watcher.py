"""Who is told how a run goes: the runner's side of the screen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from ..judge.outcome import Group
from ..machine.findings import Finding


class Watcher(Protocol):
    """Who is told how the run goes."""

    def begin(self, ids: Sequence[str]) -> None:
        """These checks will be asked."""

    def found(self, findings: Sequence[Finding]) -> None:
        """This is known of the machine before JAX is imported."""

    def rung(self, group: Group) -> None:
        """A line of the ladder is complete."""

    def waiting(self, done: Collection[str], running: Sequence[str]) -> None:
        """Called several times a second, with the checks that are over and those that are being asked."""

    def trying(self, what: str) -> None:
        """Something fell, and this is done to find out what mends it."""
