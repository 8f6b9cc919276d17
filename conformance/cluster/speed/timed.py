"""Times of one host: the same work again and again, for the comparison with the other hosts (`stragglers.py`)."""

from ...core.settings import Settings, start_jax
from ...faults import cluster as faults
from ...laws.support import call
from . import workload


class Timed:
    """Measures in a child of an agent."""

    def __init__(self, settings: Settings, process: int) -> None:
        self.settings, self.process = settings, process

    def run(self, seconds: float) -> dict[str, list[float]]:
        """Name of a measurement -> seconds of each repetition, measured for about `seconds`."""
        workload.prepare()
        start_jax(self.settings)
        with faults.slower(workload, self.process):
            return workload.measure(call.devices(self.settings), seconds)
