"""The decoder: looks back only, in every style; its blocks are equal, know no place, and can be repeated."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from math import log
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn import functional as F

from esper.kasmina.executor import TrainingArm, count_macs
from esper.tolaria.task.models.transformer import CausalTransformer, DecoderStyle, Rotary

STYLES = [
    DecoderStyle(size=16, heads=2, positions=positions, norm=norm, mlp=mlp, is_tied=is_tied)
    for positions, norm, mlp, is_tied in product(
        ("learnt", "rotary"), ("layer", "rms"), ("plain", "gated"), (False, True)
    )
]


def decoder(style: DecoderStyle, depth: int = 2) -> CausalTransformer:
    torch.manual_seed(0)
    model = CausalTransformer(vocabulary=11, context=8, widths=(16,) * depth, dropout=0.0, style=style)
    if model.positions is not None:
        nn.init.normal_(model.positions)
    return model.eval()


def tokens() -> torch.Tensor:
    return torch.randint(0, 11, (3, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_a_prediction_depends_on_earlier_tokens_and_on_all_of_them(style: DecoderStyle) -> None:
    model, before = decoder(style), tokens()
    after = before.clone()
    after[:, 5] = (after[:, 5] + 1) % 11
    assert torch.equal(model(before)[:, :5], model(after)[:, :5])
    for position in (5, 6, 7):
        assert not torch.allclose(model(before)[:, position], model(after)[:, position])


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_the_order_of_earlier_tokens_matters(style: DecoderStyle) -> None:
    model, before = decoder(style), tokens()
    after = before[:, [1, 0, *range(2, 8)]]
    rows = before[:, 0] != before[:, 1]
    assert not torch.allclose(model(before)[rows, 7], model(after)[rows, 7])


@pytest.mark.parametrize("style", STYLES, ids=str)
def test_blocks_are_equal_modules_and_repeated_they_are_a_deeper_decoder(style: DecoderStyle) -> None:
    model, deeper = decoder(style), decoder(style, depth=4)
    assert type(model.blocks) is nn.ModuleList
    shapes = [[(name, p.shape) for name, p in block.named_parameters()] for block in model.blocks]
    assert shapes[0] == shapes[1]
    model.blocks.extend([copy.deepcopy(block) for block in model.blocks])
    assert list(model.state_dict()) == list(deeper.state_dict())
    deeper.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens()), deeper(tokens()))


# Dynamo looks at the gradients of values between blocks.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("style", [STYLES[0], STYLES[-1]], ids=str)
def test_blocks_compiled_one_by_one_share_one_graph_at_any_depth(style: DecoderStyle) -> None:
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = decoder(style, depth=2).train()
    for _ in range(2):
        for block in model.blocks:
            block.compile(backend=keep)
        model(tokens()).sum().backward()
        model.blocks.extend([copy.deepcopy(block) for block in model.blocks])
    assert len(graphs) == 1


def test_the_default_styles_state_has_the_names_that_checkpoints_hold() -> None:
    names = set(decoder(DecoderStyle(), depth=1).state_dict())
    layers = ("attention.query", "attention.key", "attention.value", "attention.out")
    biased = ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
    assert names == {
        *("tokens.weight", "positions", "norm.weight", "norm.bias", "head.weight"),
        *(f"blocks.0.{layer}.weight" for layer in (*layers, *biased)),
        *(f"blocks.0.{layer}.bias" for layer in biased),
    }


def test_a_modern_style_has_neither_biases_nor_positions_in_its_state() -> None:
    modern = decoder(DecoderStyle(positions="rotary", norm="rms", mlp="gated"))
    assert not [name for name in modern.state_dict() if not name.endswith(".weight")]


def test_rotary_positions_leave_products_that_depend_on_the_distance_alone() -> None:
    rotary = Rotary(context=12, head_size=6)
    query, key = torch.randn(2, 1, 1, 1, 6, generator=torch.Generator().manual_seed(0)).expand(2, 1, 1, 12, 6)
    products = (rotary(query) @ rotary(key).transpose(-1, -2))[0, 0]
    for distance in range(1, 12):
        diagonal = products.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5)
    assert not torch.allclose(products[5, 0], products[5, 1])
    assert torch.allclose(rotary(query).norm(dim=-1), query.norm(dim=-1))


def test_a_rotary_pass_keeps_the_type_of_what_it_turns() -> None:
    assert Rotary(4, 2)(torch.randn(1, 1, 3, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("mlp", ["plain", "gated"])
def test_its_work_is_a_product_for_each_weight_and_token_and_half_of_the_pairs_of_tokens(mlp: str) -> None:
    depth, context, size = 3, 8, 16
    model = decoder(DecoderStyle(size=size, heads=2, positions="rotary", mlp=mlp), depth)
    work = count_macs(TrainingArm(model, torch.optim.SGD(model.parameters(), lr=0.1)), tokens())
    matrices = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Linear))
    # Two products over all pairs, of which half are needed.
    assert work.forward == context * matrices + depth * context * context * size
    assert work.training == 3 * work.forward


def test_tied_weights_are_one_parameter_and_start_near_a_uniform_guess() -> None:
    torch.manual_seed(0)
    free, tied = (
        CausalTransformer(
            vocabulary=500, context=8, widths=(64, 64), dropout=0.0, style=DecoderStyle(size=128, is_tied=is_tied)
        )
        for is_tied in (False, True)
    )
    assert tied.head.weight is tied.tokens.weight
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (free, tied)]
    assert counts[0] - counts[1] == 500 * 128
    inputs = torch.randint(0, 500, (64, 8))
    loss = F.cross_entropy(tied(inputs).flatten(0, 1), torch.randint(0, 500, (512,)))
    assert loss.item() == pytest.approx(log(500), abs=0.3)
