"""The built-in blueprints, as data: one row each, from which the catalogue's messages and artefacts are made.

A row is the only place to add or change a blueprint; its version rises with every change.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.leyline import BlueprintTier, HandlingClass, ResourceProfile, SlotKind

SPAN_LINEAR = SlotKind.SLOT_KIND_SPAN_LINEAR
SPAN_CONV = SlotKind.SLOT_KIND_SPAN_CONV
SPAN_CONV_LINEAR = SlotKind.SLOT_KIND_SPAN_CONV_LINEAR
RESIDUAL_LINEAR = SlotKind.SLOT_KIND_RESIDUAL_LINEAR
RESIDUAL_CONV = SlotKind.SLOT_KIND_RESIDUAL_CONV
SPAN_HEADS = SlotKind.SLOT_KIND_SPAN_HEADS
STACK = SlotKind.SLOT_KIND_STACK
LINEAR = SlotKind.SLOT_KIND_LINEAR

SAFE = BlueprintTier.BLUEPRINT_TIER_SAFE
EXPERIMENTAL = BlueprintTier.BLUEPRINT_TIER_EXPERIMENTAL
HIGH_RISK = BlueprintTier.BLUEPRINT_TIER_HIGH_RISK

STANDARD = HandlingClass.HANDLING_CLASS_STANDARD
RESTRICTED = HandlingClass.HANDLING_CLASS_RESTRICTED
QUARANTINE = HandlingClass.HANDLING_CLASS_QUARANTINE


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """One parameter: its meaning with unit, its range, its default."""

    name: str
    low: float
    high: float
    default: float
    meaning: str
    is_integer: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One blueprint."""

    blueprint_id: str
    name: str
    description: str
    slot_kinds: tuple[SlotKind, ...]
    parameters: tuple[Bounds, ...]
    risk: float
    recommendation: str
    tier: BlueprintTier = SAFE
    handling: HandlingClass = STANDARD
    resources: ResourceProfile = ResourceProfile.RESOURCE_PROFILE_MIXED
    is_zero_output: bool = True
    is_foldable: bool = False
    is_control: bool = False
    version: int = 1


WIDTH = Bounds(name="width", low=1, high=1024, default=8, meaning="hidden features or channels of the seed")
FACTOR = Bounds(
    name="factor",
    low=1,
    high=16,
    default=1,
    meaning="width of the layer afterwards in widths of before, in place of `width`; 1: `width` says",
    is_integer=False,
)

HEADS = Bounds(name="heads", low=1, high=64, default=1, meaning="heads, or groups of heads that share keys and values")

BUILTIN: tuple[Row, ...] = (
    Row(
        blueprint_id="span.linear",
        name="Wider linear layer",
        description="W2 f(W1 x) beside two linear layers: exactly a wider hidden layer. For narrow hosts.",
        slot_kinds=(SPAN_LINEAR,),
        parameters=(WIDTH, FACTOR),
        risk=0.10,
        recommendation="The first choice between linear layers; folds into the host.",
        is_foldable=True,
        version=2,
    ),
    Row(
        blueprint_id="span.conv",
        name="Wider convolution",
        description="More channels between two convolutions, or from a convolution to a linear layer after flatten.",
        slot_kinds=(SPAN_CONV, SPAN_CONV_LINEAR),
        parameters=(WIDTH, FACTOR),
        risk=0.15,
        recommendation="The first choice between convolutions; owns its batch norm and folds into the host.",
        is_foldable=True,
        version=2,
    ),
    Row(
        blueprint_id="span.heads",
        name="More attention heads",
        description="Whole heads beside those of an attention, zero columns at first: exactly a wider attention.",
        slot_kinds=(SPAN_HEADS,),
        parameters=(HEADS,),
        risk=0.20,
        recommendation="Where attention is what a network lacks; folds into the host. Chosen only when named.",
        tier=EXPERIMENTAL,
        is_foldable=True,
    ),
    Row(
        blueprint_id="residual.linear",
        name="Residual bottleneck, linear",
        description="h + a W2 f(W1 norm(h)) on one activation: depth where width is not the limit.",
        slot_kinds=(RESIDUAL_LINEAR,),
        parameters=(WIDTH,),
        risk=0.30,
        recommendation="Cannot undo a narrow layer; prefer a span there. Stays a module of its own.",
    ),
    Row(
        blueprint_id="residual.conv",
        name="Residual bottleneck, convolution",
        description="h + a W2 f(W1 norm(h)) on one feature map: depth where width is not the limit.",
        slot_kinds=(RESIDUAL_CONV,),
        parameters=(WIDTH,),
        risk=0.30,
        recommendation="Cannot undo a narrow layer; prefer a span there. Stays a module of its own.",
    ),
    Row(
        blueprint_id="adapter.low_rank",
        name="Low-rank adapter",
        description="h + a B A h: a linear correction of small rank, cheap and hard to overfit.",
        slot_kinds=(RESIDUAL_LINEAR, RESIDUAL_CONV),
        parameters=(
            Bounds(name="rank", low=1, high=256, default=4, meaning="rank of the correction, at most the features"),
        ),
        risk=0.20,
        recommendation="For large hosts with a tight budget.",
    ),
    Row(
        blueprint_id="adapter.lora",
        name="Low-rank adapter of a layer",
        description="(W + alpha / rank B A) x beside one linear layer, B zero at first: fine-tuning at little cost.",
        slot_kinds=(LINEAR,),
        parameters=(
            Bounds(name="rank", low=1, high=256, default=4, meaning="rank of B A"),
            Bounds(
                name="alpha",
                low=0.01,
                high=1024,
                default=8,
                meaning="scales B A, over the rank",
                is_integer=False,
            ),
        ),
        risk=0.15,
        recommendation="For trained hosts, frozen or not; merges into the layer's weight.",
        is_foldable=True,
    ),
    Row(
        blueprint_id="gate.channel",
        name="Channel gate",
        description="h + a g h with one trained factor for each feature or channel, zero at first.",
        slot_kinds=(RESIDUAL_LINEAR, RESIDUAL_CONV),
        parameters=(),
        risk=0.20,
        recommendation="The cheapest seed; it reweighs what the host already computes.",
        resources=ResourceProfile.RESOURCE_PROFILE_CPU,
    ),
    Row(
        blueprint_id="attention.self",
        name="Self-attention block",
        description="h + a Attention(norm(h)) over the positions of a sequence, output projection zero at first.",
        slot_kinds=(RESIDUAL_LINEAR, RESIDUAL_CONV),
        parameters=(
            Bounds(name="heads", low=1, high=32, default=2, meaning="attention heads"),
            Bounds(name="head_size", low=4, high=128, default=16, meaning="features of one head"),
        ),
        risk=0.55,
        recommendation="Only on sequences; its cost grows with the square of their length.",
        tier=EXPERIMENTAL,
        resources=ResourceProfile.RESOURCE_PROFILE_MEMORY_HEAVY,
    ),
    Row(
        blueprint_id="stack.double",
        name="Doubled stack",
        description="A run of equal blocks, repeated behind itself with weights and optimiser state: twice the depth.",
        slot_kinds=(STACK,),
        parameters=(),
        risk=0.25,
        recommendation="For language models; it jumps, and is judged after it has recovered. Part of the host at once.",
        is_zero_output=False,
    ),
    Row(
        blueprint_id="stack.part",
        name="Lengthened stack",
        description="The last blocks of a run, repeated behind it: where twice the depth would be too much.",
        slot_kinds=(STACK,),
        parameters=(
            Bounds(name="blocks", low=1, high=1024, default=1, meaning="blocks that are repeated, at most the run's"),
        ),
        risk=0.25,
        recommendation="To end at a given depth or within a budget; otherwise double.",
        is_zero_output=False,
    ),
    Row(
        blueprint_id="control.random_frozen",
        name="Random frozen control",
        description="A seed of random weights that never learns: what a judge must refuse.",
        slot_kinds=(SPAN_LINEAR, SPAN_CONV, SPAN_CONV_LINEAR, RESIDUAL_LINEAR, RESIDUAL_CONV),
        parameters=(
            WIDTH,
            FACTOR,
            Bounds(
                name="scale", low=0.01, high=10.0, default=1.0, meaning="factor on the output weights", is_integer=False
            ),
        ),
        risk=0.90,
        recommendation="For negative controls only; it makes the host worse on purpose.",
        tier=HIGH_RISK,
        handling=QUARANTINE,
        is_zero_output=False,
        is_control=True,
        version=2,
    ),
)
