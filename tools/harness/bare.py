"""The same training as everybody writes it: what a run's epochs are measured against, on the same machine, at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from esper.tolaria.task.prepare import Prepared
from tools.harness.figures import Spent, Watch
from tools.harness.workload import CLASSES, FEATURES, LEARNING_RATE, build

WARM_EPOCHS = 3


class BareLoop:
    """Epochs of a loop without a control plane: the run's data, network, optimiser and compilation."""

    def __init__(self, run: Prepared) -> None:
        train, judge = run.splits.train, run.splits.judge  # type: ignore[union-attr]
        self._train, self._judge = (train.inputs, train.targets), (judge.inputs, judge.targets)
        self._device, self._batch_size = run.device, run.config.batch_size
        torch.manual_seed(run.config.seed)
        self._model = build((FEATURES,), CLASSES).to(run.device)
        if run.compiled_runs:
            for block in self._model.blocks:  # type: ignore[union-attr]
                block.compile(dynamic=False)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=LEARNING_RATE)

    def warm_up(self) -> None:
        """Let memory grow and the compiler compile, uncounted."""
        for _ in range(WARM_EPOCHS):
            self.epoch()

    def epoch(self) -> Spent:
        """One epoch and its evaluation."""
        watch = Watch()
        inputs, targets = self._train
        loss = torch.zeros((), device=self._device)
        for rows in torch.randperm(len(inputs), device=self._device).split(self._batch_size):
            loss += self._step(inputs[rows], targets[rows])
        float(loss), self._accuracy()  # what every loop prints, and a device is waited for
        return watch.spent()

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self._optimizer.zero_grad()
        loss = F.cross_entropy(self._model(inputs), targets)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _accuracy(self) -> float:
        inputs, targets = self._judge
        self._model.eval()
        accuracy = (self._model(inputs).argmax(1) == targets).float().mean()
        self._model.train()
        return float(accuracy)
