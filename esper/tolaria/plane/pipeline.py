"""Packets in flight: what packet p caused is executed where packet p + lag is handed over, never earlier or later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from esper.kasmina.executor import Collected
from esper.leyline import AdaptationCommand, SystemStatePacket
from esper.tolaria.record.packet_result import PacketResult, RunStates

if TYPE_CHECKING:
    from esper.tolaria.plane.control import Control


class Flight:
    """What is in flight at one moment; its results are noted as they are executed later, so that nobody waits."""

    def __init__(self, next_packet: int, expected: range, known: Iterable[PacketResult], last: PacketResult | None):
        self.next_packet = next_packet
        self._expected = expected
        self._results = {result.packet_index: result for result in known}
        self._last = last

    @property
    def results(self) -> tuple[PacketResult, ...]:
        """Those that arrived, in order."""
        return tuple(self._results[index] for index in self._expected if index in self._results)

    @property
    def has_arrived(self) -> bool:
        """Whether nothing is in flight any more."""
        return len(self.results) == len(self._expected)

    @property
    def states(self) -> RunStates | None:
        """Both services' after the newest packet; None before all has arrived, and where they could not be had."""
        if not self.has_arrived:
            return None
        newest = self.results[-1] if self._expected else self._last
        return None if newest is None else newest.states

    def note(self, result: PacketResult) -> None:
        """Take a result, if it belongs to that moment."""
        if result.packet_index in self._expected:
            self._results[result.packet_index] = result


class Pipeline:
    """Numbers packets and gives their results in order."""

    def __init__(self, control: Control, lag: int, next_packet: int = 0, arrived: Iterable[PacketResult] = ()) -> None:
        self._control = control
        # Without lag a packet's own result is due as soon as it was handed over.
        self._depth = max(1, lag)
        self._arrived = {result.packet_index: result for result in arrived}
        self.next_packet = next_packet
        self._next_result = next_packet - len(self._arrived)
        self._last_taken: PacketResult | None = None
        self._followed: Flight | None = None

    @property
    def in_flight(self) -> int:
        """Packets whose results were not executed yet."""
        return self.next_packet - self._next_result

    @property
    def is_due(self) -> bool:
        """Whether the oldest result is to be executed now."""
        return self.in_flight >= self._depth

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool, is_last: bool = False
    ) -> None:
        """Send the next packet."""
        self._control.hand_over(packet, collected, want_state=want_state, is_last=is_last)
        self.next_packet += 1

    def is_replayed(self, command_id: str) -> bool:
        """Whether a resume replays that command."""
        return command_id in self._control.replayed

    def order(self, command: AdaptationCommand) -> None:
        """Send an order of the plane's with the next packet."""
        self._control.order(command)

    def take(self) -> PacketResult:
        """The oldest result; waits for it up to the deadline."""
        index = self._next_result
        result = self._arrived.pop(index, None) or self._control.take(index)
        self._next_result += 1
        self._last_taken = result
        if self._followed is not None:
            self._followed.note(result)
        return result

    def follow(self) -> Flight:
        """What is in flight now; of two moments that are followed the newer one alone learns what comes."""
        expected = range(self._next_result, self.next_packet)
        known = [result for index, result in self._arrived.items() if index in expected]
        self._followed = Flight(self.next_packet, expected, known, self._last_taken)
        return self._followed

    def settle(self) -> tuple[tuple[PacketResult, ...], RunStates | None]:
        """Wait for everything in flight without executing it; the states are those after the newest packet."""
        for index in range(self._next_result, self.next_packet):
            if index not in self._arrived:
                self._arrived[index] = self._control.take(index)
        results = tuple(self._arrived[index] for index in range(self._next_result, self.next_packet))
        newest = results[-1] if results else self._last_taken
        return results, None if newest is None else newest.states
