"""The ends of branches are found in blocks as people write them; where there are none, nothing is halved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina.executor.stacks.ends import branch_ends
from esper.tolaria.task.models.transformer import CausalTransformer, DecoderStyle

WIDTH = 16


class PreNorm(nn.Module):
    """Two branches one after the other, the first a sum of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.left, self.right = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        read = self.norm1(x)
        x = x + self.drop(self.left(torch.tanh(read)) + self.right(torch.sin(read)))
        return x + self.drop(self.fc2(torch.relu(self.fc1(self.norm2(x)))))


class DeclaredBackwards(nn.Module):
    """The order of declaration is not that of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc2, self.fc1 = nn.Linear(32, WIDTH), nn.Linear(WIDTH, 32)
        self.out, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(torch.tanh(self.value(x)))
        return x + self.fc2(torch.tanh(self.fc1(x)))


class Parallel(nn.Module):
    """Both branches read the same, as GPT-J's do; one is a bare product."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.fc1, self.fc2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(x) @ self.mix.weight + self.fc2(torch.relu(self.fc1(x)))


class PostNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.norm = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.fc2(torch.relu(self.fc1(x))))


class Convolved(nn.Module):
    """A branch of convolutions whose last layer is a norm over the batch, or one that has no scale of its own."""

    def __init__(self, *, affine: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv2(torch.relu(self.conv1(x))))


class Mute(PreNorm):
    """Its ends are zero, so that nothing hangs on them yet."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.left, self.right, self.fc2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def ends(block: nn.Module, inputs: Tensor | None = None) -> tuple[str, ...]:
    inputs = torch.randn(3, 7, WIDTH) if inputs is None else inputs
    return branch_ends(block, block, lambda: block(inputs), key=5)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (PreNorm, {"left", "right", "fc2"}),
        (DeclaredBackwards, {"out", "fc2"}),
        (Parallel, {"mix", "fc2"}),
        (PostNorm, set()),
        (Mute, set()),
        (lambda: nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.1, norm_first=True), {"self_attn.out_proj", "linear2"}),
        (lambda: nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.1), set()),
        (lambda: nn.Linear(WIDTH, WIDTH), set()),
        (lambda: nn.Linear(WIDTH, 3), set()),
    ],
)
def test_the_ends_of_a_blocks_branches(make: Callable[[], nn.Module], found: set[str]) -> None:
    torch.manual_seed(2)
    assert set(ends(make())) == found


@pytest.mark.parametrize(("affine", "found"), [(True, {"norm"}), (False, set())])
def test_what_a_norm_over_the_batch_takes_out_again_is_no_end(affine: bool, found: set[str]) -> None:
    torch.manual_seed(2)
    assert set(ends(Convolved(affine=affine), torch.randn(4, 4, 9))) == found


@pytest.mark.parametrize(("mlp", "last"), [("plain", "mlp.fc2"), ("gated", "mlp.down")])
def test_the_products_own_decoder_ends_in_its_projections(mlp: str, last: str) -> None:
    torch.manual_seed(2)
    style = DecoderStyle(size=16, heads=2, mlp=mlp, positions="rotary")  # type: ignore[arg-type]
    model = CausalTransformer(vocabulary=9, context=8, widths=(32, 32), dropout=0.1, style=style)
    tokens = torch.randint(9, (3, 8))
    assert set(branch_ends(model, model.blocks[-1], lambda: model(tokens), key=5)) == {last, "attention.out"}


def test_looking_changes_no_bit_and_no_mode_and_draws_nothing() -> None:
    block = PreNorm().eval()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    state = torch.get_rng_state()
    inputs = torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    assert ends(block, inputs)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert not block.training
    assert torch.equal(torch.get_rng_state(), state)
