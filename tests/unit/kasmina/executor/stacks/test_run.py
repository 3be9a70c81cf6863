"""A run is found where equal blocks follow each other, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from esper.core.errors import ConfigError
from esper.kasmina.executor.stacks.run import Run, find_runs, named_run
from tests.unit.kasmina.executor.stacks.hosts import Block, Config, Decoder, Experts, ResNet, Shared, decoder
from tests.unit.tolaria.stacks.vision_hosts import resnet, vit

TOKENS = torch.randn(2, 5, 8)
IMAGES = torch.randn(2, 3, 6, 6)


def tied(model: Decoder) -> Decoder:
    """Its second block's norm is the first one's."""
    model.layers[1].norm.weight = model.layers[0].norm.weight  # type: ignore[union-attr]
    return model


def test_the_blocks_of_a_decoder_are_a_run() -> None:
    runs, refusals = find_runs(decoder(), TOKENS)
    assert runs == [Run("layers", 0, 3)]
    assert refusals == []


def test_the_equal_tail_of_a_stage_is_a_run() -> None:
    assert find_runs(ResNet(), IMAGES)[0] == [Run("layer1", 1, 3)]


def test_rates_of_stochastic_depth_that_rise_from_an_identity_set_no_blocks_apart() -> None:
    model = vit((1, 8, 8), 10, depth=4)
    assert isinstance(model.blocks[0].drop_path1, nn.Identity)  # type: ignore[union-attr,index]
    assert find_runs(model, torch.rand(2, 1, 8, 8))[0] == [Run("blocks", 0, 4)]
    model.blocks[0].drop_path1 = nn.Linear(24, 24)  # type: ignore[union-attr,index]
    assert find_runs(model, torch.rand(2, 1, 8, 8))[0] == [Run("blocks", 1, 4)]


def test_the_tail_of_each_stage_is_a_run_of_its_own() -> None:
    runs, _ = find_runs(resnet((1, 8, 8), 10, (3, 4)), torch.rand(2, 1, 8, 8))
    assert runs == [Run("layer1", 1, 3), Run("layer2", 1, 4)]


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_layers_of_torchs_own_encoder_are_a_run(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(8, 4))
    assert find_runs(model, TOKENS)[0] == [Run("0.layers", 0, 3)]


def test_what_follows_a_pattern_goes_with_its_block_and_what_counts_a_position_by_an_unknown_name_is_refused() -> None:
    blocks = [Block(config := Config(4), index) for index in range(4)]
    for index, block in enumerate(blocks):
        block.shift_size, block.window_size = (0, 2)[index % 2], 4
    model = Decoder(list(blocks), config)
    assert find_runs(model, TOKENS)[0] == [Run("layers", 0, 4)]
    for index, block in enumerate(blocks):
        block.depth_scale = 1 / (1 + index)
    (refusal,) = find_runs(model, TOKENS)[1]
    assert refusal.reason == "blocks 0 and 1 differ in depth_scale: 1.0 and 0.5"


def _block(width: int = 8) -> nn.Module:
    """Of a class that each call defines anew."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)  # type: ignore[no-any-return]

    return Own()


def test_two_classes_of_one_name_are_told_with_what_sets_them_apart() -> None:
    (refusal,) = find_runs(nn.Sequential(nn.Sequential(_block(), _block()), nn.Linear(8, 4)), TOKENS)[1]
    told = f"blocks 0 and 1 differ in class {__name__}._block.<locals>.Own, of which there are two: define it once"
    assert refusal.reason.startswith(told)


@pytest.mark.parametrize("parametrised", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_blocks_of_parametrised_layers_are_a_run_though_each_layer_has_a_class_of_its_own(
    parametrised: Callable[[nn.Module], nn.Module],
) -> None:
    blocks = [nn.Sequential(parametrised(nn.Linear(8, 8)), nn.ReLU()) for _ in range(3)]
    assert find_runs(nn.Sequential(nn.Sequential(*blocks), nn.Linear(8, 4)), TOKENS) == ([Run("0", 0, 3)], [])
    blocks[1] = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    assert find_runs(nn.Sequential(nn.Sequential(*blocks), nn.Linear(8, 4)), TOKENS)[0] == []


class Residual(nn.Module):
    """Begins, as residual networks do, with a shortcut of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut = nn.Sequential()
        self.body = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.body(x)  # type: ignore[no-any-return]


def test_blocks_that_begin_with_a_shortcut_of_nothing_are_a_run() -> None:
    model = nn.Sequential(nn.Sequential(Residual(), Residual()), nn.Linear(8, 4))
    assert find_runs(model, TOKENS) == ([Run("0", 0, 2)], [])


def test_blocks_that_are_frozen_are_no_run_and_a_frozen_one_among_others_is_called_so() -> None:
    model = decoder()
    model.layers[0].requires_grad_(False)  # type: ignore[operator]
    assert find_runs(model, TOKENS)[0] == [Run("layers", 1, 3)]
    model.layers[2].requires_grad_(False)  # type: ignore[operator]
    (refusal,) = find_runs(model, TOKENS)[1]
    assert refusal.reason.endswith("float32, frozen and [8] float32, trained")
    model.layers.requires_grad_(False)
    (refusal,) = find_runs(model, TOKENS)[1]
    assert refusal.reason.startswith("nothing in its blocks is trained")


def test_blocks_that_stand_in_the_model_itself_are_told_where_to_be_put() -> None:
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)]
    runs, refusals = find_runs(nn.Sequential(nn.Linear(8, 8), *blocks, nn.Linear(8, 4)), TOKENS)
    assert (runs, [refusal.path for refusal in refusals]) == ([], ["the model"])
    assert refusals[0].reason == "its blocks 1 to 3 can't be named in it; put them in a Sequential of their own"
    assert find_runs(nn.Sequential(nn.Linear(8, 8), nn.Sequential(*blocks)), TOKENS) == ([Run("1", 0, 3)], [])
    assert find_runs(nn.Sequential(blocks[0], nn.Linear(8, 8)), TOKENS) == ([], [])


def test_experts_beside_each_other_are_no_run() -> None:
    runs, refusals = find_runs(Experts(), TOKENS)
    assert runs == []
    assert "doesn't read what the first gives" in refusals[0].reason


def test_blocks_inside_a_run_are_not_offered_beside_it() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([decoder_body() for _ in range(2)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for stage in self.stages:
                x = stage(x)
            return x

    def decoder_body() -> nn.Module:
        return nn.Sequential(*[nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)])

    runs, _ = find_runs(Outer(), TOKENS)
    assert [run.path for run in runs] == ["stages"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (decoder(1), "it has one block, a run needs two"),
        (Decoder([Block(c := Config(2), 0), Block(c, 1, width=4)], c), r"differ in mlp.0.weight: \[16, 8\] .* and \[4"),
        (
            Decoder([b := Block(c2 := Config(2), 0), b], c2),
            "0 and 1 are one block, which runs 2 times .* same weights; a",
        ),
        (tied(decoder(2)), "blocks 0 and 1 share parameters; a run needs blocks with weights of their own"),
        (Shared(grouped=True), "its one block runs 4 times in a forward pass with the same weights; a run needs"),
    ],
    ids=["one block", "unequal widths", "one block twice", "tied", "one block in a list, used again"],
)
def test_a_named_list_that_is_no_run_is_refused_with_its_reason(model: nn.Module, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        named_run(model, TOKENS, "stack:layers")
    assert "\n" not in str(caught.value)


class Towers(nn.Module):
    """One tower of blocks over two halves of a text, block after block of each half, or layer by layer of both."""

    def __init__(self, *, mixed: bool = False) -> None:
        super().__init__()
        config = Config(3)
        self.tower = nn.Sequential(*[Block(config, place) for place in range(3)])
        self.mixed = mixed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, 1)
        if self.mixed:  # what the first block gives for one half, the second is given for the other
            for block in self.tower:
                left, right = block(right)[0], block(left)[0]
        else:
            for block in self.tower:
                left = block(left)[0]
            for block in self.tower:
                right = block(right)[0]
        return left - right


def test_a_shared_tower_of_blocks_is_a_run() -> None:
    assert find_runs(Towers(), TOKENS.repeat(1, 2, 1))[0] == [Run("tower", 0, 3)]


def test_a_shared_tower_whose_halves_cross_is_none() -> None:
    _, refusals = find_runs(Towers(mixed=True), TOKENS.repeat(1, 2, 1))
    assert [refusal.reason for refusal in refusals if refusal.path == "tower"] == [
        "blocks 0 and 1 don't follow each other: the second doesn't read what the first gives"
    ]


def test_a_block_outside_of_lists_that_is_used_again_is_refused_with_its_reason() -> None:
    runs, refusals = find_runs(Shared(grouped=False), TOKENS)
    assert runs == []
    reason = "it runs 4 times in a forward pass with the same weights; a run needs blocks with weights of their own"
    assert [(refusal.path, refusal.reason) for refusal in refusals] == [("block", reason)]
    with pytest.raises(ConfigError, match="'stack:block': can't be repeated: it runs 4 times"):
        named_run(Shared(grouped=False), TOKENS, "stack:block")


def test_a_name_that_is_no_list_is_refused_with_the_runs_that_are_there() -> None:
    with pytest.raises(ConfigError, match="runs of equal blocks in this model: stack:layers"):
        named_run(decoder(), TOKENS, "stack:blocks")


def test_looking_for_runs_leaves_no_trace() -> None:
    model = ResNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    find_runs(model, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_scripts_are_no_run_and_the_blocks_beside_them_keep_no_hook() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU())

    scripts = [torch.jit.script(block()) for _ in range(2)]
    blocks = [block(), block(), *scripts]
    runs, _ = find_runs(nn.Sequential(nn.Sequential(*blocks)), TOKENS)
    assert [(run.path, run.start, run.stop) for run in runs] == [("0", 0, 2)]
    assert not any(module._forward_hooks for module in blocks[:2])
    with pytest.raises(ConfigError, match="'stack:0': can't be repeated: blocks 0 and 1 are compiled"):
        named_run(nn.Sequential(nn.Sequential(*scripts)), TOKENS, "stack:0")
