"""A grown network as one module that can be traced: the same outputs, written in torch's own operators.

Folded seeds are ordinary layers already. Permanent modules hang on the host by hooks, which a trace (torch.export)
writes into its graph; compilers are taken off, because a trace doesn't go through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from esper.core.errors import GraftFailed
from esper.kasmina.executor.graft.arm import TrainingArm
from esper.kasmina.executor.graft.graft import Graft
from esper.kasmina.executor.graft.unpacked import keep_unpacked
from esper.kasmina.executor.slots.arguments import Arguments
from esper.kasmina.executor.slots.slot import Slot
from esper.leyline import BlendMode

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
INNER = "_orig_mod"
WRITE_ALL = ("save_pretrained", "push_to_hub")


def plain(arm: TrainingArm, *, takes_any: bool = False) -> nn.Module:
    """An independent module in eval mode: the host itself, or `Grown` where seeds stay as modules.

    `takes_any` lets that take whatever the host takes, and not one tensor alone, which is what a trace wants.
    """
    copied = arm.clone()
    grafts = list(copied.grafts)
    for graft in grafts:
        graft.detach()
    host = uncompiled(copied.model)
    module = (GrownOfForm if takes_any else Grown)(host, grafts) if grafts else host
    _own_storages(module)
    return module.eval()


def uncompiled(model: nn.Module) -> nn.Module:
    """The model without compilers, around the whole or around parts; hooks on a wrapper move to what it wraps."""
    for module in list(model.modules()):
        module._compiled_call_impl = None
        for name, child in list(module.named_children()):
            if name != INNER:
                setattr(module, name, _unwrapped(child))
    return _unwrapped(model)


def _unwrapped(module: nn.Module) -> nn.Module:
    inner = getattr(module, INNER, None)
    if not isinstance(inner, nn.Module):
        return module
    for name in HOOKS:
        getattr(inner, name).update(getattr(module, name))
    return _unwrapped(inner)


def _own_storages(module: nn.Module) -> None:
    """A tensor that is a view would be written with all of what it views, which may be anybody's data."""
    for part in module.modules():
        for tensor in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() > tensor.nbytes:
                tensor.data = tensor.data.clone()


class Grown(nn.Module):
    """Host and permanent seeds as one module with the blends written in torch's own operators."""

    def __init__(self, host: nn.Module, grafts: list[Graft]) -> None:
        super().__init__()
        self.host = host
        self.seeds = nn.ModuleList(graft.module for graft in grafts)
        for graft in grafts:
            if graft.blend.mode not in PLAIN_JOINS:
                mode = BlendMode.Name(graft.blend.mode)
                raise GraftFailed(f"seed {graft.seed_id} blends by {mode}, which needs the host's logits: can't export")
            for place, part in enumerate(graft.parts):
                _PlainTaps(graft, part, place).attach(host)

    def forward(self, value: Tensor) -> Any:
        return self.host(value)


class GrownOfForm(Grown):
    """The same for a host that takes more than a tensor, and is asked for more than its outputs."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return self.host(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        """What the host has, its methods and parameters; but not what would write it without its seeds."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            host = self.__dict__.get("_modules", {}).get("host")
            if host is None or name.startswith("__"):
                raise
            if name in WRITE_ALL:
                told = f"{name} would leave out the seeds that stayed modules; torch.save(model, file) keeps them"
                raise AttributeError(told, name=name, obj=self) from None
            return getattr(host, name)


class _PlainTaps:
    def __init__(self, graft: Graft, part: Slot, place: int) -> None:
        self._graft = graft
        self._slot = part
        self._place = place
        self._join = PLAIN_JOINS[graft.blend.mode]
        self._input: Any = None

    def attach(self, host: nn.Module) -> None:
        slot = self._slot
        if slot.is_span:
            read = host.get_submodule(_uncompiled_path(slot.read_path))
            read.register_forward_pre_hook(self._read, with_kwargs=True)
        write_path = _uncompiled_path(slot.write_path)
        list(keep_unpacked(host, write_path))
        if self._graft.masks is not None:
            self._graft.masks.watch(host, write_path)
        host.get_submodule(write_path).register_forward_hook(self._write)

    def _read(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        is_call = self._slot.heads is not None
        self._input = Arguments.without_cache(arguments, named) if is_call else arguments[0]

    def _write(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        value = self._input if self._slot.is_span else output
        return self._join(output, self._graft.output(value, self._place), self._graft)


def _uncompiled_path(path: str) -> str:
    return ".".join(part for part in path.split(".") if part != INNER)


def _residual(host: Tensor, seed: Tensor, graft: Graft) -> Tensor:
    return host + graft.alpha * seed


def _convex(host: Tensor, seed: Tensor, graft: Graft) -> Tensor:
    return (1.0 - graft.alpha) * host + graft.alpha * seed


def _channel(host: Tensor, seed: Tensor, graft: Graft) -> Tensor:
    dim = 1 if graft.slot.is_conv else host.dim() - 1
    shares = torch.tensor(list(graft.blend.config.alpha_vec), dtype=host.dtype, device=host.device)
    channels = host.shape[dim]
    expanded = shares.repeat_interleave(channels // len(shares)) if channels != len(shares) else shares
    shape = [1] * host.dim()
    shape[dim] = channels
    weight = (graft.alpha * expanded).clamp(0.0, 1.0).view(shape)
    return (1.0 - weight) * host + weight * seed


PLAIN_JOINS: dict[int, Callable[[Tensor, Tensor, Graft], Tensor]] = {
    BlendMode.BLEND_MODE_RESIDUAL: _residual,
    BlendMode.BLEND_MODE_CONVEX: _convex,
    BlendMode.BLEND_MODE_CHANNEL: _channel,
}
