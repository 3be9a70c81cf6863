"""Blends a host's activation with a seed's: value, fake kernel and derivatives of `esper::blend`.

Weight 0 returns the host even where the seed is NaN, weight 1 of a convex blend returns the seed; both are exact.
`isolate=True` gives the seed its gradient and the host none from the blend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from esper.kernels._library import check_one_device, fake, operator, refuse_tangents

_blend: Callable[..., Tensor] = operator("blend")
_blend_backward = operator("blend_backward")
_blend_alpha_grad = operator("blend_alpha_grad")

# gate, its dimension, lower and upper bound of the weight, convex
_Options = tuple[Tensor | None, int, float, float, bool]
_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def blend_residual(host: Tensor, seed: Tensor, alpha: Tensor, *, isolate: bool = False) -> Tensor:
    """`host + a * seed` with a = alpha clamped to [0, 1]; `alpha` is a 0-d tensor on the host's device."""
    return _call(host, seed, alpha, (None, 0, 0.0, 1.0, False), isolate)


def blend_convex(host: Tensor, seed: Tensor, alpha: Tensor, *, isolate: bool = False) -> Tensor:
    """`(1 - a) * host + a * seed`."""
    return _call(host, seed, alpha, (None, 0, 0.0, 1.0, True), isolate)


def blend_channel(
    host: Tensor,
    seed: Tensor,
    alpha_vec: Tensor,
    alpha: Tensor,
    *,
    dim: int = 1,
    residual: bool = False,
    isolate: bool = False,
) -> Tensor:
    """Per channel: e = clamp(a * alpha_vec, 0, 1), convex or residual. Each of 1 to 64 entries serves a group."""
    if not 1 <= alpha_vec.numel() <= 64:
        raise RuntimeError(f"alpha_vec has {alpha_vec.numel()} entries, expected 1 to 64")
    return _call(host, seed, alpha, (alpha_vec, dim % max(host.dim(), 1), 0.0, 1.0, not residual), isolate)


def blend_confidence(
    host: Tensor,
    seed: Tensor,
    gate: Tensor,
    alpha: Tensor,
    *,
    lo: float = 0.0,
    hi: float = 1.0,
    residual: bool = False,
    isolate: bool = False,
) -> Tensor:
    """Per sample (dimension 0): e = clamp(a * gate, lo, hi), and 0 where alpha is 0, whatever `lo` says."""
    if not 0.0 <= lo <= hi <= 1.0:
        raise RuntimeError(f"bounds lo={lo}, hi={hi}: expected 0 <= lo <= hi <= 1")
    if gate.dim() != 1 or host.dim() == 0 or gate.numel() != host.size(0):
        raise RuntimeError(
            f"gate has shape {list(gate.shape)}, expected one entry for each sample of {list(host.shape)}"
        )
    return _call(host, seed, alpha, (gate, 0, lo, hi, not residual), isolate)


def _call(host: Tensor, seed: Tensor, alpha: Tensor, options: _Options, isolate: bool) -> Tensor:
    if not isinstance(alpha, Tensor):
        raise TypeError(f"alpha is {alpha!r}, expected a 0-d tensor on {host.device}: a number would be compiled in")
    if host.dtype != seed.dtype and torch.is_autocast_enabled(host.device.type):
        common = torch.promote_types(host.dtype, seed.dtype)
        host, seed = host.to(common), seed.to(common)
    if isolate:
        host = host.detach()
    if torch.compiler.is_compiling():
        return _blend(host, seed, alpha, *options)
    refuse_tangents((host, seed, alpha), "the blend")
    if torch._C._are_functorch_transforms_active():
        return _transformed(host, seed, alpha, options)
    if torch.is_grad_enabled():
        if options[0] is not None and options[0].requires_grad:
            raise RuntimeError("the blend has no derivative for its gate: pass it detached")
        if host.requires_grad or seed.requires_grad or alpha.requires_grad:
            return _recorded(host, seed, alpha, options)
    with torch._C._AutoDispatchBelowAutograd():
        return _blend(host, seed, alpha, *options)


def _transformed(host: Tensor, seed: Tensor, alpha: Tensor, options: _Options) -> Tensor:
    """Inside torch.func: vmap maps the operator, derivatives are autograd's alone."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (host, seed, alpha)):
        raise RuntimeError("the blend has no derivative under torch.func: use torch.autograd.grad or backward instead")
    return _blend(host, seed, alpha, *options)


def _gradients(ctx: Any, grad: Tensor, saved: tuple[Tensor | None, ...]) -> _Gradients:
    """The derivative of the blend, differentiable itself where the dispatcher still records."""
    alpha, gate, host, seed = (*saved, None, None, None)[:4]
    need_host, need_seed, need_alpha = ctx.needs_input_grad[:3]
    gate_dim, lo, hi, convex = ctx.options
    grad_host: Tensor | None = grad if need_host else None
    grad_seed: Tensor | None = None
    grad_alpha: Tensor | None = None
    need_scaled_host = need_host and convex
    if need_scaled_host or need_seed:
        scaled = _blend_backward(grad, alpha, gate, gate_dim, lo, hi, convex, need_scaled_host, need_seed)
        grad_host = scaled[0] if need_scaled_host else grad_host
        grad_seed = scaled[1] if need_seed else None
    if need_alpha:
        grad_alpha = _blend_alpha_grad(grad, host, seed, alpha, gate, gate_dim, lo, hi, convex)
    return grad_host, grad_seed, grad_alpha


def _save(ctx: Any, host: Tensor, seed: Tensor, alpha: Tensor, options: _Options) -> None:
    if alpha.requires_grad:
        ctx.save_for_backward(alpha, options[0], host, seed)
    elif options[0] is not None:
        ctx.save_for_backward(alpha, options[0])
    else:
        ctx.save_for_backward(alpha)
    ctx.options = options[1:]


class _Blend(torch.autograd.Function):
    """The eager path: a quarter of the cost of a registered derivative on tensors of a small model."""

    @staticmethod
    def forward(ctx: Any, host: Tensor, seed: Tensor, alpha: Tensor, options: _Options) -> Tensor:
        _save(ctx, host, seed, alpha, options)
        with torch._C._AutoDispatchBelowAutograd():
            return _blend(host, seed, alpha, *options)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Read outside the guard: under activation checkpointing this runs a forward pass again, which must record.
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_gradients(ctx, grads[0], saved), None)
        with torch._C._AutoDispatchBelowAutograd():
            return (*_gradients(ctx, grads[0], saved), None)


# The base class's apply: Function's own looks at every argument for transforms, which _call has sent elsewhere.
_recorded: Callable[..., Tensor] = super(torch.autograd.Function, _Blend).apply


def _blend_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    host, seed, alpha, *options = inputs
    _save(ctx, host, seed, alpha, tuple(options))


def _registered_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_gradients(ctx, grad, ctx.saved_tensors), None, None, None, None, None)


def _backward_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, alpha, gate, *options, ctx.want_host, ctx.want_seed = inputs
    ctx.save_for_backward(alpha, gate)
    ctx.options = tuple(options)


def _second_derivative(ctx: Any, for_host: Tensor, for_seed: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.needs_input_grad[1]:
        raise RuntimeError("the blend has no second derivative that involves alpha: detach it")
    alpha, gate = ctx.saved_tensors
    gate_dim, lo, hi, convex = ctx.options
    if ctx.want_host and ctx.want_seed:
        value = _blend(for_host, for_seed, alpha, gate, gate_dim, lo, hi, convex)
    elif ctx.want_host or ctx.want_seed:
        arriving = for_host if ctx.want_host else for_seed
        scaled = _blend_backward(arriving, alpha, gate, *ctx.options, ctx.want_host, ctx.want_seed)
        value = scaled[0 if ctx.want_host else 1]
    else:
        value = None
    return value, None, None, None, None, None, None, None, None


def _no_derivative(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("the blend has no second derivative that involves alpha: detach it")


def _dense_like(tensor: Tensor) -> Tensor:
    """What the kernel returns: the strides of a dense input, a contiguous result otherwise."""
    expected: int | torch.SymInt = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True), key=lambda pair: pair[0]):
        if size != 1 and stride != expected:
            return tensor.new_empty(tensor.shape)
        expected = expected * size if size != 1 else expected
    return tensor.new_empty_strided(tensor.shape, tensor.stride())


@fake("blend")
def _blend_fake(host: Tensor, seed: Tensor, alpha: Tensor, gate: Tensor | None, *_: Any) -> Tensor:
    check_one_device("blend", host, seed, alpha, gate)
    if host.shape != seed.shape:
        raise RuntimeError(f"seed has shape {list(seed.shape)}, expected that of host, {list(host.shape)}")
    if host.dtype != seed.dtype:
        raise RuntimeError(f"seed has dtype {seed.dtype}, expected that of host, {host.dtype}")
    return _dense_like(host)


@fake("blend_backward")
def _blend_backward_fake(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    want_host, want_seed = args[-2:]
    return (
        _dense_like(grad) if want_host else grad.new_empty(0),
        _dense_like(grad) if want_seed else grad.new_empty(0),
    )


@fake("blend_alpha_grad")
def _blend_alpha_grad_fake(grad: Tensor, host: Tensor, seed: Tensor, alpha: Tensor, *_: Any) -> Tensor:
    return alpha.new_empty(())


torch.library.register_autograd("esper::blend", _registered_gradients, setup_context=_blend_setup)
torch.library.register_autograd("esper::blend_backward", _second_derivative, setup_context=_backward_setup)
torch.library.register_autograd("esper::blend_alpha_grad", _no_derivative)
