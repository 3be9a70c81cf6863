"""Tasks that come with scikit-learn and need no download, as data sources for tolaria-train (`--data tasks:NAME`), and
digits whose data change half-way (`--train tasks:shifted`, `tasks:turned`).

  hastie    a table: ten normal columns; is their squared length above its median? (Hastie et al., example 10.2)
  photos    an image task: of which of the two sample photographs is a small grey patch?
  clusters  a table of sixteen columns: which of six groups of two clusters each is a row from?
  waves     a table: which two of three triangles of 21 columns was a noisy row mixed from? (Breiman et al. 1984)
  pairs     an image task: two digits side by side; is the right one the greater?
  random_labels   digits whose labels say nothing: drawn anew, for training, judging and test data alike
  random_clusters   the same of the clusters
  digits_of_one_split   digits, divided alike for every seed, so that a teacher has seen nobody's test data;
            `--teacher tasks:teacher` is an MLP 64 units wide that was trained on their training set
  shifted   digits: the first half of the run shows the classes 0 to 4 alone, the second one all ten; judging and test
            data have all ten throughout
  turned    digits: in the second half of the run each comes turned by a quarter as well; every other one of judging and
            test data is turned throughout
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images, make_classification, make_hastie_10_2
from torch import Tensor, nn
from torch.nn import functional

import esper
from esper.tolaria.task.data import DataSource, Split, Splits
from esper.tolaria.task.data.digits import Digits
from esper.tolaria.task.data.splitting import classification
from esper.tolaria.task.models.models import build_model

TABLE_ROWS = 5_000
PATCHES, PATCH, LEAST_CONTRAST = 5_000, 8, 16.0
PAIRS = {"train": 3_200, "judge": 1_000, "test": 800}
DRAW_SEED = 42
FIRST_CLASSES = 5
TEACHER_EPOCHS = 40


class Hastie:
    """The table; its rows are the same for every seed, which draws the split."""

    def splits(self, seed: int) -> Splits:
        columns, signs = make_hastie_10_2(TABLE_ROWS, random_state=DRAW_SEED)
        labels = torch.from_numpy((signs > 0).astype(np.int64))
        return classification(torch.from_numpy(columns.astype(np.float32)), labels, 2, seed)


class Photos:
    """Patches [samples, 1, 8, 8] of mean 0 and deviation 1, half of them from each photograph."""

    def splits(self, seed: int) -> Splits:
        draw = np.random.default_rng(DRAW_SEED)
        photos = [photo.mean(axis=2) for photo in load_sample_images().images]
        labels = np.arange(PATCHES) % len(photos)
        drawn = np.stack([_patch(photos[label], draw) for label in labels]).astype(np.float32)
        inputs = torch.from_numpy(drawn).unsqueeze(1)
        return classification(inputs, torch.from_numpy(labels.astype(np.int64)), len(photos), seed)


def _patch(photo: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """One with something on it: a flat one would be noise alone."""
    while True:
        top, left = (int(draw.integers(size - PATCH + 1)) for size in photo.shape)
        patch: NDArray[np.float64] = photo[top : top + PATCH, left : left + PATCH]
        if patch.std() > LEAST_CONTRAST:
            return (patch - patch.mean()) / patch.std()


class Clusters:
    """Rows [samples, 16], half of whose columns say something; the same for every seed, which draws the split."""

    def splits(self, seed: int) -> Splits:
        columns, labels = make_classification(
            TABLE_ROWS,
            n_features=16,
            n_informative=8,
            n_redundant=0,
            n_classes=6,
            n_clusters_per_class=2,
            class_sep=1.5,
            flip_y=0.0,
            random_state=DRAW_SEED,
        )
        return classification(torch.from_numpy(columns.astype(np.float32)), torch.from_numpy(labels), 6, seed)


class Waves:
    """Rows [samples, 21]; who knew how they are made would tell 86 % of them right."""

    def splits(self, seed: int) -> Splits:
        draw, places = np.random.default_rng(DRAW_SEED), np.arange(21)
        triangles = np.stack([np.maximum(0, 6 - np.abs(places - peak)) for peak in (6, 14, 10)])
        mixed = np.array([(0, 1), (0, 2), (1, 2)])
        labels, shares = np.arange(TABLE_ROWS) % len(mixed), draw.random((TABLE_ROWS, 1))
        one, other = triangles[mixed[labels, 0]], triangles[mixed[labels, 1]]
        rows = shares * one + (1 - shares) * other + draw.normal(size=(TABLE_ROWS, len(places)))
        return classification(torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(labels), len(mixed), seed)


class Pairs:
    """Two images side by side [samples, 1, 8, 16]; each set pairs images of its own, never two of the same number."""

    def splits(self, seed: int) -> Splits:
        drawn, draw = Digits().splits(seed), torch.Generator().manual_seed(seed)

        def paired(part: Split, count: int) -> Split:
            left, right = torch.randint(len(part), (2, 2 * count), generator=draw)
            unlike = torch.nonzero(part.targets[left] != part.targets[right]).flatten()[:count]
            left, right = left[unlike], right[unlike]
            inputs = torch.cat([part.inputs[left], part.inputs[right]], dim=-1)
            return Split(inputs, (part.targets[right] > part.targets[left]).long())

        parts = {name: paired(getattr(drawn, name), count) for name, count in PAIRS.items()}
        return replace(drawn, **parts, outputs=2)


class RandomLabels:
    """A task's inputs with labels drawn at random: whatever is learnt of them is noise."""

    def __init__(self, source: DataSource) -> None:
        self._source = source

    def splits(self, seed: int) -> Splits:
        drawn = self._source.splits(seed)
        draw = torch.Generator().manual_seed(seed)
        parts = {name: getattr(drawn, name) for name in ("train", "judge", "test")}
        shuffled = {name: torch.randint(drawn.outputs, (len(part),), generator=draw) for name, part in parts.items()}
        return replace(drawn, **{name: Split(part.inputs, shuffled[name]) for name, part in parts.items()})


class DigitsOfOneSplit:
    """The digits; seeds draw weights and batches alone."""

    def splits(self, seed: int) -> Splits:
        return Digits().splits(DRAW_SEED)


hastie, photos, digits_of_one_split = Hastie(), Photos(), DigitsOfOneSplit()
clusters, waves, pairs = Clusters(), Waves(), Pairs()
random_labels, random_clusters = RandomLabels(Digits()), RandomLabels(Clusters())


def teacher() -> nn.Module:
    """An MLP [n, 64] -> [n, 10] with two hidden layers of 64, trained on the training set of `digits_of_one_split`."""
    train = digits_of_one_split.splits(0).train
    inputs, draw = train.inputs.flatten(1), torch.Generator().manual_seed(DRAW_SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(DRAW_SEED)
        layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(TEACHER_EPOCHS):
        for rows in torch.randperm(len(inputs), generator=draw).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[rows]), train.targets[rows]).backward()
            optimizer.step()
    return model.eval()


class Shifting:
    """Batches of one epoch after the other: of the first rows alone until the epoch `change`, then of all."""

    def __init__(self, train: Split, first: Tensor, *, seed: int, change: int, batch_size: int) -> None:
        self._train, self._first, self._seed, self._change, self._size = train, first, seed, change, batch_size
        self._epoch = 0

    def __len__(self) -> int:
        """The same in every epoch, so that shares of the steps are shares of the run."""
        return -(-len(self._train) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, self._epoch = self._epoch, self._epoch + 1
        draw = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        rows = self._first if epoch < self._change else torch.arange(len(self._train))
        rounds = -(-len(self._train) // len(rows))
        order = torch.cat([rows[torch.randperm(len(rows), generator=draw)] for _ in range(rounds)])
        for batch in order[: len(self._train)].split(self._size):
            yield self._train.inputs[batch], self._train.targets[batch]


def shifted(context: esper.Context) -> None:
    """Digits whose second half of the classes comes half-way, on the network that the flags describe."""
    drawn = Digits().splits(context.config.seed)
    _changing(context, drawn, torch.nonzero(drawn.train.targets < FIRST_CLASSES).flatten())


def turned(context: esper.Context) -> None:
    """Digits that come turned by a quarter as well from half-way on, on the network that the flags describe."""
    drawn = Digits().splits(context.config.seed)
    train = Split(torch.cat([drawn.train.inputs, _turn(drawn.train.inputs)]), drawn.train.targets.repeat(2))
    for part in (drawn.judge, drawn.test):
        part.inputs[::2] = _turn(part.inputs[::2])
    _changing(context, replace(drawn, train=train), torch.arange(len(drawn.train)))


def _turn(images: Tensor) -> Tensor:
    return images.rot90(1, (2, 3))


def _changing(context: esper.Context, drawn: Splits, first: Tensor) -> None:
    """Train on these rows of the training set alone until half-way."""
    config = context.config
    train, judge, test = (
        Split(part.inputs.flatten(1), part.targets) for part in (drawn.train, drawn.judge, drawn.test)
    )
    batches = Shifting(train, first, seed=config.seed, change=config.epochs // 2, batch_size=config.batch_size)
    model = build_model(config, tuple(train.inputs.shape[1:]), drawn.outputs)
    held_out = {"judge": (judge.inputs, judge.targets), "test": (test.inputs, test.targets)}
    esper.train(model, {"train": batches, **held_out}, **context.arguments)
