#!/usr/bin/env python3
"""Stacks as the product doesn't graft them, trained and judged by the product: arms that a claim about stacks needs.

  interleaved    each copy stands beside its original: 0, 0, 1, 1, ... instead of 0, 1, ..., 0, 1, ...
  zero-output    interleaved, and the copies' output projections are zero: the function is preserved at the graft
  fresh-moments  in order, as the product does, but the optimiser knows nothing of the copies
  useless        zero-output, and those projections never learn: the copies can't ever give anything

python tools/experiments/control_arms.py zero-output -- --data pytext --model transformer --run-dir runs/zero ...

What follows `--` is tolaria-train's command line. A resumed run has its own settings, but its arm is to be given again;
another one is refused. events.jsonl and summary.json name the arm, which esper export and reload don't need.

Zero projections give the layers before them gradients of exactly zero, which pass the graft's proof: it asks whether
the loss reaches a parameter, not whether it moves it. Of frozen parameters it asks nothing, as in any host. Beside a
useless stack the originals learn what the twin learns, so the judge mostly finds no variance and refuses at its first
look; rounding alone (a gradient norm over more parameters) can set the two apart.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.core.errors import ConfigError, GraftFailed
from esper.kasmina.executor.graft import arm as arms
from esper.kasmina.executor.stacks.repeat import arrange, repeat, take_out
from esper.kasmina.executor.stacks.run import Run, blocks_of
from esper.tolaria import launcher
from esper.tolaria import run as training
from esper.tolaria.record.course.events import EventLog
from esper.tolaria.record.course.reading import read_events
from esper.tolaria.record.observer import RunStarted
from esper.tolaria.run_dir import RunOptions, SummaryFile, claim

Copies = list[tuple[str, nn.Module]]

NOTE = "control_arm"
OUTPUTS = r"(^|\.)(attention\.out|mlp\.fc2|mlp\.down|mlp\.3|c_proj|o_proj|down_proj|out_proj|fc2)"
"""Layers that end a branch beside the residual stream: of our decoder, GPT-2, LLaMA and its kin, OPT, torch's ViT."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """How a graft differs from the product's; `outputs` says which layers of a block end a branch."""

    is_interleaved: bool = False
    has_zero_outputs: bool = False
    has_frozen_outputs: bool = False
    has_fresh_moments: bool = False
    outputs: str = OUTPUTS

    def repeat(self, model: nn.Module, optimizer: torch.optim.Optimizer, run: Run) -> Copies:
        """In place of the product's; raises GraftFailed with everything as before."""
        names = self._outputs_of(run.blocks(model)[0]) if self.has_zero_outputs else []
        copies = _interleave(model, optimizer, run) if self.is_interleaved else repeat(model, optimizer, run)
        for _, block in copies:
            if self.has_fresh_moments:
                for parameter in block.parameters():
                    optimizer.state.pop(parameter, None)
            for parameter in (p for name in names for p in block.get_submodule(name).parameters()):
                with torch.no_grad():
                    parameter.zero_()
                parameter.requires_grad_(not self.has_frozen_outputs)
        return copies

    def take_out(self, model: nn.Module, optimizer: torch.optim.Optimizer, run: Run) -> None:
        """The copies leave model and optimiser."""
        if not self.is_interleaved:
            take_out(model, optimizer, run)
            return
        end, count = run.start + 2 * run.depth, len(blocks_of(model, run.path))
        arrange(model, optimizer, run.path, [*range(run.start), *range(run.start, end, 2), *range(end, count)])

    def _outputs_of(self, block: nn.Module) -> list[str]:
        names = [name for name, _ in block.named_modules() if re.search(f"{self.outputs}$", name)]
        if not names:
            known = ", ".join(name for name, _ in block.named_modules() if name)
            raise GraftFailed(f"none of a block's layers ends a branch by its name; say which with --outputs: {known}")
        return names


VARIANTS: Mapping[str, Variant] = {
    "interleaved": Variant(is_interleaved=True),
    "zero-output": Variant(is_interleaved=True, has_zero_outputs=True),
    "fresh-moments": Variant(has_fresh_moments=True),
    "useless": Variant(is_interleaved=True, has_zero_outputs=True, has_frozen_outputs=True),
}


def _interleave(model: nn.Module, optimizer: torch.optim.Optimizer, run: Run) -> Copies:
    count = len(blocks_of(model, run.path))
    twice = [index for index in range(run.start, run.stop) for _ in range(2)]
    arrange(model, optimizer, run.path, [*range(run.start), *twice, *range(run.stop, count)])
    places = range(run.start + 1, run.start + 2 * run.depth, 2)
    return [(f"{run.path}.{place}", blocks_of(model, run.path)[place]) for place in places]


@contextmanager
def grafting(variant: Variant) -> Iterator[None]:
    """Every training arm of this process repeats runs in this way, and undoes it so."""
    with _replaced(arms, "repeat", variant.repeat), _replaced(arms, "take_out", variant.take_out):
        yield


@contextmanager
def named(name: str) -> Iterator[None]:
    """Runs say of which arm they are, and are not gone on with as another."""

    class NamedLog(EventLog):
        def on_start(self, started: RunStarted) -> None:
            super().on_start(started)
            self.write("doubt", step=started.step, name=NOTE, detail=name)

    class NamedSummary(SummaryFile):
        def on_finish(self, summary: Mapping[str, Any]) -> None:
            super().on_finish({**summary, NOTE: name})

    def checked_claim(run_dir: Path, options: RunOptions) -> None:
        if options.resume and (before := arm_of(run_dir)) != name:
            remedy = f"{run_dir} was begun as {before or 'the product grafts'}; go on with it as that"
            raise ConfigError("command line", name, remedy)
        claim(run_dir, options)

    with ExitStack() as stack:
        for what, value in (("EventLog", NamedLog), ("SummaryFile", NamedSummary), ("claim", checked_claim)):
            stack.enter_context(_replaced(training, what, value))
        yield


def arm_of(run_dir: Path) -> str | None:
    """The arm of the run in a directory; None for one of the product's."""
    notes = [event["detail"] for event in read_events(run_dir) if event.get("name") == NOTE]
    return notes[-1] if notes else None


@contextmanager
def _replaced(owner: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def main(argv: Sequence[str]) -> int:
    """Train as tolaria-train does; returns its exit code."""
    own, rest = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument(
        "--outputs", default=OUTPUTS, metavar="PATTERN", help="regular expression for the layers that end a branch"
    )
    options = parser.parse_args(own)
    with grafting(replace(VARIANTS[options.variant], outputs=options.outputs)), named(options.variant):
        return launcher.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
