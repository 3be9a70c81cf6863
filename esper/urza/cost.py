"""What a seed costs: parameters and forward multiply-accumulates for one sample, from shapes alone.

A MAC is one multiplication with its addition in a matrix product or convolution; what works element by element is free.
Attention counts every pair of positions, causal attention half of them.
The slot's features as last signalled count, not those at the start: earlier seeds may have widened the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from esper.leyline import (
    Blueprint,
    BlueprintCost,
    CostTerm,
    HostManifest,
    SeedStage,
    SeedState,
    SlotKind,
    SlotSignal,
    SlotSpec,
    TaskType,
)

SPAN_KINDS = frozenset(
    {SlotKind.SLOT_KIND_SPAN_LINEAR, SlotKind.SLOT_KIND_SPAN_CONV, SlotKind.SLOT_KIND_SPAN_CONV_LINEAR}
)
CONV_KINDS = frozenset(
    {SlotKind.SLOT_KIND_SPAN_CONV, SlotKind.SLOT_KIND_SPAN_CONV_LINEAR, SlotKind.SLOT_KIND_RESIDUAL_CONV}
)

FEATURES, POSITIONS = "features", "positions"
"""What a cost that a blueprint declares may multiply, beside its parameters."""
WINDOWS = 2
"""A judgement's window and its extension."""
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Values kept for each parameter beside it, by optimiser, with momentum where there may be any; one that isn't listed is
# taken to keep two. Variants (amsgrad, a centred RMSprop) keep one more; Adafactor's vectors keep one, matrices less.
OPTIMIZER_STATES = {
    **dict.fromkeys(("SGD", "Adagrad", "Muon", "Lion", "Adafactor"), 1),
    **dict.fromkeys(("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "MuonAdamW"), 2),
}
AVERAGED = "+average"
"""What an optimiser's name ends in where an average of the weights is kept too, one more value for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one seed adds."""

    parameters: int
    forward_macs: int

    @property
    def training_macs(self) -> int:
        """For one sample: forward, and as much again for the gradients of weights and of inputs each."""
        return 3 * self.forward_macs


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes that a network and its twin hold from step to step; activations depend on the batch and are measured."""

    weights: int
    gradients: int
    optimizer: int
    twin: int
    """All three of the never-grafted copy, while it stands; it is given up with the verdict."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.twin


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What a run has spent, and how long it and a judging window are."""

    training_macs: int
    steps_done: int
    total_steps: int
    window_steps: int
    forward_macs: int
    """Of the network as it is now, for one sample."""
    has_twin: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A slot's present shape; names as in SlotSpec."""

    kind: SlotKind
    in_features: int
    out_features: int
    read_positions: int
    write_positions: int
    read_kernel: int
    write_kernel: int
    between_kernel: int
    is_causal: bool
    depth: int
    block_parameters: int
    block_forward_macs: int


Parameters = Mapping[str, float]
Formula = Callable[[Shape, Parameters], Cost]


def cost(
    blueprint: Blueprint, slot: SlotSpec, signal: SlotSignal | None, parameters: Parameters, task: TaskType
) -> Cost:
    """Cost of the blueprint in the slot of a host with this task; `parameters` are complete.

    A user's own blueprint says it itself; KeyError for one that neither does nor has a formula here.
    """
    shape = Shape(
        kind=slot.kind,
        in_features=signal.in_features if signal is not None else slot.in_features,
        out_features=signal.out_features if signal is not None else slot.out_features,
        read_positions=slot.read_positions,
        write_positions=slot.write_positions,
        read_kernel=slot.read_kernel,
        write_kernel=slot.write_kernel,
        between_kernel=slot.between_kernel,
        is_causal=task == TaskType.TASK_TYPE_LANGUAGE_MODEL,
        depth=signal.depth if signal is not None else slot.depth,
        block_parameters=slot.block_parameters,
        block_forward_macs=slot.block_forward_macs,
    )
    if blueprint.HasField("cost"):
        return declared(blueprint.cost, features=shape.out_features, positions=shape.write_positions, values=parameters)
    return FORMULAS[blueprint.blueprint_id](shape, parameters)


def declared(cost: BlueprintCost, *, features: int, positions: int, values: Parameters) -> Cost:
    """What a blueprint says of itself, in a slot of so many features at so many positions; fractions are cut off."""
    known = {**values, FEATURES: features, POSITIONS: positions}

    def total(terms: Iterable[CostTerm]) -> int:
        return int(sum(term.coefficient * math.prod(known[name] for name in term.factors) for term in terms))

    return Cost(parameters=total(cost.parameters), forward_macs=total(cost.forward_macs))


def memory(manifest: HostManifest, *, parameters: int, added: int, has_twin: bool) -> Memory:
    """Memory of a network of `parameters` after a graft of `added`, and of its twin if it gets one."""
    dtype = next((module.dtype for module in manifest.submodules if module.dtype), "float32")
    size, family = BYTES.get(dtype.removeprefix("torch."), 4), manifest.optimizer_family
    states = OPTIMIZER_STATES.get(family.removesuffix(AVERAGED), 2) + family.endswith(AVERAGED)
    weights = (parameters + added) * size
    return Memory(
        weights=weights,
        gradients=weights,
        optimizer=weights * states,
        twin=parameters * size * (2 + states) if has_twin else 0,
    )


def forecast_training_macs(run: Account, seeds: Sequence[SeedState], *, added_macs: int) -> int:
    """Training MACs of a whole run if a seed of `added_macs` is germinated now and kept at its last look.

    `seeds` are those that the run has had, in order: what it has spent was spent on smaller networks, too. Whole
    numbers only: a forecast must come out alike on every machine.
    """
    return training_macs_forecast(run, seeds)(added_macs)


def training_macs_forecast(run: Account, seeds: Sequence[SeedState]) -> Callable[[int], int]:
    """The same by the MACs that a seed would add, for asking about many."""
    trained = trained_macs(run.forward_macs, run.steps_done, seeds, has_twin=run.has_twin)
    if trained == 0:
        return lambda added_macs: run.training_macs
    steps_left = max(0, run.total_steps - run.steps_done)
    twin_steps = min(steps_left, WINDOWS * run.window_steps) if run.has_twin else 0

    def forecast(added_macs: int) -> int:
        to_train = steps_left * (run.forward_macs + added_macs) + twin_steps * run.forward_macs
        return run.training_macs + run.training_macs * to_train // trained

    return forecast


def trained_macs(forward_macs: int, steps_done: int, seeds: Sequence[SeedState], *, has_twin: bool = True) -> int:
    """Steps so far, twins' included, each counted as the forward MACs for one sample of what it trained."""
    kept = sum(seed.forward_macs for seed in seeds if seed.stage == SeedStage.SEED_STAGE_FOSSILIZED)
    host = forward_macs - kept
    trained = host * steps_done
    for seed in seeds:
        trained += seed.age_steps * (seed.forward_macs + (host if has_twin else 0))
        if seed.stage == SeedStage.SEED_STAGE_FOSSILIZED:
            trained += max(0, steps_done - seed.stage_step) * seed.forward_macs
            host += seed.forward_macs
    return trained


def _span(shape: Shape, parameters: Parameters) -> Cost:
    """Layer k and layer k+1 of `width`: bias in the first, batch norm between convolutions, no output bias."""
    return _wider(shape, int(parameters["width"]))


def _wider(shape: Shape, width: int) -> Cost:
    norm = 2 * width if shape.kind in CONV_KINDS else 0
    first = shape.in_features * shape.read_kernel
    second = shape.out_features * shape.write_kernel
    between = shape.between_kernel
    return Cost(
        parameters=width * (first + 1) + norm + width * (between + second),
        forward_macs=width * (shape.read_positions * (first + between) + shape.write_positions * second),
    )


def _heads(shape: Shape, parameters: Parameters) -> Cost:
    """Projections of whole groups of heads, and two products over all pairs of positions, or half of them."""
    groups = int(parameters["heads"])
    layers = _wider(shape, groups)
    products = 2 * shape.write_positions * shape.write_positions * groups * shape.write_kernel
    return Cost(
        parameters=layers.parameters,
        forward_macs=layers.forward_macs + products // (2 if shape.is_causal else 1),
    )


def _residual(shape: Shape, parameters: Parameters) -> Cost:
    """Norm, down to `width`, up again, biases in both; `read_kernel` taps over feature maps."""
    width, features = int(parameters["width"]), shape.out_features
    products = 2 * width * features * shape.read_kernel
    return Cost(
        parameters=2 * features + products + width + features,
        forward_macs=shape.write_positions * products,
    )


def _low_rank(shape: Shape, parameters: Parameters) -> Cost:
    rank = int(parameters["rank"])
    size = rank * (shape.in_features + shape.out_features)
    return Cost(parameters=size, forward_macs=shape.write_positions * size)


def _channel_gate(shape: Shape, _: Parameters) -> Cost:
    return Cost(parameters=shape.out_features, forward_macs=0)


def _attention(shape: Shape, parameters: Parameters) -> Cost:
    """Norm, three projections in, one out, and two products over all pairs of positions, or half of them."""
    inner = int(parameters["heads"]) * int(parameters["head_size"])
    projections = 4 * shape.out_features * inner
    products = 2 * shape.write_positions * shape.write_positions * inner
    return Cost(
        parameters=2 * shape.out_features + projections,
        forward_macs=shape.write_positions * projections + products // (2 if shape.is_causal else 1),
    )


def _stack(shape: Shape, parameters: Parameters) -> Cost:
    """Copies of so many blocks; of all that the run has, where a blueprint doesn't say."""
    blocks = int(parameters.get("blocks", shape.depth))
    return Cost(parameters=blocks * shape.block_parameters, forward_macs=blocks * shape.block_forward_macs)


def _control(shape: Shape, parameters: Parameters) -> Cost:
    return (_span if shape.kind in SPAN_KINDS else _residual)(shape, parameters)


FORMULAS: dict[str, Formula] = {
    "span.linear": _span,
    "span.conv": _span,
    "span.heads": _heads,
    "residual.linear": _residual,
    "residual.conv": _residual,
    "adapter.low_rank": _low_rank,
    "adapter.lora": _low_rank,
    "gate.channel": _channel_gate,
    "attention.self": _attention,
    "stack.double": _stack,
    "stack.part": _stack,
    "control.random_frozen": _control,
}
