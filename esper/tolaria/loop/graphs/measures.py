"""What a recorded step measures of its arm's seeds: written into the graph's memory, told behind a replay as an eager
step tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from esper.kasmina.executor import TrainingArm
from esper.tolaria.loop.aggregation import Note, Sample

SEED_RMS, HOST_RMS = "seed rms ", "host rms "
"""What names of their outputs' sizes begin with."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Which; false where a step only trains."""

    gradients: bool = False
    """What seeds ask of the gradient: at the step before a boundary."""
    outputs: bool = False
    """How large their outputs are beside the host's: every tenth step."""

    def __bool__(self) -> bool:
        return self.gradients or self.outputs


NOTHING = Measures()


class RecordedMeasures:
    """Of one recording."""

    def __init__(self, arm: TrainingArm, measures: Measures) -> None:
        self._grafts = [graft for graft in arm.grafts if measures.outputs and not graft.is_muted]
        self._samples: list[Sample] = []
        self.note: Note | None = self._samples.append if measures.gradients else None
        """Takes the sample while the step is recorded."""

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Around the recording: seeds keep what they knew, because nothing is computed in it."""
        before = [graft.rms for graft in self._grafts]
        try:
            yield
        finally:
            for graft, known in zip(self._grafts, before, strict=True):
                graft.rms = known

    def values(self) -> dict[str, Tensor]:
        """Of outputs, by name: part of what the recorded step tells."""
        found = {}
        for graft in self._grafts:
            if graft.rms is not None:
                found[SEED_RMS + graft.seed_id], found[HOST_RMS + graft.seed_id] = graft.rms
        return found

    def tell(self, names: tuple[str, ...], row: Tensor, note: Note | None) -> None:
        """What a replay came to: `row` is a copy, and a meter adds up samples into memory of its own."""
        for graft in self._grafts:
            if SEED_RMS + graft.seed_id in names:
                seed, host = (names.index(name + graft.seed_id) for name in (SEED_RMS, HOST_RMS))
                graft.rms = (row[seed], row[host])
        for sample in self._samples:
            if note is not None:
                note(sample)
