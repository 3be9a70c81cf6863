"""One network's row: every column tried on its own, so that one refusal hides nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from esper.core.errors import EsperError
from esper.kasmina.executor.pretrained.regroup import REMEDY
from esper.leyline import SlotSpec
from tests.zoo.network import Network
from tests.zoo.trial import ROUNDS, RefusedError, Slots, Trial

YES, NO, NONE = "yes", "no", "–"
LOADER = "loader"
PROGRAM, WEIGHTS, FOLDER = "program", "weights", "folder"


@dataclass(slots=True)
class Row:
    """What came of a network: yes, no, or that there was nothing to try; reasons stand in `notes` by column."""

    name: str
    family: str
    is_fed: bool = False
    """By loaders, with mappings."""
    slots: str = NONE
    """Foldable spans of all spans, attentions that take heads, residual slots, runs of blocks."""
    clone: str = NONE
    """A copy computes and learns as the network does, and neither reaches the other."""
    graft: str = NONE
    """Largest change of an output by any graft of a span, of heads or of a residual seed."""
    trains: str = NONE
    """The loss falls within a few steps with the first seed."""
    folds: str = NONE
    """A span's seed became part of its layers; `loader` where only a network that is loaded by one may grow so."""
    heads: str = NONE
    """Heads became part of their attention; `loader` as above."""
    module: str = NONE
    """A seed stayed as a module of its own."""
    stacks: str = NONE
    """A run of blocks was doubled; each copy ran as often as its original and got a gradient."""
    resume: str = NONE
    """A network that is built anew goes on from a checkpoint bit for bit, grafted with its twin, and grown for good."""
    export: str = NONE
    """A file that was proven: a program of plain PyTorch, the weights alone, or a folder of the network's library."""
    notes: dict[str, str] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)
    """Columns whose trial ended in an error that isn't the product's own."""

    @property
    def is_grown(self) -> bool:
        """Whether it took a seed into its own layers, or copies of its own blocks."""
        return YES in (self.folds, self.heads, self.stacks)


def row_of(network: Network, scratch: Path, *, exports: bool = True) -> Row:
    """Everything tried with a network; its files go under `scratch`. The proof of an export takes a process."""
    row = Row(network.name, network.family, is_fed=bool(network.fed))
    with _cell(row, "slots"):
        trial = Trial(network, scratch)
        slots = trial.slots()
        _count(row, slots)
        with _cell(row, "clone"):
            trial.copies()
            row.clone = YES
        _grown(row, trial.again(), slots, exports=exports)
        if slots.stacks:
            with _cell(row, "stacks"):
                _double(trial.again(), slots.stacks[0])
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
    spans = f"{len(slots.foldable)}/{len(slots.spans)}"
    row.slots = f"{spans} + {len(slots.heads)} + {len(slots.residuals)} + {len(slots.stacks)}"


def _grown(row: Row, trial: Trial, slots: Slots, *, exports: bool) -> None:
    """A span, heads and a residual seed, one after the other in one network."""
    trial.train(2)
    is_folder = bool(trial.network.fed)
    _grow(row, trial, "folds", slots.foldable or ([] if REMEDY in trial.left_out("folds") else slots.spans))
    _grow(row, trial, "heads", slots.heads)
    if exports and is_folder:
        with _cell(row, "export"):
            _save(row, trial)
    _grow(row, trial, "module", slots.residuals)
    with _cell(row, "resume"):
        _resume(row, trial)
    if exports and not is_folder:
        with _cell(row, "export"):
            _export(row, trial)


def _grow(row: Row, trial: Trial, column: str, slots: Sequence[SlotSpec]) -> None:
    """In the first of the slots; where there is none, what was left out is told."""
    for slot in slots[:1]:
        with _cell(row, column):
            _grow_in(row, trial, slot, column)
    if not slots and (reason := trial.left_out(column)):
        setattr(row, column, NO)
        row.notes[column] = reason
        if REMEDY in reason:
            with _cell(row, column):
                _grow_with_loader(row, trial.with_loader(), column)


def _grow_with_loader(row: Row, trial: Trial, column: str) -> None:
    """The same in a network that may take what its configuration can't say."""
    found = trial.slots()
    slot = (found.foldable if column == "folds" else found.heads)[0]
    trial = trial.again()
    trial.train(2)
    trial.graft(slot, "loaded")
    trial.train()
    if trial.keep("loaded").folded:
        setattr(row, column, LOADER)


def _grow_in(row: Row, trial: Trial, slot: SlotSpec, column: str) -> None:
    seed_id = f"s{slot.order}"
    delta = trial.graft(slot, seed_id)
    row.figures["graft"] = max(delta, row.figures.get("graft", 0.0))
    row.graft = f"{row.figures['graft']:.0e}" if row.figures["graft"] else "0"
    if row.trains == NONE:
        with _cell(row, "trains"):
            _train(row, trial)
        with _cell(row, "resume"):
            _resume(row, trial)
    else:
        trial.train()
    kept = trial.keep(seed_id)
    if kept.folded:
        setattr(row, column, YES)
        row.figures[column] = kept.max_logit_delta
    else:
        setattr(row, column, NO)
        row.module = YES
    if not kept.folded and column != "module":
        row.notes[column] = kept.failure
    trial.train(2)


def _train(row: Row, trial: Trial) -> None:
    before = after = trial.loss()
    for _ in range(ROUNDS):
        trial.train()
        after = trial.loss()
        if after < before:
            break
    row.figures["loss before"], row.figures["loss after"] = before, after
    row.trains = YES if after < before else NO
    if after >= before:
        row.notes["trains"] = f"the loss went from {before:.4g} to {after:.4g}"


def _resume(row: Row, trial: Trial) -> None:
    again = trial.again()
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


def _save(row: Row, trial: Trial) -> None:
    difference = trial.folder()
    row.export = FOLDER if difference == 0.0 else NO
    if difference:
        row.notes["export"] = f"what from_pretrained builds gives outputs that differ by {difference:.1e}"


def _double(trial: Trial, slot: SlotSpec) -> None:
    trial.train(2)
    trial.graft(slot, "deeper")
    trial.train(2)
    trial.drop_twin("deeper")
    trial.train(2)
