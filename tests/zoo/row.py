"""One network's row: every column tried on its own, so that one refusal hides nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from esper.core.errors import EsperError
from esper.leyline import SlotSpec
from esper.tolaria.config import TrainConfig
from tests.zoo.network import Network
from tests.zoo.trial import RefusedError, Slots, Trial, config_of

YES, NO, NONE = "yes", "no", "–"
PROGRAM, WEIGHTS = "program", "weights"


@dataclass(slots=True)
class Row:
    """What came of a network: yes, no, or that there was nothing to try; reasons stand in `notes` by column."""

    name: str
    family: str
    slots: str = NONE
    """Foldable spans of all spans, residual slots, runs of blocks."""
    clone: str = NONE
    """A copy computes and learns as the network does, and neither reaches the other."""
    graft: str = NONE
    """Largest change of an output by any graft of a span or of a residual seed."""
    trains: str = NONE
    """The loss falls over a few steps with the seed."""
    folds: str = NONE
    """A span's seed became part of its layers."""
    module: str = NONE
    """A seed stayed as a module of its own."""
    stacks: str = NONE
    """A run of blocks was doubled; each copy ran once and got a gradient."""
    resume: str = NONE
    """A network that is built anew goes on from a checkpoint bit for bit, grafted with its twin, and grown for good."""
    export: str = NONE
    """A file that was proven: a program of plain PyTorch, or the weights alone."""
    notes: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)
    """Columns whose trial ended in an error that isn't the product's own."""

    @property
    def is_grown(self) -> bool:
        """Whether it took a seed into its own layers, or copies of its own blocks."""
        return YES in (self.folds, self.stacks)


def row_of(network: Network, scratch: Path, *, exports: bool = True) -> Row:
    """Everything tried with a network; its files go under `scratch`. The proof of an export takes a process."""
    row, config = Row(network.name, network.family), config_of(network, scratch)
    with _cell(row, "slots"):
        slots = Trial(config).slots()
        _count(row, slots)
        with _cell(row, "clone"):
            Trial(config).copies()
            row.clone = YES
        trial = _grown(row, config, slots)
        if exports:
            with _cell(row, "export"):
                _export(row, trial)
        if slots.stacks:
            with _cell(row, "stacks"):
                _double(config, slots.stacks[0])
                row.stacks = YES
    return row


@contextmanager
def _cell(row: Row, column: str) -> Iterator[None]:
    """What fails inside is that column's no, with the reason."""
    try:
        yield
    except (EsperError, RefusedError) as error:
        setattr(row, column, NO)
        row.notes[column] = getattr(error, "remedy", str(error))
    except Exception as error:  # noqa: BLE001 - the zoo finds what is raised
        setattr(row, column, NO)
        row.notes[column] = f"{type(error).__name__}: {error}"
        row.crashes.append(column)


def _count(row: Row, slots: Slots) -> None:
    row.slots = f"{len(slots.foldable)}/{len(slots.spans)} + {len(slots.residuals)} + {len(slots.stacks)}"


def _grown(row: Row, config: TrainConfig, slots: Slots) -> Trial:
    """A span and a residual seed, one after the other in one network."""
    trial = Trial(config)
    trial.train(2)
    for slot in [*(slots.foldable or slots.spans)[:1], *slots.residuals[:1]]:
        with _cell(row, "module" if slot in slots.residuals else "folds"):
            _grow_in(row, trial, slot, f"s{slot.order}", is_span=slot not in slots.residuals)
    with _cell(row, "resume"):
        _resume(row, trial)
    return trial


def _grow_in(row: Row, trial: Trial, slot: SlotSpec, seed_id: str, *, is_span: bool) -> None:
    delta = trial.graft(slot, seed_id)
    row.figures["graft"] = max(delta, row.figures.get("graft", 0.0))
    row.graft = f"{row.figures['graft']:.0e}" if row.figures["graft"] else "0"
    with _cell(row, "trains"):
        _train(row, trial)
    with _cell(row, "resume"):
        _resume(row, trial)
    kept = trial.keep(seed_id)
    if kept.folded:
        row.folds, row.figures["fold"] = YES, kept.max_logit_delta
    elif is_span:
        row.folds, row.module = NO, YES
        row.notes["folds"] = kept.failure
    else:
        row.module = YES
    trial.train(2)


def _train(row: Row, trial: Trial) -> None:
    before = trial.loss()
    trial.train()
    after = trial.loss()
    row.figures["loss before"], row.figures["loss after"] = before, after
    row.trains = YES if after < before and row.trains != NO else NO
    if after >= before:
        row.notes["trains"] = f"the loss went from {before:.4g} to {after:.4g}"


def _resume(row: Row, trial: Trial) -> None:
    again = Trial(trial.config)
    again.restore(trial.saved())
    for each in (trial, again):
        each.train(1)
    is_equal = trial.digests() == again.digests()
    row.resume = YES if is_equal and row.resume != NO else NO
    if not is_equal:
        row.notes["resume"] = "the next step ends in other weights"


def _export(row: Row, trial: Trial) -> None:
    exported = trial.export()
    row.export = PROGRAM if exported.path.suffix == ".pt2" else WEIGHTS
    if row.export == WEIGHTS:
        row.notes["export"] = exported.what


def _double(config: TrainConfig, slot: SlotSpec) -> None:
    trial = Trial(config)
    trial.train(2)
    trial.graft(slot, "deeper")
    trial.train(2)
    trial.drop_twin("deeper")
    trial.train(2)
