"""The bytes of a checkpoint: every kind of tensor comes back to the bit, nothing is used before it was verified."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from esper.core.errors import CorruptRecord
from esper.tolaria.recovery import packed
from esper.tolaria.recovery.packed import Held, State, Stored, pack, unpack

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    """In any order of its axes, as a part or a repetition of another, or empty."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    made = torch.randint(0, 2, shape).to(draw(st.sampled_from(DTYPES)))
    made = made.permute(draw(st.permutations(range(made.dim()))))
    if made.dim() and draw(st.booleans()):
        made = made[..., :: draw(st.integers(1, 3))]
    return made.unsqueeze(0).expand(3, *made.shape) if draw(st.booleans()) else made


def come_back(state: State, *, is_passing: bool = False) -> State:
    return unpack(Held(pack(state)), "test", lambda: None, is_passing=is_passing)


@given(st.lists(any_tensor(), max_size=6), st.booleans())
def test_tensors_of_every_form_come_back(given_tensors: list[Tensor], is_passing: bool) -> None:
    found = come_back({"tensors": given_tensors, "again": given_tensors[:1]}, is_passing=is_passing)
    for one, two in zip(given_tensors, found["tensors"], strict=True):
        assert (one.dtype, one.shape) == (two.dtype, two.shape)
        assert torch.equal(one, two)
    assert all(one is two for one, two in zip(found["again"], found["tensors"], strict=False))


def test_the_order_of_axes_in_memory_is_kept() -> None:
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert come_back({"image": image})["image"].stride() == image.stride()


@pytest.mark.parametrize("is_passing", [False, True])
def test_what_is_no_plain_memory_comes_back_too(is_passing: bool) -> None:
    absent, sparse = torch.empty(3, 2, device="meta"), torch.eye(3).to_sparse()
    state = {"absent": absent, "sparse": sparse, "after": torch.ones(2), "parameter": nn.Parameter(torch.ones(1))}
    state["last"] = torch.empty(5, device="meta")
    found = come_back(state, is_passing=is_passing)
    assert found["absent"].is_meta
    assert found["absent"].shape == (3, 2)
    assert torch.equal(found["sparse"].to_dense(), torch.eye(3))
    assert torch.equal(found["after"], torch.ones(2))
    assert isinstance(found["parameter"], nn.Parameter)


def test_pieces_are_read_from_a_file_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "PIECE_BYTES", 1000)
    monkeypatch.setattr(packed, "MOST_PARTS", 3)
    monkeypatch.setattr(packed.os, "cpu_count", lambda: 4)
    state: dict[str, Any] = {f"t{size}": torch.randn(size) for size in (1, 7, 400, 3000, 2, 5, 0, 9, 11)}
    (tmp_path / "file").write_bytes(pack(state))
    threads, asked = set(), []

    def check() -> None:
        asked.append(1)
        threads.add(threading.get_ident())

    with (tmp_path / "file").open("rb") as file:
        found = unpack(Stored(file), "test", check)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert len(asked) > 13


def test_what_is_passing_comes_back_in_one_memory_that_belongs_to_nobody_else() -> None:
    turned = torch.randn(3, 5).t()
    state = {"a": torch.randn(7), "b": torch.ones(3, dtype=torch.int8), "turned": turned, "none": torch.empty(0, 2)}
    content = pack(state)
    found = unpack(Held(content), "test", lambda: None, is_passing=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert found["turned"].stride() == turned.stride()
    assert len({each.untyped_storage().data_ptr() for each in found.values()}) == 1
    found["a"].zero_()
    again = unpack(Held(content), "test", lambda: None, is_passing=True)
    assert torch.equal(again["a"], state["a"])


@given(st.data())
def test_any_changed_byte_is_noticed_before_anything_of_its_part_is_used(data: st.DataObject) -> None:
    content = pack({"weights": torch.arange(40.0), "more": torch.ones(3)})
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptRecord, match=r"SHA-256 does not match|not a checkpoint"):
        unpack(Held(content), "test", lambda: None, is_passing=data.draw(st.booleans()))


@given(st.data())
def test_a_file_that_ends_too_early_or_too_late_is_refused(data: st.DataObject) -> None:
    content = pack({"weights": torch.arange(40.0), "more": torch.ones(3)})
    kept, more = data.draw(st.sampled_from([(size, 0) for size in range(len(content))] + [(len(content), 1)]))
    with pytest.raises(CorruptRecord):
        unpack(Held(content[:kept] + bytes(more)), "test", lambda: None, is_passing=data.draw(st.booleans()))


@pytest.mark.parametrize("is_passing", [False, True])
def test_code_in_a_whole_head_is_refused_while_the_data_is_read(is_passing: bool) -> None:
    with pytest.raises(CorruptRecord, match="can't be read"):
        come_back({"weights": torch.ones(3_000_000), "path": Path()}, is_passing=is_passing)


def test_an_error_between_two_pieces_ends_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "PIECE_BYTES", 100)
    content, asked = pack({"weights": torch.arange(4000.0)}), []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        unpack(Held(content), "test", check)
    assert len(asked) < 20
