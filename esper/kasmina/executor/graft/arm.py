"""A training arm: model, optimiser, scheduler and grafted seeds, copied, saved and compared as one state.

The main arm and its never-grafted twin are two arms that see the same batches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.contents.clone import independent_copy
from esper.kasmina.executor.contents.digest import digest_of
from esper.kasmina.executor.contents.filling import fill
from esper.kasmina.executor.contents.held import held, put_back
from esper.kasmina.executor.graft.average import KEY as AVERAGE
from esper.kasmina.executor.graft.average import Average, averaged
from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.graft.loading import pairs_to_load
from esper.kasmina.executor.graft.skipped import begin_momenta
from esper.kasmina.executor.graft.surgery import adopt_shapes
from esper.kasmina.executor.graft.wiring import HOST_KEY, SEED_KEY, add_seed_groups, group_by_host, remove_seed_groups
from esper.kasmina.executor.passes.compiled import compile_copy, compile_in_place, compiled_in_place
from esper.kasmina.executor.passes.side_pass import device_of, side_pass
from esper.kasmina.executor.stacks.repeat import repeat, take_out
from esper.kasmina.executor.stacks.run import Run

# What torch's optimisers know outside of their state, and lose when they are copied: that fused kernels take a scaler's
# verdict on the device (others wait for it in every step), and that nobody need look for `capturable`.
LOST_BY_COPYING = ("_step_supports_amp_scaling", "_warned_capturable_if_run_uncaptured")


class TrainingArm:
    """One whole training state. `scheduler` and `scaler` may be None; both need state_dict and load_state_dict."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: Any = None,
        scaler: Any = None,
        *,
        amp: torch.dtype | None = None,
        average_decay: float | None = None,
    ) -> None:
        self.model = compiled_in_place(model)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scaler = scaler
        self.amp = amp
        """What matrix products are lowered to in training, and so in evaluations; None: nothing."""
        self.average_decay = average_decay
        """Of the exponential average of the weights; None: there is none."""
        self._hook_optimizer()
        self.grafts: list[Graft] = []
        self.stacks: list[Run] = []
        """Runs that were repeated, in order, each as it was before."""
        self.has_compiled_blocks = False
        """Whether evaluations are worth compiled code: they have their graphs, which every depth and arm shares."""
        self._marks = held(model).marks  # after the model: a clone's marks are those of its own copies

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def modules(self) -> list[nn.Module]:
        """The host and its seeds."""
        return [self.model, *(graft.module for graft in self.grafts)]

    def host_parameters(self) -> list[nn.Parameter]:
        """What learns of the host, folded parts included; a seed's parameters are not among them.

        Parameters that the optimiser wasn't given don't learn, and nobody clears their gradients, which add up.
        """
        given = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        return [part for part in self.model.parameters() if part.requires_grad and id(part) in given]

    def parameter_count(self) -> int:
        """Parameters of the network, seeds included."""
        return sum(parameter.numel() for module in self.modules for parameter in module.parameters())

    def graft(self, seed_id: str) -> Graft | None:
        return next((graft for graft in self.grafts if graft.seed_id == seed_id), None)

    def attach(self, graft: Graft) -> None:
        """Puts a seed into the forward pass and the optimiser; a failure leaves neither."""
        self._refuse_shared_parameters(graft)
        try:
            graft.attach(self.model, self.grafts)
            by_group = group_by_host(self.optimizer, graft.module, self.model)
            add_seed_groups(self.optimizer, self.scheduler, graft.seed_id, by_group)
            self.grafts.append(graft)
        except BaseException:
            self.detach(graft)
            raise

    def detach(self, graft: Graft) -> None:
        """Takes a seed out of the forward pass and the optimiser."""
        graft.detach()
        remove_seed_groups(self.optimizer, self.scheduler, graft.seed_id)
        self.grafts[:] = [other for other in self.grafts if other is not graft]

    def compile_blocks(self, runs: Iterable[Run]) -> None:
        """Compiles every block of the runs in place; copies of blocks and of the arm will be compiled alike."""
        compile_in_place(block for run in runs for block in run.blocks(self.model))
        self.has_compiled_blocks = True

    def repeat(self, run: Run) -> list[tuple[str, nn.Module]]:
        """Makes the network deeper by copies of a run of blocks; returns them with their paths."""
        with self._marks_follow():
            copies = repeat(self.model, self.optimizer, run)
        self.stacks.append(run)
        return copies

    def take_out_copies(self) -> None:
        """Undoes the last repetition."""
        with self._marks_follow():
            take_out(self.model, self.optimizer, self.stacks[-1])
        del self.stacks[-1]

    @torch.no_grad()
    def scale_ends(self, run: Run, ends: Sequence[str], factor: float) -> None:
        """Multiplies layers of each block of the run, and the averages of their weights; 0.5 and 2 lose no bit."""
        layers = [block.get_submodule(path) for block in run.blocks(self.model) for path in ends]
        for parameter in {parameter: None for layer in layers for parameter in layer.parameters(recurse=False)}:
            parameter.mul_(factor)
            average = self.optimizer.state.get(parameter, {}).get(AVERAGE)
            if average is not None:
                average.mul_(factor)

    def set_step(self, step: int, *, run_seed: int) -> None:
        """Alpha, dropout draws and learning rates of the seeds for the step that follows `step` done ones."""
        if not self.grafts:
            return
        factors = {}
        for graft in self.grafts:
            graft.set_step(step, draw=run_seed)
            factors[graft.seed_id] = graft.blend.rate_factor_at(step)
        groups = self.optimizer.param_groups
        for group in groups:
            if SEED_KEY in group:
                group["lr"] = groups[group[HOST_KEY]]["lr"] * factors[group[SEED_KEY]]

    def clone(self) -> TrainingArm:
        """An independent copy of the whole state, seeds and their taps included; compiled where this one is.

        Raises ConfigError by attribute for what can't be copied.
        """
        copied = independent_copy(self)
        for name in LOST_BY_COPYING:
            if hasattr(self.optimizer, name):
                setattr(copied.optimizer, name, getattr(self.optimizer, name))
        copied._hook_optimizer()
        copied._marks.renew(held(copied.model).marks, lost=self.unkept())
        compile_copy(self.model, copied.model)
        return copied

    def _hook_optimizer(self) -> None:
        begin_momenta(self.optimizer)
        if self.average_decay is not None:
            Average(self.optimizer, self.average_decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with the averages of its weights; buffers are those of now."""
        with averaged(self.optimizer):
            yield

    @contextmanager
    def _marks_follow(self) -> Iterator[None]:
        """Blocks that are made or moved here are made or moved alike in a host that is built anew."""
        lost = self.unkept()
        yield
        if not lost:
            self._marks = held(self.model).marks

    def unkept(self) -> list[str]:
        """Paths of what the host has come to hold and `state_dict` can't give to one that is built anew."""
        return held(self.model).losses(self._marks)

    @contextmanager
    def measured(self, key: int, *, is_evaluation: bool = False) -> Iterator[None]:
        """Eval mode without gradients, and without a trace.

        An evaluation goes over a whole set, again and again: it runs as training does, in its precision and in blocks
        that were compiled on request. Other passes run eagerly and in full precision.
        """
        keeps_compiled, is_lowered = is_evaluation and self.has_compiled_blocks, is_evaluation and self.amp is not None
        precision = torch.autocast(self.device.type, dtype=self.amp) if is_lowered else nullcontext()
        with side_pass(self.modules, key=key, training=False, is_eager=not keeps_compiled), torch.no_grad(), precision:
            yield

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of all weights and buffers, lower-case hex."""
        return digest_of(self._tensors())

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain containers; tensors are the live ones."""
        tensors = self.model.state_dict()
        return {
            "model": dict(tensors),
            # Without it, a module that was ever saved in another form takes the present one for that.
            "metadata": {path: dict(entry) for path, entry in tensors._metadata.items()},  # type: ignore[attr-defined]
            "held": held(self.model).tree,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "stacks": [[run.path, run.start, run.stop] for run in self.stacks],
            "seeds": [dict(graft.module.state_dict()) for graft in self.grafts],
        }

    def load_state_dict(self, state: Mapping[str, Any], regraft: Callable[[TrainingArm], list[Graft]]) -> None:
        """Restores a saved state, topology included; `regraft` builds its grafts on the reshaped host."""
        for graft in list(self.grafts):
            self.detach(graft)
        self._restack([Run(*record) for record in state["stacks"]])
        pairs = pairs_to_load(self.model, state["model"])
        if pairs is None:
            adopt_shapes(self.model, state["model"], self.optimizer)
        put_back(self.model, state["held"])
        # Last, because an attribute may share a parameter's memory here that had its own when it was saved.
        if pairs is None:
            tensors = OrderedDict(state["model"])
            tensors._metadata = state["metadata"]  # type: ignore[attr-defined]
            self.model.load_state_dict(tensors)
        else:
            fill(pairs)
        for graft, tensors in zip(regraft(self), state["seeds"], strict=True):
            graft.module.load_state_dict(tensors)
            self.attach(graft)
        self.optimizer.load_state_dict(state["optimizer"])
        for part, saved in ((self.scheduler, state["scheduler"]), (self.scaler, state["scaler"])):
            if part is not None and saved is not None:
                part.load_state_dict(saved)

    def take_over(self, other: TrainingArm) -> None:
        """Becomes what a copy has become, in this arm's own objects; rates and scheduler stay as they are here.

        Whoever holds this arm's model, parameters or optimiser goes on holding them.
        """
        kept = [graft for theirs in other.grafts if (graft := self.graft(theirs.seed_id)) is not None]
        hosts = [group for group in self.optimizer.param_groups if SEED_KEY not in group]
        settings = [{name: value for name, value in group.items() if name != "params"} for group in hosts]

        def regraft(arm: TrainingArm) -> list[Graft]:
            for mine, theirs in zip(kept, other.grafts, strict=True):
                mine.set_blend(theirs.blend)
                mine.rms = theirs.rms
            return kept

        self.load_state_dict({**other.state_dict(), "scheduler": None}, regraft)
        for group, own in zip(self.optimizer.param_groups, settings, strict=False):
            group.update(own)

    def _restack(self, wanted: Sequence[Run]) -> None:
        """Undoes the repetitions that aren't wanted and makes those that are missing."""
        while self.stacks != list(wanted[: len(self.stacks)]):
            self.take_out_copies()
        for run in wanted[len(self.stacks) :]:
            self.repeat(run)

    def _tensors(self) -> dict[str, Tensor]:
        states = [("", self.model), *((f"seed:{graft.seed_id}:", graft.module) for graft in self.grafts)]
        return {
            prefix + name: value
            for prefix, module in states
            for name, value in module.state_dict().items()
            if isinstance(value, Tensor)
        }

    def _refuse_shared_parameters(self, graft: Graft) -> None:
        owned = {id(parameter) for module in self.modules for parameter in module.parameters()}
        shared = [name for name, parameter in graft.module.named_parameters() if id(parameter) in owned]
        if shared:
            raise GraftFailed(f"seed {graft.seed_id} shares parameters with the network: {', '.join(shared)}")
