"""A program is the network only if it gives what the network gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.tolaria.export.proof import _difference, disproof

ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ONES + 1e-6, ""),
        (ONES + 0.1, "2 rows give outputs that differ by 0.1"),
        (ONES[:1], "2 rows give torch.float32 [1, 3], expected torch.float32 [2, 3]"),
        (ONES.double(), "2 rows give torch.float64 [2, 3], expected torch.float32 [2, 3]"),
        (ONES * float("nan"), "2 rows give outputs that differ by nan"),
    ],
)
def test_a_difference_is_said_with_its_size(given: Tensor, words: str) -> None:
    found = _difference(2, given, ONES)
    assert found.startswith(words)
    assert bool(found) is bool(words)


def test_a_file_that_is_no_program_is_disproved_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "network.pt2").write_text("nothing")
    found = disproof(tmp_path / "network.pt2", {2: ONES}, {2: ONES})
    assert found.startswith("a fresh process can't run it: ")
    assert "\n" not in found
