"""Embeddings whose gradients are sparse (`sparse=True`), and what of a run can't take these."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, Adagrad, Optimizer

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig

TAKE_SPARSE = (SGD, Adagrad)


def check_sparse(config: TrainConfig, model: nn.Module, optimizer: Optimizer) -> None:
    """Raises ConfigError for what would fail in the first step."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    named = model.named_modules()
    sparse = {
        name: part for name, part in named if isinstance(part, kinds) and part.sparse and part.weight.requires_grad
    }
    if not sparse:
        return
    remedy = (
        f"{next(iter(sparse))} of the model has sparse gradients, which it can't take: build that with sparse=False"
    )
    for key in ("clip_norm", "pcgrad", "seed_conflicts"):
        if getattr(config, key):
            raise ConfigError(key, getattr(config, key), f"{remedy}, or leave this out")
    kind = type(optimizer)
    weights = {id(part.weight) for part in sparse.values()}
    groups = [group for group in optimizer.param_groups if any(id(member) in weights for member in group["params"])]
    is_dense = any(group.get("fused") or group.get("weight_decay") for group in groups)
    if kind.__module__.startswith("torch.") and (is_dense or not isinstance(optimizer, TAKE_SPARSE)):
        plain = "SGD or Adagrad of torch, not fused and without weight decay"
        raise ConfigError("optimizer", kind.__name__, f"{remedy}, or hand over {plain}")
