"""A growing run with services of its own, watched: what every scenario that trains is made of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from esper.core.errors import EsperError
from esper.tolaria.config import TrainConfig
from esper.tolaria.record.observer import Observer
from esper.tolaria.run import Interruption, grow
from esper.tolaria.run_dir import RunOptions, occupied
from esper.tolaria.task.prepare import Prepared
from tools.harness.meter import Meter
from tools.harness.packets import Packet, arrived, names_of, unexpected


@dataclass(frozen=True, kw_only=True, slots=True)
class Lived:
    """A run that is over."""

    meter: Meter
    packets: list[Packet]
    summary: dict[str, Any] | None
    """None for a run that ended by `error`."""
    error: EsperError | None = None
    failures: list[str] = field(default_factory=list)


def live(
    configure: Callable[[Path], TrainConfig],
    *further: Observer,
    expected: Collection[str] = (),
    tolerated: Collection[str] = (),
    ends_by: type[EsperError] | None = None,
    shown: Sequence[Callable[[Prepared], None]] = (),
    beside_bare: bool = True,
) -> Lived:
    """Train to the end, or to an error of the kind that is expected.

    `expected` names the events of WARNING or worse that must come, `tolerated` those that may. `shown` is given what is
    trained before it starts; without `beside_bare` no bare loop takes turns with it.
    """
    meter, interruption, error, summary = Meter(beside_bare=beside_bare), Interruption(), None, None

    def note(run: Prepared) -> None:
        for look in (meter.prepared, *shown):
            look(run)

    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        run_dir = Path(folder) / "run"
        with occupied(run_dir):
            try:
                options = RunOptions(tensorboard=False)
                summary = grow(configure(run_dir), options, [meter, *further], interruption, note=note)
            except EsperError as caught:
                if ends_by is None or not isinstance(caught, ends_by):
                    raise
                error = caught
        interruption.pass_on()
        packets = arrived(run_dir)
    failures = list(unexpected(packets, {*expected, *tolerated}))
    failures += [f"{name} was expected and didn't come" for name in sorted(set(expected) - names_of(packets))]
    if ends_by is not None and error is None:
        failures.append(f"the run was expected to end by {ends_by.__name__}, and went to its end")
    if not meter.seeds:
        failures.append("no seed was in the host: give more epochs, or a smaller batch")
    return Lived(meter=meter, packets=packets, summary=summary, error=error, failures=failures)
