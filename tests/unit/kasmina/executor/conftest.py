"""A small trainer around the executor: hosts, tasks on random data, and steps seeded as the real trainer does it.

Runs live on ESPER_TEST_DEVICE: cpu (the default) or cuda.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.kasmina.executor import Collected, ExecutorConfig, SeedExecutor, TrainingArm
from esper.kasmina.executor.judge.training_pass import try_training
from esper.kasmina.executor.passes.batches import called
from esper.leyline import (
    BlendConfig,
    BlendMode,
    BlendSchedule,
    DirectiveKind,
    ParameterValue,
    SeedDirective,
    SeedRecipe,
    TaskType,
)

CLASSES = 5
DEVICE = torch.device(os.environ.get("ESPER_TEST_DEVICE", "cpu"))
ZERO_OUTPUT = BlendConfig(
    mode=BlendMode.BLEND_MODE_RESIDUAL,
    alpha_target=1.0,
    alpha_start=1.0,
    schedule=BlendSchedule.BLEND_SCHEDULE_WARMUP_HOLD,
    schedule_steps=4,
)


class ToyTask:
    """Classification of random inputs by a fixed random teacher."""

    type = TaskType.TASK_TYPE_CLASSIFICATION
    judge_documents = None
    forward = staticmethod(called)

    def __init__(self, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(11)
        self.inputs = torch.randn(96, *shape, generator=generator, dtype=dtype)
        teacher = torch.randn(self.inputs[0].numel(), CLASSES, generator=generator, dtype=dtype)
        self.targets = (self.inputs.flatten(1) @ teacher).argmax(1).to(DEVICE)
        self.inputs = self.inputs.to(DEVICE)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        probabilities = outputs.softmax(1)
        return (probabilities - F.one_hot(targets, CLASSES)).square().sum(1)

    def clipped_scores(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scores(outputs, targets)
        return scores, torch.zeros_like(scores)

    def judge_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in (64, 80):
            yield self.inputs[start : start + 16], self.targets[start : start + 16]

    def over_judging(self, measure: Callable[[Any], Tensor]) -> list[Tensor]:
        return [measure(batch) for batch in self.judge_batches()]

    def probe_inputs(self) -> Tensor:
        return self.inputs[:8]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:16]
        return self.inputs[order], self.targets[order]


class TokenTask:
    """Next-token prediction on random bytes; a sequence is one unit."""

    type = TaskType.TASK_TYPE_LANGUAGE_MODEL
    judge_documents = None
    forward = staticmethod(called)

    def __init__(self) -> None:
        self.tokens = torch.randint(0, 7, (48, 9), generator=torch.Generator().manual_seed(3)).to(DEVICE)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        nats = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        return nats.clamp(max=4.0).view_as(targets).mean(1)

    def clipped_scores(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nats = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        return nats.clamp(max=2.0).mean(1), (nats > 2.0).float().mean(1)

    def judge_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.tokens[32:, :-1], self.tokens[32:, 1:]

    def over_judging(self, measure: Callable[[Any], Tensor]) -> list[Tensor]:
        return [measure(batch) for batch in self.judge_batches()]

    def over_judging_rows(self, measure: Callable[[Any], Tensor], rows: Tensor) -> list[Tensor]:
        return [measure((self.tokens[32:, :-1][rows], self.tokens[32:, 1:][rows]))]

    def probe_inputs(self) -> Tensor:
        return self.tokens[:4, :-1]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        rows = self.tokens[(step * 8) % 32 :][:8]
        return rows[:, :-1], rows[:, 1:]


def seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if DEVICE.type == "cuda":
        torch.cuda.manual_seed(seed)


class FlatRate:
    """The smallest scheduler: one rate for every group."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.factor = 1.0

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.rate * self.factor

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor = state["factor"]


def mlp(*, dropout: float = 0.0, norm: bool = False, widths: tuple[int, ...] = (6, 7)) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    sizes = (12, *widths)
    for number in range(1, len(sizes)):
        layers[f"fc{number}"] = nn.Linear(sizes[number - 1], sizes[number])
        if norm:
            layers[f"bn{number}"] = nn.BatchNorm1d(sizes[number])
        layers[f"act{number}"] = nn.ReLU()
        if dropout:
            layers[f"drop{number}"] = nn.Dropout(dropout)
    layers[f"fc{len(sizes)}"] = nn.Linear(sizes[-1], CLASSES)
    return nn.Sequential(layers)


class ConvNet(nn.Module):
    """conv-BN-ReLU-conv-BN-ReLU-pool-flatten-linear, with functional operations between."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.dropout(x, self.dropout, self.training)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(x.view(x.size(0), -1))


def conv1d() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv1d(2, 4, 5, stride=2, padding=1),
            act1=nn.ReLU(),
            conv2=nn.Conv1d(4, 5, 3, stride=2, padding=1),
            act2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(5 * 5, CLASSES),
        )
    )


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.fc1 = nn.Linear(8, 12)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class Transformer(nn.Module):
    """Blocks on a residual stream; its own forward slices a parameter by length, which can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 8)
        self.positions = nn.Parameter(torch.zeros(16, 8))
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 7, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.tokens(tokens) + self.positions[: tokens.shape[1]]))


HOSTS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "mlp": (mlp, lambda: ToyTask((12,))),
    "noisy mlp": (lambda: mlp(dropout=0.3, norm=True), lambda: ToyTask((12,))),
    "convnet": (ConvNet, lambda: ToyTask((1, 6, 6))),
    "noisy convnet": (lambda: ConvNet(dropout=0.2), lambda: ToyTask((1, 6, 6))),
    "conv1d": (conv1d, lambda: ToyTask((2, 20))),
    "transformer": (Transformer, TokenTask),
}


class Lion(torch.optim.Optimizer):
    """An optimiser of a user's own that remembers momentum alone, value by value."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for member in group["params"]:
                if member.grad is not None:
                    momentum = self.state[member].setdefault("exp_avg", torch.zeros_like(member))
                    member -= group["lr"] * torch.lerp(member.grad, momentum, beta1).sign()
                    momentum.lerp_(member.grad, 1 - beta2)


class Shampoo(torch.optim.Optimizer):
    """One that remembers a square of a parameter's rows, which a square matrix could be taken for."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-3):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for member in group["params"]:
                if member.grad is not None:
                    rows = member.grad.reshape(len(member), -1)
                    outer = self.state[member].setdefault("outer", rows.new_zeros(len(rows), len(rows)))
                    outer += rows @ rows.T
                    member -= group["lr"] * member.grad


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.02, amsgrad=True),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
    "radam": lambda parameters: torch.optim.RAdam(parameters, lr=0.01),
    "nadam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "adamax": lambda parameters: torch.optim.Adamax(parameters, lr=0.01),
    "adadelta": lambda parameters: torch.optim.Adadelta(parameters, lr=0.5),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=0.01),
    "lion": lambda parameters: Lion(parameters, lr=0.001),
    "shampoo": lambda parameters: Shampoo(parameters, lr=0.001),
}

RATES = {"sgd": 0.05, "nesterov": 0.05}


class Rig:
    """One run: model, optimiser, executor, and the trainer's loop in small."""

    def __init__(
        self,
        model: nn.Module,
        task: Any,
        *,
        optimizer: str = "adam",
        slots: tuple[str, ...] | None = None,
        double: bool = False,
        frozen: tuple[str, ...] = (),
        **settings: Any,
    ) -> None:
        model.to(DEVICE)
        for path in frozen:
            model.get_submodule(path).requires_grad_(False)
        if double:
            model = model.double()
            if task.probe_inputs().is_floating_point():
                task.inputs = task.inputs.double()
        self.task = task
        self.recipes: dict[str, bytes] = {}
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        arm = TrainingArm(model, OPTIMIZERS[optimizer](learning), FlatRate(RATES.get(optimizer, 0.01)))
        config = ExecutorConfig(run_seed=7, slots=slots, measure_every_steps=2, **settings)
        self.executor = SeedExecutor(arm, task, fetch_artifact=self.recipes.__getitem__, config=config)
        self.step = 0
        self.prefix = "d"
        self._directives = 0

    @property
    def arm(self) -> TrainingArm:
        return self.executor.arm

    def directive(self, kind: str, seed_id: str = "s1", **fields: Any) -> SeedDirective:
        self._directives += 1
        return SeedDirective(
            directive_id=f"{self.prefix}{self._directives}",
            seed_id=seed_id,
            kind=DirectiveKind.Value(f"DIRECTIVE_KIND_{kind}"),
            command_id="c1",
            **fields,
        )

    def build(self, blueprint: str, slot_id: str, seed_id: str = "s1", **parameters: float) -> SeedDirective:
        recipe = SeedRecipe(blueprint_id=blueprint, version=1, factory=blueprint).SerializeToString()
        digest = hashlib.sha256(recipe).hexdigest()
        self.recipes[digest] = recipe
        return self.directive(
            "BUILD",
            seed_id,
            slot_id=slot_id,
            blueprint_id=blueprint,
            artifact_digest=digest,
            initialization_seed=5,
            parameters=[ParameterValue(name=name, value=value) for name, value in parameters.items()],
        )

    def graft(
        self,
        blueprint: str,
        slot_id: str,
        seed_id: str = "s1",
        *,
        blend: BlendConfig = ZERO_OUTPUT,
        twin: bool = True,
        isolate: bool = False,
        **parameters: float,
    ) -> Collected:
        """Twin, build, attach; fails the test if any of them failed."""
        directives = [self.directive("SNAPSHOT_TWIN", seed_id)] if twin else []
        directives.append(self.build(blueprint, slot_id, seed_id, **parameters))
        directives.append(self.directive("ATTACH", seed_id, slot_id=slot_id, blend=blend, isolate=isolate))
        return self.do(*directives)

    def stack(self, seed_id: str = "s1", slot_id: str = "stack:blocks", **parameters: float) -> Collected:
        """Twin, build, repetition of a run; fails the test if any of them failed."""
        blueprint = "stack.part" if parameters else "stack.double"
        return self.graft(blueprint, slot_id, seed_id, **parameters)

    def do(self, *directives: SeedDirective) -> Collected:
        """Executes at this boundary; every directive must succeed."""
        self.executor.execute(directives, self.step)
        self.executor.at_boundary(self.step)
        collected = self.executor.collect(self.step)
        assert [report.failure for report in collected.reports if not report.succeeded] == []
        return collected

    def failure(self, *directives: SeedDirective) -> str:
        """Executes directives of which the last must fail; returns why."""
        self.executor.execute(directives, self.step)
        reports = self.executor.collect(self.step).reports
        assert not reports[-1].succeeded
        return reports[-1].failure

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self._one_step()
            self.executor.between_boundaries(self.step)

    def _one_step(self) -> None:
        inputs, targets = self.task.batch(self.step)
        arms = [self.executor.arm] + ([self.executor.twin] if self.executor.twin is not None else [])
        for arm in arms:
            arm.scheduler.apply(arm.optimizer)
        self.executor.before_step(self.step)
        for index, arm in enumerate(arms):
            seed_all(1000 + self.step)
            arm.model.train()
            arm.optimizer.zero_grad(set_to_none=True)
            self.task.loss(self.task.forward(arm.model, inputs), targets).backward()
            if index == 0:
                self.executor.after_backward()
            arm.optimizer.step()
        self.executor.shadow_step(inputs, targets, self.step)
        self.step += 1

    def outputs(self) -> Tensor:
        with self.arm.measured(1):
            return self.arm.model(self.task.probe_inputs())

    def reached(self, number: int) -> frozenset[str]:
        return try_training(self.arm, self.task, key=number).reached


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(DEVICE.type == "cuda")
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def rig() -> Callable[..., Rig]:
    """Makes a run of a named host, always from the same initial weights."""

    def make(host: str = "mlp", **options: Any) -> Rig:
        build_model, make_task = HOSTS[host]
        torch.default_generator.manual_seed(2)
        return Rig(build_model(), make_task(), **options)

    return make


@pytest.fixture
def rig_of() -> Callable[..., Rig]:
    """Makes a run of a given model."""
    return Rig


@pytest.fixture
def zero_output() -> BlendConfig:
    return ZERO_OUTPUT


@pytest.fixture
def toy_task() -> ToyTask:
    """Twelve random features, five classes."""
    return ToyTask((12,))
