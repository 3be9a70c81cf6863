"""Ranks in processes of their own compute what one process would, and stop where they don't hold the same."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from tests.unit.tolaria.ranks import scenarios
from tests.unit.tolaria.ranks.processes import ran

# Sums of float64 in another order.
TOLERANCE = 1e-9
IN_DEFAULT = (
    *("kept", "stacked", "shared", "resumed", "mismatched", "astray", "other_data", "leave_off", "parts_resumed"),
    "refused_in_parts",
)
DRILLED = (
    *("culled", "bursts", "accumulated", "surgery", "losses", "seeds", "own_weights", "incubated", "compiled"),
    *("sharded", "sharded_culled", "sharded_clipped", "sharded_compiled"),
    *("back_in_memory", "back_from_disk", "parts_back_in_memory", "parts_back_from_disk"),
    *("ordered_back", "attending"),
)
IN_PARTS = ("sharded", "leave_parts", "leave_whole", "damaged", "counting", "sizes")
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@cache
def folder(count: int, names: tuple[str, ...]) -> Path:
    return Path(mkdtemp(prefix=f"{count}-ranks-"))


@cache
def ranks_of(count: int, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What each of so many ranks came to; the processes are started once."""
    return ran(",".join(names), count, folder(count, names))


@cache
def one(name: str) -> Any:
    return scenarios.alone(name, Path(mkdtemp()))


def assert_as_one(name: str, found: list[Any], expected: Any) -> None:
    first = found[0]
    assert first["failed"] == expected["failed"] == [], name
    assert {each["digest"] for each in found} == {first["digest"]}, name
    for parameter, value in expected["weights"].items():
        torch.testing.assert_close(first["weights"][parameter], value, rtol=TOLERANCE, atol=TOLERANCE)
    assert first["loss"] == pytest.approx(expected["loss"], rel=TOLERANCE)
    assert first["val_loss"] == pytest.approx(expected["val_loss"], rel=TOLERANCE)
    assert [seed["fate"] for seed in first["seeds"]] == [seed["fate"] for seed in expected["seeds"]] != []


def test_two_ranks_grow_as_one_does() -> None:
    found = ranks_of(2, IN_DEFAULT)
    assert_as_one("kept", [each["kept"] for each in found], one("kept"))
    assert_as_one("stacked", [each["stacked"] for each in found], one("stacked"))


def test_the_evidence_is_that_of_one_rank() -> None:
    told = [part for part in ranks_of(2, IN_DEFAULT)[0]["kept"]["collected"] if part.HasField("judgement")]
    alone = [part for part in one("kept")["collected"] if part.HasField("judgement")]
    assert len(told) == len(alone) == 1
    assert told[0].judgement.twin.mean == pytest.approx(alone[0].judgement.twin.mean, rel=1e-6)
    assert told[0].gradient_norm == pytest.approx(alone[0].gradient_norm, rel=1e-6)
    assert ranks_of(2, IN_DEFAULT)[1]["kept"]["collected"] == []


def test_ranks_share_the_batches_of_an_evaluation_and_come_to_the_bits_of_one() -> None:
    found, expected = [each["shared"] for each in ranks_of(2, IN_DEFAULT)], one("shared")
    batches = len(expected["told"])
    assert batches > 3
    assert sorted(len(each["passed"]) for each in found) == [batches // 2, batches - batches // 2]
    for each in found:
        assert {key: value for key, value in each.items() if key != "passed"} == {
            key: value for key, value in expected.items() if key != "passed"
        }


def test_a_run_that_goes_on_ends_in_the_same_bits() -> None:
    for each in ranks_of(2, IN_DEFAULT):
        assert each["resumed"]["stopped"] == 12
        assert each["resumed"]["digest"] == each["kept"]["digest"]


def test_one_rank_goes_on_with_what_two_have_left(tmp_path: Path) -> None:
    ranks_of(2, IN_DEFAULT)
    shutil.copytree(folder(2, IN_DEFAULT) / "leave_off", tmp_path, dirs_exist_ok=True)
    found = scenarios.alone("go_on", tmp_path)
    assert found["reproducible_cause"] == "2 ranks trained it to here, and 1 goes on"
    assert_as_one("go_on", [found], one("kept"))


def test_another_topology_data_set_or_weight_stops_every_rank_and_names_the_one() -> None:
    for each in ranks_of(2, IN_DEFAULT):
        assert each["mismatched"] == "RanksDiffer: rank 1 has another network than rank 0"
        assert each["astray"] == "RanksDiffer: rank 1 has another set of weights than rank 0"
        assert each["other_data"] == "RanksDiffer: rank 1 has another data set than rank 0"


def test_weights_in_parts_grow_and_go_on_as_whole_ones_do() -> None:
    found = [each["parts_resumed"] for each in ranks_of(2, IN_DEFAULT)]
    assert_as_one("parts_resumed", found, one("parts_resumed"))
    assert found[0]["resumed_at"] == 12
    assert found[0]["reproducible_cause"] is None


def test_what_cannot_be_in_parts_is_refused_by_one_line() -> None:
    for each in ranks_of(2, IN_DEFAULT):
        optimizer, slot, network, number = each["refused_in_parts"]
        assert "optimizer = 'MuonAdamW': isn't known to work value by value" in optimizer
        assert f"slots = '{scenarios.SLOT}': is no run of blocks" in slot
        assert "has no slot: weights in parts (--parallel shard) grow by stacks alone" in network
        assert "model = 'scale': can't be in parts (--parallel shard): it is a single number" in number


@pytest.mark.slow
@pytest.mark.parametrize(
    ("left", "count", "taken"),
    [
        *(("leave_parts", 1, "take_whole"), ("leave_parts", 2, "take_whole"), ("leave_parts", 4, "take_parts")),
        ("leave_whole", 2, "take_parts"),
    ],
)
def test_a_checkpoint_goes_on_in_whatever_parts(left: str, count: int, taken: str, tmp_path: Path) -> None:
    ranks_of(2, IN_PARTS)
    shutil.copytree(folder(2, IN_PARTS) / left, tmp_path / taken, dirs_exist_ok=True)
    is_alone = count == 1
    found = [scenarios.alone(taken, tmp_path / taken)] if is_alone else [e[taken] for e in ran(taken, count, tmp_path)]
    assert_as_one(taken, found, one("sharded"))
    assert found[0]["resumed_at"] == 12


@pytest.mark.slow
def test_damaged_parts_are_passed_over() -> None:
    for each in ranks_of(2, IN_PARTS):
        assert each["damaged"]["digest"] == each["sharded"]["digest"]
    assert ranks_of(2, IN_PARTS)[0]["damaged"]["resumed_at"] == 8


@pytest.mark.slow
def test_ranks_hold_both_arms_once_between_them() -> None:
    arms, *whole = one("sizes")
    found = [each["sizes"] for each in ranks_of(2, IN_PARTS)]
    assert arms == 2
    assert [sum(parts) for parts in zip(*found, strict=True)] == [2 * arms, *whole]
    assert max(each[1] for each in found) < 0.6 * whole[0]


@pytest.mark.slow
def test_a_network_that_counts_as_it_is_passed_is_stopped() -> None:
    for each in ranks_of(2, IN_PARTS):
        assert "model = 'passes': changes as the network is passed" in each["counting"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DRILLED if "back" in name])
def test_ranks_go_back_together(name: str) -> None:
    for each in ranks_of(2, DRILLED):
        assert each[name]["rollbacks"] == one(name)["rollbacks"] == (1 if name == "ordered_back" else 2)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", DRILLED)
def test_more_ranks_and_other_steps_agree_as_well(count: int, name: str) -> None:
    found = ranks_of(count, DRILLED)
    assert_as_one(name, [each[name] for each in found], one(name))


@pytest.mark.slow
def test_four_ranks_grow_as_one_does_and_two_go_on_with_them(tmp_path: Path) -> None:
    found = ranks_of(4, ("kept", "leave_off"))
    assert_as_one("kept", [each["kept"] for each in found], one("kept"))
    shutil.copytree(folder(4, ("kept", "leave_off")) / "leave_off", tmp_path / "go_on", dirs_exist_ok=True)
    assert_as_one("go_on", [each["go_on"] for each in ran("go_on", 2, tmp_path)], one("kept"))


@pytest.mark.slow
def test_one_that_does_not_come_in_time_is_named(tmp_path: Path) -> None:
    found = ran("late", 2, tmp_path)
    assert found[0]["late"].startswith("RankLost: rank 1 did not keep up: the others waited for as long as they may")
    assert found[1]["late"].startswith("RankLost: ")
