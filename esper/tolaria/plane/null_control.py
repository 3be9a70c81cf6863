"""A control plane that never grows anything, for baselines, static networks, and where growth is over."""

from __future__ import annotations

from esper.kasmina.executor import Collected
from esper.leyline import AdaptationCommand, RunStateBlob, SystemStatePacket
from esper.tolaria.record.packet_result import PacketResult, RunStates


class NullControl:
    """Answers every packet at once, with nothing to do; what grew before it stays as it was."""

    policy_digest: str | None = None
    replayed: frozenset[str] = frozenset()

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        """Nothing is sent anywhere."""

    def order(self, command: AdaptationCommand) -> None:
        """Nothing grows."""

    def take(self, packet_index: int) -> PacketResult:
        empty = RunStateBlob(state_type="", state=b"", digest="", step=0)
        states = RunStates(kasmina=empty, tamiyo=empty)
        return PacketResult(packet_index=packet_index, states=states)

    def close(self) -> None:
        """Nothing is open."""
