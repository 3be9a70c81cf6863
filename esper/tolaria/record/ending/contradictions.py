"""Whether a finished run's network is the one that was told of: each figure from the network and from the record.

The network that is tested, saved and exported must be the one that was judged. Nothing is corrected here; what
differs is an error, in words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from esper.kasmina.executor import SeedExecutor
from esper.leyline import SeedStage, SeedState
from esper.tolaria.record.history import History

Figures = tuple[float, float | None]
# How far two evaluations of one network may lie apart where its sums may take any order.
CLOSE = 0.01


def contradictions(
    executor: SeedExecutor,
    history: History,
    host_parameters: int,
    validations: tuple[Figures | None, Figures],
    *,
    is_exact: bool = True,
) -> list[str]:
    """What doesn't agree; empty for a run that tells the truth. `validations` are the last one told and the present.

    Not `is_exact`: the same evaluation need not give the same bits.
    """
    kept = [seed for seed in history.seeds.values() if seed.stage == SeedStage.SEED_STAGE_FOSSILIZED]
    staying = [history.seeds[seed_id] for seed_id in history.unjudged if seed_id in history.seeds]
    return [
        *_of_validation(*validations, is_exact=is_exact),
        *_of_counts(executor, kept, staying, history.growth.kept),
        *_of_parameters(executor, host_parameters, [*kept, *staying]),
    ]


def _of_validation(told: Figures | None, present: Figures, *, is_exact: bool) -> Iterator[str]:
    if told is not None and not (told == present if is_exact else _are_close(told, present)):
        yield f"the last validation gave {_figures(told)}, the network that is saved gives {_figures(present)}"


def _of_counts(
    executor: SeedExecutor, kept: Sequence[SeedState], staying: Sequence[SeedState], told: int
) -> Iterator[str]:
    if told != len(kept):
        yield f"{told} seeds are counted as kept, {len(kept)} are told as permanent"
    recorded = Counter(seed.slot_id for seed in (*kept, *staying))
    for slot_id in sorted(recorded.keys() | executor.fossils.keys()):
        there = executor.fossils.get(slot_id, 0)
        if there != recorded[slot_id]:
            yield f"slot {slot_id} holds {there} permanent seeds, {recorded[slot_id]} are told"
    missing = set(executor.seeds) - {seed.seed_id for seed in (*kept, *staying)}
    if missing:
        yield f"the network holds seeds that nobody kept: {', '.join(sorted(missing))}"


def _of_parameters(executor: SeedExecutor, host_parameters: int, seeds: Sequence[SeedState]) -> Iterator[str]:
    there = executor.arm.parameter_count()
    told = host_parameters + sum(seed.parameters for seed in seeds)
    if there != told:
        yield f"the network has {there:,} parameters, the host and the kept seeds have {told:,}"


def _are_close(told: Figures, present: Figures) -> bool:
    (loss, share), (other_loss, other_share) = told, present
    is_near = share is None or other_share is None or abs(share - other_share) <= CLOSE
    return is_near and math.isclose(loss, other_loss, rel_tol=CLOSE)


def _figures(figures: Figures) -> str:
    loss, accuracy = figures
    return f"loss {loss:.6g}" + ("" if accuracy is None else f" and accuracy {accuracy:.2%}")
