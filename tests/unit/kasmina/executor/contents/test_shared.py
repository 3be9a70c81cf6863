"""What modules share with others of their classes is seen to change, and nothing else is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina.executor.contents.shared import Shared

LIMITS = [1, 2]


class Sharing(nn.Linear):
    """Has some of everything in its class."""

    calls = 0
    seen: list[int] = []  # noqa: RUF012 - what is tested
    mean = torch.zeros(2)
    kinds = {"a": object()}  # noqa: RUF012 - what is tested

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * LIMITS[0]


def test_each_kind_of_shared_value_is_seen_to_change() -> None:
    changes = {
        "the class attribute Sharing.calls": lambda: setattr(Sharing, "calls", 1),
        "the class attribute Sharing.seen": lambda: Sharing.seen.append(1),
        "the class attribute Sharing.mean": lambda: Sharing.mean.add_(1),
        "the class attribute Sharing.kinds": lambda: Sharing.kinds.update(b=1),
        f"the global LIMITS of {__name__}": lambda: LIMITS.append(3),
    }
    for name, change in changes.items():
        shared = Shared(nn.Sequential(Sharing(2, 2), nn.ReLU()))
        assert shared.changed() == []
        change()
        assert shared.changed() == [name]


def test_what_a_network_holds_itself_is_not_shared() -> None:
    model = Sharing(2, 2)
    shared = Shared(model)
    model.calls = 5
    model(torch.ones(1, 2)).sum().backward()
    assert shared.changed() == []
