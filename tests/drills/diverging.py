"""The launcher with a network that breaks down at one step, as long as it learns at its full rate. Run as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from esper.tolaria.launcher import main
from esper.tolaria.loop.step import Stepper

DIVERGES_AT = 500


def diverging(run: Callable[..., Any]) -> Callable[..., Any]:
    """The step, with weights that are lost just before it as long as no rollback has lowered the rate."""

    def step(self: Stepper, arm: Any, batch: Any, step: int, *rest: Any, **options: Any) -> Any:
        if step == DIVERGES_AT and arm.scheduler.factor == 1.0:
            next(iter(arm.model.parameters())).data.fill_(float("nan"))
        return run(self, arm, batch, step, *rest, **options)

    return step


if __name__ == "__main__":
    Stepper.run = diverging(Stepper.run)  # type: ignore[method-assign]
    raise SystemExit(main())
