"""How long what was last heard is believed: long of a run under way, shortly of one that has ended."""

from __future__ import annotations

from collections import OrderedDict

from esper.leyline import TelemetryPacket

SILENT_S, ENDED_S = 600.0, 60.0
STARTED, FINISHED = "tolaria.run_started", "tolaria.run_finished"
MAX_RUNS = 1024


class Patience:
    """Hears of runs that begin and end. Those that ended last are remembered."""

    def __init__(self) -> None:
        self._ended: OrderedDict[str, None] = OrderedDict()

    def hear(self, packet: TelemetryPacket) -> bool:
        """Whether the packet tells that its run has ended."""
        names = {event.name for event in packet.events}
        if STARTED in names:
            self._ended.pop(packet.training_run_id, None)
        if FINISHED not in names:
            return False
        self._ended[packet.training_run_id] = None
        if len(self._ended) > MAX_RUNS:
            self._ended.popitem(last=False)
        return True

    def seconds(self, run: str) -> float:
        """How long a word about the run is believed."""
        return ENDED_S if run in self._ended else SILENT_S
