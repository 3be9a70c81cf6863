"""What a network goes through: the trainer's own preparation, steps, checkpoints and export, the executor's own grafts.

Directives are those of the control plane, given by hand so that every network gets the same: a span that is folded, a
seed that stays as a module, a run of blocks that is doubled. Nothing here does what the product does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.core.clock import SYSTEM_CLOCK
from esper.kasmina.executor.fold.export import plain
from esper.leyline import DirectiveReport, SeedDirective, SlotKind, SlotSpec
from esper.tolaria.config import TrainConfig
from esper.tolaria.door.data import feed_of
from esper.tolaria.door.settings import named
from esper.tolaria.export.network import Network as Exportable
from esper.tolaria.export.writing import Exported, write
from esper.tolaria.loop.arm_steps import ArmSteps
from esper.tolaria.loop.session import Session
from esper.tolaria.plane.hardware import HardwareMeter
from esper.tolaria.plane.packets import PacketBuilder
from esper.tolaria.record.observer import Observers
from esper.tolaria.record.progress import Progress
from esper.tolaria.record.signals import Signals
from esper.tolaria.recovery.checkpoint import decode, encode_proven
from esper.tolaria.task.data import Splits
from esper.tolaria.task.given import Given
from esper.tolaria.task.objective.task import evaluate
from esper.tolaria.task.prepare import Prepared, prepare
from esper.tolaria.trial import try_host, try_stacks
from tests.unit.tolaria.scripted_control import directive, fetch_artifact, germination
from tests.zoo.network import Network
from tests.zoo.zoo import slug

WIDTH, STEPS, ROUNDS = 4, 12, 5
BLUEPRINTS = {
    SlotKind.SLOT_KIND_SPAN_LINEAR: "span.linear",
    SlotKind.SLOT_KIND_SPAN_CONV: "span.conv",
    SlotKind.SLOT_KIND_SPAN_CONV_LINEAR: "span.conv",
    SlotKind.SLOT_KIND_SPAN_HEADS: "span.heads",
    SlotKind.SLOT_KIND_RESIDUAL_LINEAR: "residual.linear",
    SlotKind.SLOT_KIND_RESIDUAL_CONV: "residual.conv",
    SlotKind.SLOT_KIND_STACK: "stack.double",
}
RESIDUAL = (SlotKind.SLOT_KIND_RESIDUAL_LINEAR, SlotKind.SLOT_KIND_RESIDUAL_CONV)
LEFT_OUT = {"folds": ("span_linear:", "span_conv"), "heads": ("span_heads:", " takes no more heads: ")}
"""What the lines that tell of them have in them."""


class RefusedError(Exception):
    """The executor refused a directive, with its reason."""


def config_of(network: Network, scratch: Path, config_widths: str) -> TrainConfig:
    name = f"tests.zoo.zoo:{slug(network.name)}"
    named_parts = {} if network.fed else {"data": name, "model": f"{name}.model"}
    return TrainConfig(
        **named_parts,
        batch_size=16,
        steps=200,
        schedule="constant",
        warmup_steps=0,
        lr=3e-3,
        min_samples=8,
        min_documents=2,
        run_dir=scratch / slug(network.name),
        config_widths=config_widths,
    )


def prepared(network: Network, config: TrainConfig) -> Prepared:
    """As the launcher does it, or `esper.train` with a network that is fed by loaders."""
    if not network.fed:
        return prepare(config, fetch_artifact)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = network.build()
    data = network.datasets(config.seed)
    settings = named(config, model=model, data=data)
    return prepare(settings, fetch_artifact, Given(model=model, feed=feed_of(data, settings)))


@dataclass(frozen=True, slots=True)
class Slots:
    """The places that a network offers."""

    spans: Sequence[SlotSpec]
    heads: Sequence[SlotSpec]
    residuals: Sequence[SlotSpec]
    stacks: Sequence[SlotSpec]

    @property
    def foldable(self) -> list[SlotSpec]:
        return [slot for slot in self.spans if slot.is_foldable]


class Trial:
    """One prepared run of a network, its steps made and its seeds ordered by hand."""

    def __init__(self, network: Network, scratch: Path, config_widths: str = "refuse") -> None:
        self.network, self.scratch = network, scratch
        self.config = config = config_of(network, scratch, config_widths)
        self.run = prepared(network, config)
        self._session = Session(
            run=self.run,
            progress=Progress(signals=Signals(config.smoothing)),
            packets=PacketBuilder(self.run.run_id, HardwareMeter(self.run.device, config.threads, SYSTEM_CLOCK)),
            observer=Observers(),
            clock=SYSTEM_CLOCK,
        )
        self._steps = ArmSteps(self._session)

    def slots(self) -> Slots:
        """Stacks are those that were repeated once, on a copy. Raises ConfigError where a network has none at all."""
        try_stacks(self.run)
        found = list(self.run.manifest().slots)
        stacks = [slot for slot in found if slot.kind == SlotKind.SLOT_KIND_STACK]
        residuals = [slot for slot in found if slot.kind in RESIDUAL]
        heads = [slot for slot in found if slot.kind == SlotKind.SLOT_KIND_SPAN_HEADS]
        spans = [slot for slot in found if slot not in (*stacks, *residuals, *heads)]
        return Slots(spans, heads, residuals, stacks)

    def left_out(self, column: str) -> str:
        """Why no span or heads are offered; empty where nothing was left out."""
        executor, marks = self.run.executor, LEFT_OUT.get(column, ())
        seen = [line for line in executor.places.unseen if any(mark in line for mark in marks)]
        return next(iter([*seen, *(self._unseen_blocks() if column == "folds" else [])]), "")

    def _unseen_blocks(self) -> list[str]:
        """Why no span was seen in the blocks of a list: one that runs again, or that can't be looked into."""
        again = [line for line in self.run.executor.places.refused_runs if "times in a forward pass" in line]
        return [*again, *(line for line in self.run.executor.places.unseen if re.match(r"\S+\.\d+ \(", line))]

    def again(self) -> Trial:
        """The same run from its beginning, by a network that is built anew."""
        return Trial(self.network, self.scratch, self.config.config_widths)

    def with_loader(self) -> Trial:
        """One in which a network may take widths that its configuration can't say."""
        return Trial(self.network, self.scratch, "loader")

    def copies(self) -> None:
        """Copies compute and learn as the network does. Raises ConfigError."""
        try_host(self.run)

    def train(self, steps: int = STEPS) -> None:
        for _ in range(steps):
            self._steps.make()

    def loss(self) -> float:
        """Over the training set, or the first of its batches."""
        sets = self.run.splits
        shown = sets.train if isinstance(sets, Splits) else sets.first
        return evaluate(self.run.executor.arm, self.run.task, shown)[0]

    def graft(self, slot: SlotSpec, seed_id: str) -> float:
        """Copies the twin, builds the seed, grafts it; returns the largest change of an output."""
        reports = self._do(*germination(seed_id, slot.slot_id, BLUEPRINTS[slot.kind], **_sizes(slot)))
        return reports[-1].max_logit_delta

    def keep(self, seed_id: str) -> DirectiveReport:
        """Makes the seed permanent; the report says whether it was folded."""
        fold, _ = self._do(directive(seed_id, "FOLD"), directive(seed_id, "DROP_TWIN"))
        return fold

    def drop_twin(self, seed_id: str) -> None:
        self._do(directive(seed_id, "DROP_TWIN"))

    def saved(self) -> bytes:
        """The executor's part of a checkpoint."""
        return encode_proven({"executor": self.run.executor.state_dict(), "step": self._session.progress.step})

    def restore(self, content: bytes) -> None:
        state = decode(content, "the checkpoint")
        self.run.executor.load_state_dict(state["executor"])
        self._session.progress.step = state["step"]

    def digests(self) -> tuple[str, str | None]:
        """Of the network and its twin."""
        twin = self.run.executor.twin
        return self.run.executor.arm.digest(), None if twin is None else twin.digest()

    def export(self) -> Exported:
        """Writes the network and proves the file."""
        self.config.run_dir.mkdir(parents=True, exist_ok=True)
        network = Exportable(config=self.config, interface=self.run.interface, executor=self.run.executor)
        return write(network, self.config.run_dir / "network.pt2")

    def folder(self) -> float:
        """Writes the network as its own class does and reads it again; the largest difference of their outputs."""
        network, folder = plain(self.run.executor.arm, takes_any=True), self.config.run_dir / "network"
        if self.run.executor.arm.grafts:
            raise RefusedError("a seed stayed a module, which save_pretrained doesn't know of")
        saved: Any = network
        saved.save_pretrained(folder)
        again: nn.Module = type(saved).from_pretrained(folder).eval()
        inputs = self.run.task.probe_inputs()
        with torch.no_grad():
            before, after = (self.run.task.forward(model, inputs).logits for model in (network, again))
        return float((before - after).abs().max())

    def _do(self, *directives: SeedDirective) -> tuple[DirectiveReport, ...]:
        executor, step = self.run.executor, self._session.progress.step
        executor.execute(directives, step)
        executor.at_boundary(step)
        reports = executor.collect(step).reports
        if refused := next((report for report in reports if not report.succeeded), None):
            raise RefusedError(refused.failure)
        return reports


def _sizes(slot: SlotSpec) -> dict[str, float]:
    """As little growth as the slot can take, and `WIDTH` features at least."""
    unit = max(1, slot.width_unit)
    if slot.kind == SlotKind.SLOT_KIND_STACK:
        return {}
    if slot.kind == SlotKind.SLOT_KIND_SPAN_HEADS:
        return {"heads": float(unit)}
    return {"width": float(unit * -(-WIDTH // unit))}
