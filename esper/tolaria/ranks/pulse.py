"""Signs of life: each rank says again and again that it is there and how far it is, so that a lost one can be named.

They go by torch's key-value store and not by the process group, which fails as a whole and tells nobody why.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Any

from torch.distributed.distributed_c10d import Store

from esper.core.errors import RankLost
from esper.tolaria.ranks.place import named

PERIOD_S = 0.5
PATIENCE_S = 2.0
"""How long a rank may give no sign until it counts as gone."""


class Pulse:
    """This rank's signs, and a reader of the others'."""

    def __init__(self, store: Store, rank: int, count: int) -> None:
        self.calls = 0
        """Collectives that this rank has begun."""
        self._store = store
        self._rank, self._count = rank, count
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def end(self, cause: str = "", silent: tuple[int, ...] = ()) -> None:
        """The last sign: why this rank leaves, or which ranks it has lost."""
        self._ended.set()
        self._put(f"end/{self._rank}", {"cause": cause, "silent": list(silent)})
        self._thread.join(PATIENCE_S)

    def has_told(self, rank: int, cause: str) -> bool:
        """Whether a rank leaves, or soon does, for the same cause."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if (end := self._get(f"end/{rank}")) is not None:
                return str(end["cause"]).startswith(cause)
            time.sleep(PERIOD_S / 10)
        return False

    def lost(self, error: Exception) -> RankLost:
        """Who it was, after a collective has failed."""
        first, began = self._signs(), time.monotonic()
        while time.monotonic() - began < PATIENCE_S:
            if (found := self._ends()) is not None:
                return found
            time.sleep(PERIOD_S / 10)
        last = self._signs()
        silent = [rank for rank in self._others if last[rank] is None or last[rank] == first[rank]]
        if silent:
            what = "gives" if len(silent) == 1 else "give"
            return RankLost(f"{named(silent)} {what} no sign of life{_RESUME}", silent)
        late = [rank for rank in self._others if int(last[rank]["calls"]) < self.calls]  # type: ignore[index]
        if late:
            return RankLost(f"{named(late)} did not keep up: the others waited for as long as they may{_RESUME}")
        return RankLost(f"a collective failed though all ranks are there: {error}{_RESUME}")

    @property
    def _others(self) -> list[int]:
        return [rank for rank in range(self._count) if rank != self._rank]

    def _ends(self) -> RankLost | None:
        """What a rank that has left says, or whom one has lost that left for that."""
        ends = {rank: end for rank in self._others if (end := self._get(f"end/{rank}")) is not None}
        silent = sorted({lost for end in ends.values() for lost in end["silent"]})
        causes = [f"rank {rank} ended: {end['cause']}" for rank, end in ends.items() if not end["silent"]]
        if causes:
            return RankLost("; ".join(causes) + _RESUME)
        return RankLost(f"{named(silent)} gave no sign of life{_RESUME}", silent) if silent else None

    def _signs(self) -> list[dict[str, Any] | None]:
        return [self._get(f"pulse/{rank}") for rank in range(self._count)]

    def _beat(self) -> None:
        while not self._ended.is_set():
            self._beats += 1
            try:
                self._store.set(f"pulse/{self._rank}", json.dumps({"beats": self._beats, "calls": self.calls}))
            except RuntimeError:
                return  # whoever kept the store is gone, as the next collective will find
            self._ended.wait(PERIOD_S)

    def _put(self, name: str, value: dict[str, Any]) -> None:
        try:
            self._store.set(name, json.dumps(value))
        except RuntimeError:
            return

    def _get(self, name: str) -> dict[str, Any] | None:
        """What stands there; None where nothing does, or nobody keeps the store any more."""
        try:
            found = json.loads(self._store.get(name)) if self._store.check([name]) else None
        except RuntimeError:
            return None
        return found


_RESUME = "; the newest checkpoint stands: go on with --resume"
