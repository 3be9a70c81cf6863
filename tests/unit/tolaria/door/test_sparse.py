"""An embedding whose gradients are sparse trains and grows as any other; what can't take these is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper.core.errors import ConfigError
from tests.unit.tolaria.scripted_control import cull, germination, keep

SPAN = "span_linear:fc1-fc2"
STEPS = 24
BASE = {"steps": STEPS, "evaluate_every_steps": 4, "min_samples": 20, "seed": 3, "checkpoint_every_epochs": 0}


class Words(nn.Module):
    def __init__(self, *, is_sparse: bool = True) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(40, 6, sparse=is_sparse)
        self.fc1 = nn.Linear(6, 5)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(5, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.embedding(words).mean(1))))


def words(samples: int, seed: int) -> TensorDataset:
    drawn = torch.randint(40, (samples, 5), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(drawn, drawn[:, 0] % 3)


def step(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
}


def own(run_dir: Any, optimizer: str, **config: Any) -> tuple[nn.Module, esper.Result]:
    model = Words()
    made = OPTIMIZERS[optimizer](model.parameters())
    batches = DataLoader(words(96, 1), batch_size=16, shuffle=True)
    judge = DataLoader(words(60, 2), batch_size=30)
    settings = {**BASE, "run_dir": run_dir, **config}
    with esper.Growth(model, made, step=step, judge=judge, config=settings) as growth:
        for batch in growth.steps(batches):
            made.zero_grad()
            loss = step(model, batch).mean()
            growth.note(loss)
            loss.backward()
            made.step()
    return model, growth.result


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # of Adagrad itself
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_cull_leaves_what_a_run_that_never_grew_has(tmp_path, scripted, optimizer):
    scripted({})
    never, _ = own(tmp_path / "never", optimizer)
    scripted({4: germination("s1", SPAN), 16: cull("s1")})
    culled, result = own(tmp_path / "culled", optimizer)
    assert [seed["fate"] for seed in result.summary["seeds"]] == ["culled"]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(culled.parameters(), never.parameters(), strict=True))


def test_gradients_count_as_those_of_a_dense_embedding(tmp_path, scripted):
    scripted({})
    norms = []
    for is_sparse in (True, False):
        told: list[Any] = []
        data = {"train": words(96, 1), "judge": words(60, 2), "test": words(60, 3)}
        settings = {**BASE, "run_dir": tmp_path / str(is_sparse), "batch_size": 16}
        model = Words(is_sparse=is_sparse)
        esper.train(model, data, optimizer=OPTIMIZERS["sgd"], config=settings, callbacks=[told.append])
        norms.append([each.gradient_norm for each in told if getattr(each, "gradient_norm", None) is not None])
    assert norms[0]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_esper_train_keeps_a_span(tmp_path, scripted):
    scripted({4: germination("s1", SPAN), 16: keep("s1")})
    data = {"train": words(96, 1), "judge": words(60, 2), "test": words(60, 3)}
    settings = {**BASE, "run_dir": tmp_path, "batch_size": 16}
    result = esper.train(Words(), data, optimizer=OPTIMIZERS["adagrad"], config=settings)
    assert result.model.fc1.out_features > 5


REFUSED: list[tuple[str, Any, dict[str, Any]]] = [
    (r"optimizer = 'Adam': embedding of the model has sparse gradients", None, {}),
    (r"optimizer = 'SGD': .*not fused and without weight decay", None, {"optimizer": "sgd"}),
    (r"optimizer = 'SGD'", lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1), {}),
    (r"clip_norm = 1.0: embedding of the model .*leave this out", OPTIMIZERS["sgd"], {"clip_norm": 1.0}),
    (r"pcgrad = True: embedding", OPTIMIZERS["sgd"], {"pcgrad": True, "accumulate": 2}),
    (r"seed_conflicts = True: embedding", OPTIMIZERS["sgd"], {"seed_conflicts": True, "grow": "auto"}),
]


@pytest.mark.parametrize(("message", "optimizer", "changes"), REFUSED)
def test_what_cannot_take_them_is_refused_in_one_line(tmp_path, message, optimizer, changes):
    data = {"train": words(96, 1), "judge": words(60, 2), "test": words(60, 3)}
    with pytest.raises(ConfigError, match=message) as found:
        esper.train(
            Words(), data, optimizer=optimizer, config={**BASE, "run_dir": tmp_path, "grow": "never", **changes}
        )
    assert "\n" not in str(found.value)


def test_whole_numbers_that_are_held_as_amounts_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"held in float32: call \.long\(\) on them in forward, or give a Dataset"):
        esper.train(Words(), words(300, 1).tensors, config={**BASE, "run_dir": tmp_path})
