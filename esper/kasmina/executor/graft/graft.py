"""A seed in an arm's forward pass: two taps on named submodules, one blend, its own place in the optimiser.

Taps are objects that hold the graft, so a deep copy of an arm has taps of its own. The seed's input is attached
unless the graft is isolated; the host's own activation always keeps its gradient. Taps are written so that compiled
hosts take them into their graphs; inside an activation checkpoint they act again when backward runs it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.utils.hooks import RemovableHandle

from esper.core.errors import GraftFailed
from esper.kasmina.executor.contents.objects import GoesBy
from esper.kasmina.executor.graft.blend import JOINS, Blend, gate_from_logits, join_state
from esper.kasmina.executor.graft.masks import Masks
from esper.kasmina.executor.graft.unpacked import keep_unpacked
from esper.kasmina.executor.passes.batches import logits_in
from esper.kasmina.executor.passes.compiled import is_one_graph
from esper.kasmina.executor.passes.keys import draw_key
from esper.kasmina.executor.passes.side_pass import device_of, side_pass
from esper.kasmina.executor.slots.arguments import Arguments, has_past
from esper.kasmina.executor.slots.between import KeyedDropout, KeyedModule
from esper.kasmina.executor.slots.slot import Slot
from esper.kernels import BlendStats
from esper.leyline import BlendFigures, BlendMode


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPlan:
    """Everything from which a seed's structure follows."""

    seed_id: str
    slot_id: str
    blueprint_id: str
    factory: str
    parameters: tuple[tuple[str, float], ...]
    initialization_seed: int


class Graft:
    """One seed of one arm: grown, blended, measured, permanent."""

    def __init__(self, plan: SeedPlan, slot: Slot, module: nn.Module, blend: Blend, *, is_isolated: bool) -> None:
        self.plan = plan
        self.slot = slot
        self.parts = [slot]
        """The slot in each of the blocks that it is attached to."""
        self.module = module
        self.is_isolated = is_isolated
        self.is_muted = False
        self.is_measuring = False
        self.leaks = 0
        self.tell_output: Callable[[Tensor], None] | None = None
        """Who wants the seed's output of a forward pass, before it is blended in."""
        self.rms: tuple[Tensor, Tensor] | None = None
        takes_masks = getattr(module, "takes_masks", False)
        self.masks = Masks(plan.seed_id, is_conv=slot.is_conv) if takes_masks else None
        """What the host says of padding, for a seed that mixes positions as the host's attention does."""
        self._host: nn.Module | None = None
        """What it is attached to; its mode is the seed's."""
        self._handles: list[RemovableHandle] = []
        self._logits_handle: RemovableHandle | None = None
        self._input: Tensor | Arguments | None = None
        self._input_has_graph = True
        self._place = 0
        self._spent: Tensor | Arguments | None = None
        self._dropouts = [part for part in module.modules() if isinstance(part, (KeyedDropout, KeyedModule))]
        self.set_blend(blend)

    @property
    def seed_id(self) -> str:
        return self.plan.seed_id

    @property
    def alpha(self) -> float:
        """Alpha of the step in progress or of the last one."""
        return self._alpha

    def set_blend(self, blend: Blend) -> None:
        """Replaces the blend; its schedule begins at its own start step."""
        self.blend = blend
        self._join = JOINS[blend.mode]
        device = device_of(self.module)
        self._state = join_state(blend.config, is_conv=self.slot.is_conv, device=device)
        self._alpha = blend.config.alpha_start
        self.set_step(blend.start_step, draw=0)

    def set_step(self, step: int, *, draw: int) -> None:
        """Prepares the step that follows `step` done ones; for a seed that is out of it, alpha stays where it was."""
        self.forget()
        if self.is_muted:
            return
        alpha = self.blend.alpha_at(step)
        if alpha != self._alpha:
            self._alpha = alpha
            self._state.alpha.fill_(alpha)
        for index, dropout in enumerate(self._dropouts):
            dropout.draw = draw_key(draw, self.seed_id, step, index)

    def set_alpha(self, alpha: float) -> None:
        """Fixes alpha for a side pass; `set_step` puts it back on its course."""
        self._alpha = alpha
        self._state.alpha.fill_(alpha)

    def set_shadow(self) -> None:
        """Prepares a shadow pass: the host gets no gradient, neither through the seed nor beside it."""
        self.is_isolated = True
        self._state.is_isolated = True

    def attach(self, model: nn.Module, neighbours: list[Graft]) -> None:
        """Hangs the taps on the model; `neighbours` is the arm's own list of grafts."""
        self._host = model
        self.parts = self.slot.parts(model)
        for place, part in enumerate(self.parts):
            write = model.get_submodule(part.write_path)
            if part.is_span:
                read = model.get_submodule(part.read_path)
                tap = CallTap(self, place) if part.heads is not None else ReadTap(self, place)
                with_names = isinstance(tap, CallTap)
                self._handles.append(read.register_forward_pre_hook(tap, with_kwargs=with_names))
            self._handles += keep_unpacked(model, part.write_path)
            if self.masks is not None:
                self._handles += self.masks.watch(model, part.write_path)
            self._handles.append(write.register_forward_hook(WriteTap(self, place)))
        self.watch_logits(model, neighbours)

    def watch_logits(self, model: nn.Module, neighbours: list[Graft]) -> None:
        """Asks the host for its logits exactly as long as the blend needs them."""
        needs_logits = self.blend.mode == BlendMode.BLEND_MODE_CONFIDENCE
        if needs_logits and self._logits_handle is None:
            if is_one_graph(model):
                raise GraftFailed(
                    "a confidence blend asks for logits first: not in a host compiled with fullgraph=True"
                )
            tap = ConfidenceTap(self, neighbours)
            self._logits_handle = model.register_forward_pre_hook(tap, with_kwargs=True)
        elif not needs_logits:
            self._forget_logits()

    def _forget_logits(self) -> None:
        if self._logits_handle is not None:
            self._logits_handle.remove()
            self._logits_handle = None

    def detach(self) -> None:
        """Takes the taps off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._host = None
        self._forget_logits()
        self.forget()

    def forget(self) -> None:
        """Lets go of what the last pass read, and of memory that a compiled graph may use again in the next."""
        self._input = self._spent = None
        if self.masks is not None:
            self.masks.forget()
        if self.is_measuring and self.rms is not None:
            self.rms = (self.rms[0].clone(), self.rms[1].clone())

    def __getstate__(self) -> dict[str, Any]:
        """A copy begins without the values of a pass."""
        return {**self.__dict__, "_input": None, "_spent": None, "tell_output": None}

    def recorded_as(self) -> tuple[object, ...]:
        """What a recording of a forward pass depends on: it holds until one of these is another."""
        state = self._state
        memory = tuple(0 if tensor is None else tensor.data_ptr() for tensor in (state.alpha, state.shares))
        return (self.seed_id, self.blend.mode, self.is_isolated, self.is_muted, *memory)

    def read(self, value: Tensor | Arguments, place: int = 0) -> None:
        self._input, self._input_has_graph, self._place = value, torch.is_grad_enabled(), place

    def branch(self, place: int) -> nn.Module:
        """The seed, or its part of that place."""
        parts = getattr(self.module, "parts", None) if self.slot.container else None
        found: nn.Module = self.module if parts is None else parts[place]
        return found

    def output(self, value: Tensor | Arguments, place: int = 0) -> Tensor:
        """The seed's value; one that attends leaves out what the host's attention does."""
        if self._host is not None and self.module.training != self._host.training:
            self.module.train(self._host.training)  # a script's model.eval() doesn't reach what hangs on it
        branch = self.branch(place)
        if self.masks is None or not isinstance(value, Tensor):
            found: Tensor = branch(value)
        else:
            found = branch(value, self.masks.over(value, is_training=branch.training))
        return found

    def join(self, host: Tensor, place: int = 0) -> Tensor:
        """The host's value with the seed's blended in."""
        value: Tensor | Arguments | None = self._take_input(place) if self.slot.is_span else host
        if self.is_muted:
            return host
        if value is None:
            raise GraftFailed(
                f"{self.slot.write_path} ran before {self.slot.read_path}: seed {self.seed_id} has no input"
            )
        if self.is_isolated:
            value = value.detached() if isinstance(value, Arguments) else value.detach()
        seed = self.output(value, place)
        if self.tell_output is not None:
            self.tell_output(seed)
        if self.is_measuring:
            self.rms = (root_mean_square(seed), root_mean_square(host))
        return self._join(host, seed, self._state)

    def _take_input(self, place: int) -> Tensor | Arguments | None:
        """What was read in this pass; where backward runs the writing layer again alone, what that layer had then."""
        if place != self._place:
            return None
        value, self._input = self._input, None
        if torch.compiler.is_compiling():
            return value
        if value is None and torch._C._current_graph_task_id() != -1:
            if self.slot.is_repeated:
                raise GraftFailed(
                    f"backward runs {self.slot.write_path} again without {self.slot.read_path}, both of which run more "
                    f"than once in a pass: seed {self.seed_id} can't tell of which call; put both into one checkpoint"
                )
            value = self._spent
        if value is not None and self._input_has_graph != torch.is_grad_enabled():
            raise GraftFailed(
                f"{self.slot.read_path} and {self.slot.write_path} are not both inside one re-entrant checkpoint, "
                f"which cuts seed {self.seed_id}'s gradient: use checkpoint(..., use_reentrant=False)"
            )
        self._spent = value
        return value

    def blend_stats(self) -> BlendStats:
        """Of the weights that the blend now gives the seed: one, or one for each channel or sample."""
        return self._state.stats()

    def gate_from(self, logits: Any) -> None:
        found = gate_from_logits(self.blend.config, logits_in(logits))
        self._state.gate, self._state.gateless = found.gate, found.events

    def blend_figures(self) -> BlendFigures:
        """The weights of its blend, over channels or the samples of the last pass."""
        return self._state.figures()


class ReadTap(GoesBy):
    """Keeps the input of layer k for the seed."""

    def __init__(self, graft: Graft, place: int = 0) -> None:
        self.graft = graft
        self.place = place

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.graft.read(arguments[0], self.place)


class CallTap(GoesBy):
    """Keeps what an attention is called with for a seed of heads."""

    def __init__(self, graft: Graft, place: int = 0) -> None:
        self.graft = graft
        self.place = place

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        layer = getattr(module, "layer_idx", None) or 0
        if any(has_past(value, layer) for value in (*arguments, *named.values())):
            raise GraftFailed(
                f"seed {self.graft.seed_id} adds heads that keep no cache: pass the whole text, with use_cache=False"
            )
        self.graft.read(Arguments.without_cache(arguments, named), self.place)


class WriteTap(GoesBy):
    """Adds the seed's output to the submodule's."""

    def __init__(self, graft: Graft, place: int = 0) -> None:
        self.graft = graft
        self.place = place

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.graft.join(output, self.place)


class ConfidenceTap(GoesBy):
    """Before each forward pass, asks the host alone for its logits and sets the seed's share of each sample."""

    def __init__(self, graft: Graft, neighbours: list[Graft]) -> None:
        self.graft = graft
        self._neighbours = neighbours
        self._is_inside = False

    @_disable_dynamo
    def __call__(self, model: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if self._is_inside or self.graft.is_muted:
            return
        self._is_inside, self.graft.is_muted = True, True
        try:
            modules = [model, *(graft.module for graft in self._neighbours)]
            with side_pass(modules, key=draw_key("confidence"), training=False), torch.no_grad():
                self.graft.gate_from(model(*arguments, **keywords))
        finally:
            self._is_inside, self.graft.is_muted = False, False


def root_mean_square(value: Tensor) -> Tensor:
    """0-d, without a wait for the device."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(value.detach(), dtype=dtype)
    mean: Tensor = norm / max(1, value.numel()) ** 0.5
    return mean
