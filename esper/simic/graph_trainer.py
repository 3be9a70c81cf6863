"""Fits the graph model with torch: members from different beginnings, calibrated on runs that were left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from esper.simic.dataset import Dataset
from esper.simic.trainer import Taken, clipped, folds, scaling
from esper.tamiyo.learned.graph import MEMBERS, Graph, GraphModel, Groups, forward, graph_of, shapes
from esper.tamiyo.learned.linear import HEADS, Floats, Model

EPOCHS, RATE, DECAY = 120, 1e-2, 3e-3
_PLAIN = np.tile([0.0, 1.0], (len(HEADS), 1))


def fit_graph(data: Dataset, price: float) -> GraphModel:
    """The model, with its heads' scales corrected by what models without a run say of it."""
    model = _fit(data, price)
    unseen = crossed_graphs(data, price)
    told = np.array(
        [
            [unseen[d.run_id].predict(d.candidates, d.layout).means[name][d.chosen] for name in HEADS]
            for d in data.decisions
        ]
    )
    targets = data.heads(price)
    calibration = np.array([_line(told[:, head], targets[:, head]) for head in range(len(HEADS))])
    left = targets - (calibration[:, 0] + calibration[:, 1] * told)
    return replace(model, calibration=calibration, noise=left.std(axis=0))


def crossed_graphs(data: Dataset, price: float) -> dict[str, GraphModel]:
    """By run, a model that was fitted without it."""
    found = {}
    for fitted, asked in folds(data):
        found.update(dict.fromkeys(asked, _fit(data.of(fitted), price)))
    return found


def explained_by(models: Mapping[str, Model], data: Dataset, price: float) -> float:
    """Share of the rewards' variance that models explain, each for runs that it didn't see."""
    rewards = data.rewards(price)
    told = [models[d.run_id].predict(d.candidates, d.layout).means["reward"][d.chosen] for d in data.decisions]
    spread = float(rewards.var())
    return 1.0 - float(np.mean((rewards - np.array(told)) ** 2)) / spread if spread else 0.0


def _line(told: Floats, measured: Floats) -> tuple[float, float]:
    """Least squares; a slope below 0 would turn the model's word round, and is taken as none."""
    spread = float(told.var())
    slope = max(0.0, float(np.cov(told, measured, ddof=0)[0, 1]) / spread) if spread > 0 else 0.0
    return float(measured.mean() - slope * told.mean()), slope


def _fit(data: Dataset, price: float) -> GraphModel:
    center, scale = scaling(data.taken())
    drawn = graph_of([(d.candidates, d.layout) for d in data.decisions], center, scale)
    edges = {name: _edge(edge) for name, edge in drawn.edges.items()}
    graph = Graph(nodes=_tensors(drawn.nodes), edges=edges)
    starts = np.cumsum([0, *(len(d.candidates) for d in data.decisions)])[:-1]
    taken = torch.from_numpy(starts + np.array([d.chosen for d in data.decisions]))
    targets, weights = torch.from_numpy(data.heads(price)), torch.from_numpy(clipped(Taken.of(data, price).raw))
    spread = targets.std(dim=0).clamp_min(1e-3)
    members = [_member(seed, graph, taken, targets, weights, spread) for seed in range(MEMBERS)]
    tensors = {name: np.stack([member[name] for member in members]) for name in shapes()}
    return GraphModel(center=center, scale=scale, tensors=tensors, calibration=_PLAIN, noise=np.ones(len(HEADS)))


def _member(
    seed: int,
    graph: Graph,
    taken: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    spread: torch.Tensor,
) -> dict[str, Floats]:
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        name: (torch.randn(shape[1:], generator=draw, dtype=torch.float64) / shape[-2] ** 0.5).requires_grad_()
        for name, shape in shapes().items()
    }
    with torch.no_grad():
        tensors["head"].mul_(0.1)
    optimizer = torch.optim.AdamW(tensors.values(), lr=RATE, weight_decay=DECAY / RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    # Each member sees the runs in other shares, so that they disagree about what few decisions say.
    shares = weights * torch.empty_like(weights).exponential_(generator=draw)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        missed = (forward(tensors, graph)[taken] - targets) / spread
        (shares * missed.square().mean(dim=1)).mean().backward()
        optimizer.step()
        schedule.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _tensors(arrays: Mapping[str, Floats]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _edge(edge: Groups | Floats) -> torch.Tensor:
    """Sources by target, or a sparse matrix of shares."""
    if not isinstance(edge, Groups):
        found = torch.from_numpy(np.ascontiguousarray(edge))
        return found.to_sparse() if found.ndim > 1 else found
    places = torch.from_numpy(np.stack([edge.target, np.arange(len(edge.target))]))
    return torch.sparse_coo_tensor(places, torch.from_numpy(1.0 / edge.counts[edge.target])).coalesce()
