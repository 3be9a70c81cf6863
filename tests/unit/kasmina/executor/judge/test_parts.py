"""Parts of a judging set: every sample in one of them, no document in two, as many rows to pass in each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.kasmina.executor.judge.parts import part_of

sets = st.lists(st.integers(0, 40), min_size=40, max_size=200).map(lambda each: torch.tensor([*each, *range(41)]))


@given(documents=sets, parts=st.integers(2, 12))
def test_parts_divide_the_documents_and_are_of_one_size(documents: torch.Tensor, parts: int) -> None:
    found = [part_of(documents, number, parts) for number in range(parts)]
    rows = torch.cat([part.rows for part in found])
    assert torch.equal(rows.sort().values, torch.arange(len(documents)))
    owners = [set(documents[part.rows].tolist()) for part in found]
    assert sum(map(len, owners)) == len(documents.unique())
    assert {len(part.padded) for part in found} == {max(len(part.rows) for part in found)}
    assert all(torch.equal(part.padded[: len(part.rows)], part.rows) for part in found)
    largest = int(documents.unique(return_counts=True)[1].max())
    assert max(len(part.rows) for part in found) - min(len(part.rows) for part in found) <= largest


@pytest.mark.parametrize("documents", [None, torch.arange(15) // 3, torch.zeros(600, dtype=torch.int64)])
def test_too_few_documents_are_scored_whole(documents: torch.Tensor | None) -> None:
    assert part_of(documents, 0, 8) is None
