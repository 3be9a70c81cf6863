"""One control plane for many ranks: the first one talks to it, and all hear the same results at the same boundaries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from esper.core.errors import DependencyViolationError, EsperError
from esper.kasmina.executor import Collected
from esper.leyline import AdaptationCommand, ModeUpdate, RunStateBlob, SystemStatePacket
from esper.tolaria.plane.open_control import OpenControl, Opening
from esper.tolaria.ranks.group import Ranks
from esper.tolaria.record.packet_result import PacketResult, RunStates

if TYPE_CHECKING:
    from esper.tolaria.plane.control import Control

# What other ranks know of the services' states: that they are there, so that all save at the same boundary.
ELSEWHERE = RunStates(kasmina=RunStateBlob(), tamiyo=RunStateBlob())
YES, NO = b"+", b"-"


class ToldControl:
    """The first rank's: what it takes, all take."""

    def __init__(self, control: Control, ranks: Ranks) -> None:
        self._control = control
        self._ranks = ranks
        self.policy_digest = control.policy_digest
        self.replayed = control.replayed

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        self._control.hand_over(packet, collected, want_state=want_state, is_last=is_last)

    def order(self, command: AdaptationCommand) -> None:
        self._control.order(command)

    def take(self, packet_index: int) -> PacketResult:
        result = self._control.take(packet_index)
        self._ranks.told((NO if result.states is None else YES) + result.to_bytes())
        return result

    def close(self) -> None:
        self._control.close()


class HeardControl:
    """Another rank's: evidence and orders are the first one's to give."""

    def __init__(self, ranks: Ranks, policy_digest: str | None, replayed: frozenset[str]) -> None:
        self.policy_digest = policy_digest
        self.replayed = replayed
        self._ranks = ranks

    def hand_over(
        self, packet: SystemStatePacket, collected: Collected, *, want_state: bool = False, is_last: bool = False
    ) -> None:
        """The first rank does."""

    def order(self, command: AdaptationCommand) -> None:
        """The first rank does."""

    def take(self, packet_index: int) -> PacketResult:
        content = self._ranks.told(b"")
        result = PacketResult.from_bytes(content[1:])
        return replace(result, states=ELSEWHERE) if content[:1] == YES else result

    def close(self) -> None:
        """There is nothing to let go of."""


def telling(open_control: OpenControl, ranks: Ranks) -> OpenControl:
    """Opens the control plane, and tells the other ranks of it."""

    def open_told(opening: Opening) -> Control:
        control = open_control(opening)
        if ranks.count == 1:
            return control
        ranks.told(json.dumps([control.policy_digest, sorted(control.replayed)]).encode())
        return ToldControl(control, ranks)

    return open_told


def hearing(ranks: Ranks) -> OpenControl:
    """Hears of the control plane that the first rank opens."""

    def open_heard(opening: Opening) -> Control:
        policy_digest, replayed = json.loads(ranks.told(b""))
        return HeardControl(ranks, policy_digest, frozenset(replayed))

    return open_heard


def told_mode(heard: Callable[[], ModeUpdate], ranks: Ranks) -> Callable[[], ModeUpdate]:
    """The plane's mode as the first rank has heard it, whenever all ask."""
    if ranks.count == 1:
        return heard
    return lambda: ModeUpdate.FromString(ranks.told(heard().SerializeToString(deterministic=True)))


def told_artifact(fetch: Callable[[str], bytes], ranks: Ranks) -> Callable[[str], bytes]:
    """An artefact that the first rank fetches for all; where it can't, all fail alike."""

    def fetched(digest: str) -> bytes:
        answer = ranks.told(_fetched(fetch, digest) if ranks.is_first else b"")
        if answer[:1] == NO:
            raise DependencyViolationError("tolaria", "artefact", digest, answer[1:].decode())
        return answer[1:]

    return fetch if ranks.count == 1 else fetched


def _fetched(fetch: Callable[[str], bytes], digest: str) -> bytes:
    try:
        return YES + fetch(digest)
    except EsperError as error:
        return NO + str(error).encode()
