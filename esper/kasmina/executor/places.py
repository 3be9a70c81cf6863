"""Where a host can grow: its slots for modules and its runs of blocks, found before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from esper.core.errors import ConfigError
from esper.kasmina.executor.actions.stacking import try_stack
from esper.kasmina.executor.manifest import describe
from esper.kasmina.executor.passes.trace import in_words, rerun_order, trace_forward
from esper.kasmina.executor.pretrained.regroup import regrouped
from esper.kasmina.executor.slots.linear import unmerged
from esper.kasmina.executor.slots.search import check_found, find_slots
from esper.kasmina.executor.stack_slots import find_stacks, is_stack_name
from esper.kasmina.executor.state import REFUSE, ExecutorState
from esper.leyline import HostManifest, TaskType


class Places:
    """What was found in a run's host, and what wasn't, with the reasons; the slots themselves stand in the state."""

    def __init__(self, state: ExecutorState) -> None:
        """Slots, sizes and costs. A host without slots trains alone; who wants to grow it asks for the manifest."""
        self._state = state
        self._none: ConfigError | None = None
        self._halved: dict[str, tuple[str, ...]] = {}
        self.unseen: tuple[str, ...] = ()
        """Parts of the host that the search for slots could not look into as a whole, a line each."""
        self.refused_runs: tuple[str, ...] = ()
        """Lists of blocks that can't be repeated, each with the reason."""
        try:
            self._find_stacks()
            self._find_slots()
            state.topology_changed()
        except ConfigError as error:
            self._none = error
        except Exception as error:  # noqa: BLE001 - foreign code, run under hooks and counters, may raise anything
            self._none = self._error(
                f"can't be grown: looking for slots ended in {in_words(error)}; it trains with --grow never"
            )
        if self._none is not None:
            state.slots, state.stack_slots = {}, {}
            state.topology_changed()

    def manifest(self) -> HostManifest:
        """The host and its slots; ConfigError if no seed fits anywhere."""
        if self._none is not None:
            raise self._none
        return describe(self._state.arm, self._state.task, self._state.specs)

    def halved_by(self, slot_id: str) -> tuple[str, ...]:
        """Layers of each block that a stack there halves; none where the ends of its branches can't be told."""
        return self._halved.get(slot_id, ())

    def try_stacks(self) -> None:
        """Repeats each run once, on a copy. One that fails is no slot, and its reason stands in `refused_runs`.

        Raises ConfigError for one that the user names.
        """
        state, named = self._state, self._state.config.slots or ()
        before = list(state.stack_slots.items())
        for slot_id, slot in before:
            run = slot.now(state.arm.stacks)
            tried = try_stack(state.arm, state.task, run, halves_ends=state.config.halves_ends)
            self._halved[slot_id] = tried.ends
            if tried.obstacle:
                if slot_id in named:
                    raise ConfigError("slots", slot_id, f"can't be repeated: {tried.obstacle}")
                del state.stack_slots[slot_id]
                self.refused_runs = (*self.refused_runs, f"{slot.run.path}: {tried.obstacle}")
        if len(state.stack_slots) < len(before):
            state.topology_changed()
        if not (state.slots or state.stack_slots) and self._none is None:
            self._none = self._error(f"has no slot for a seed: {'; '.join(self.refused_runs)}")

    def _find_stacks(self) -> None:
        state, named = self._state, self._state.config.slots
        names = None if named is None else [name for name in named if is_stack_name(name)]
        found, refusals = find_stacks(
            state.arm.model, state.task.probe_inputs(), named=names, forward=state.task.forward
        )
        state.stack_slots = {slot.slot_id: slot for slot in found}
        self.refused_runs = tuple(f"{refusal.path}: {refusal.reason}" for refusal in refusals)

    def _find_slots(self) -> None:
        """Slots of modules; a host that has none may still have stacks, which come behind them in order."""
        state, named = self._state, self._state.config.slots
        names = None if named is None else [name for name in named if not is_stack_name(name)]
        if state.config.is_of_stacks:
            self._check_stacks(names or ())
            return
        model, inputs, forward = state.arm.model, state.task.probe_inputs(), state.task.forward
        traced, rerun = trace_forward(model, inputs, forward=forward), rerun_order(model, inputs, forward=forward)
        found = find_slots(
            model,
            traced,
            named=names,
            is_causal=state.task.type == TaskType.TASK_TYPE_LANGUAGE_MODEL,
            rerun=rerun,
            run=partial(forward, model, inputs),
            offers_layers=state.config.offers_layers,
            regroup=regrouped if state.config.config_widths == REFUSE else None,
        )
        if names or not state.stack_slots:
            check_found(model, traced, found)
        slots = found.slots if state.config.merges_adapters else map(unmerged, found.slots)
        state.slots, self.unseen = {slot.slot_id: slot for slot in slots}, found.unseen
        first = len(state.slots)
        state.stack_slots = {
            slot_id: replace(slot, order=order)
            for order, (slot_id, slot) in enumerate(state.stack_slots.items(), first)
        }

    def _check_stacks(self, others: Sequence[str]) -> None:
        """Raises ConfigError where weights in parts leave no slot, or not one that the user names."""
        what = "weights in parts (--parallel shard) grow by stacks alone"
        if others:
            raise ConfigError("slots", others[0], f"is no run of blocks, and {what}; leave it out, or --parallel ddp")
        if not self._state.stack_slots:
            why = "; ".join(self.refused_runs) or "there is no list of blocks"
            raise self._error(f"has no slot: {what}: {why}; give --parallel ddp, or --grow never")

    def _error(self, what: str) -> ConfigError:
        return ConfigError("model", type(self._state.arm.model).__name__, what)
