"""The 1,797 handwritten digits that come with scikit-learn: 8 x 8 grey values, ten classes."""

from __future__ import annotations

import torch

from esper.tolaria.task.data.source import Splits
from esper.tolaria.task.data.splitting import classification, stratified_subset

CLASSES = 10
BRIGHTEST = 16.0


class Digits:
    """The digits, or so many of them."""

    def __init__(self, samples: int | None = None) -> None:
        self._samples = samples

    def splits(self, seed: int) -> Splits:
        # Scikit-learn and what it needs take as long to import as torch; other runs need none of it.
        from sklearn.datasets import load_digits

        bundle = load_digits()
        inputs = torch.from_numpy(bundle.images).to(torch.float32).unsqueeze(1) / BRIGHTEST
        labels = torch.from_numpy(bundle.target).to(torch.int64)
        if self._samples is not None:
            rows = stratified_subset(labels, self._samples, seed)
            inputs, labels = inputs[rows], labels[rows]
        return classification(inputs, labels, CLASSES, seed)
