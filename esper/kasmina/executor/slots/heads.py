"""Attention modules as they are written: their projections, the layer that reads their heads, and what they count.

Known names only. Whether an attention with more heads does what a seed beside it does is tried before it is a slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from esper.kasmina.executor.passes.trace import ForwardTrace
from esper.kasmina.executor.slots.fresh import like, without_hooks
from esper.kasmina.executor.slots.layers import features_in, features_out, is_dense, stored_parameter

SEPARATE = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)
FUSED = ("c_attn", "qkv", "qkv_proj", "query_key_value", "Wqkv")
OUTPUTS = ("o_proj", "out_proj", "c_proj", "out_lin", "out", "dense", "wo", "proj")
SIBLING_OUTPUT = "output.dense"

HEAD_SIZES = ("head_dim", "attention_head_size", "head_size", "dim_head")
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
GROUPS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads")
WIDTHS = ("all_head_size", "split_size", "inner_dim", "embed_dim")


@dataclass(frozen=True, slots=True)
class Projection:
    """A layer of the attention, the rows that one group of heads has in it, and in how many equal blocks they lie."""

    name: str
    rows: int
    blocks: int = 1


@dataclass(frozen=True, slots=True)
class Heads:
    """One group: heads that share keys and values, or a head that has its own. `silent` follow the output layer."""

    projections: tuple[Projection, ...]
    output: str
    columns: int
    counts: tuple[tuple[str, int], ...]
    """What the attention counts, and by how much a group raises it."""
    silent: tuple[str, ...]

    @property
    def rows(self) -> int:
        return sum(projection.rows for projection in self.projections)

    def paths(self, attention_path: str) -> list[str]:
        return [f"{attention_path}.{projection.name}" for projection in self.projections]

    @property
    def each(self) -> int:
        """Heads of one group."""
        size = next((row.rows for row in self.projections[1:2]), self.columns)
        return self.columns // size

    def groups(self, attention: nn.Module) -> int:
        """Groups that the attention has."""
        first = self.projections[0]
        return features_out(attention.get_submodule(first.name)) // first.rows

    def resized(self, attention: nn.Module, layers: dict[str, nn.Module], groups: int) -> nn.Module:
        """The attention's own code over other projections of so many groups, without its output layer."""
        copied = without_hooks(attention)
        for name, layer in {**layers, **{name: nn.Identity() for name in (self.output, *self.silent) if name}}.items():
            copied._modules[name] = layer
        for name, by in self.counts:
            setattr(copied, name, by * groups)
        return copied

    def projections_of(self, attention: nn.Module, groups: int) -> dict[str, nn.Module]:
        """New projections for so many groups."""
        found = {}
        for projection in self.projections:
            layer = attention.get_submodule(projection.name)
            has_bias = stored_parameter(layer, "bias") is not None
            found[projection.name] = like(layer, features_in(layer), projection.rows * groups, has_bias=has_bias)
        return found


@dataclass(frozen=True, slots=True)
class Attention:
    """An attention, the path of the layer that reads its heads, and ways in which its heads may lie."""

    path: str
    output_path: str
    ways: tuple[Heads, ...]


def attentions(model: nn.Module, trace: ForwardTrace) -> Iterator[Attention]:
    """The attentions that run once in a forward pass."""
    for path in trace.visits:
        if path in trace.repeated:
            continue
        module = model.get_submodule(path)
        output = _output(model, path)
        if output is None or output not in trace.visits or output in trace.repeated:
            continue
        names = _projections(module)
        if names and (ways := tuple(_ways(model, trace, path, output, names))):
            yield Attention(path, output, ways)


def _projections(module: nn.Module) -> tuple[str, ...]:
    children = {name for name, child in module.named_children() if is_dense(child)}
    separate = next((names for names in SEPARATE if children.issuperset(names)), None)
    return separate or next(((name,) for name in FUSED if name in children), ())


def _output(model: nn.Module, path: str) -> str | None:
    """The layer that reads the heads: a child of the attention, or a module beside it."""
    module = model.get_submodule(path)
    own = next((name for name in OUTPUTS if is_dense(module._modules.get(name) or nn.Identity())), None)
    if own is not None:
        return f"{path}.{own}"
    sibling = f"{path.rpartition('.')[0]}.{SIBLING_OUTPUT}".lstrip(".")
    try:
        return sibling if is_dense(model.get_submodule(sibling)) else None
    except AttributeError:
        return None


def _ways(
    model: nn.Module, trace: ForwardTrace, path: str, output_path: str, names: tuple[str, ...]
) -> Iterator[Heads]:
    module, width = model.get_submodule(path), features_in(model.get_submodule(output_path))
    sizes = [features_out(module.get_submodule(name)) for name in names]
    head_size = _first(module, HEAD_SIZES) or width // (_first(module, HEADS) or width + 1)
    if not head_size or width % head_size or (len(names) == 1 and sizes[0] != 3 * width):
        return
    groups = (sizes[1] if len(names) == 3 else width) // head_size
    if not groups or (width // head_size) % groups or (len(names) == 3 and (sizes[0] != width or sizes[1] != sizes[2])):
        return
    each = width // head_size // groups
    rows = [each * head_size, head_size, head_size] if len(names) == 3 else [3 * head_size]
    output = output_path.removeprefix(f"{path}.") if output_path.startswith(f"{path}.") else ""
    order = trace.visits[output_path].order
    silent = tuple(
        name
        for name, _ in module.named_children()
        if output and f"{path}.{name}" in trace.visits and trace.visits[f"{path}.{name}"].order > order
    )
    for blocks in (1,) if len(names) == 3 else (3, 1):
        for widths in (WIDTHS[:-1], WIDTHS):
            counts = [(name, each) for name in HEADS if _is_count(module, name, each * groups)]
            counts += [(name, 1) for name in GROUPS if _is_count(module, name, groups)]
            counts += [(name, each * head_size) for name in widths if _is_count(module, name, width)]
            projections = tuple(Projection(name, count, blocks) for name, count in zip(names, rows, strict=True))
            yield Heads(projections, output, each * head_size, tuple(counts), silent)


def _first(module: nn.Module, names: tuple[str, ...]) -> int:
    return next((value for name in names if type(value := vars(module).get(name)) is int and value > 0), 0)


def _is_count(module: nn.Module, name: str, value: int) -> bool:
    return type(found := vars(module).get(name)) is int and found == value


def extra_tensors(attention: nn.Module, heads: Heads) -> list[str]:
    """What the attention holds beside its projections: it may be shared by all heads, or belong to each."""
    known = {projection.name for projection in heads.projections} | {heads.output, *heads.silent}
    return [name for name, _ in attention.named_parameters() if name.rpartition(".")[0] not in known]
