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
IN_DEFAULT = ("kept", "stacked", "shared", "resumed", "mismatched", "astray", "other_data", "leave_off")
DRILLED = (
    "culled",
    "bursts",
    "accumulated",
    "surgery",
    "losses",
    "seeds",
    "own_weights",
    "incubated",
    "compiled",
    "attending",
)
pytestmark = [
    pytest.mark.timeout(400),
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
    assert found["reproducible_cause"] == "2 ranks trained it to here, and 1 go on"
    assert_as_one("go_on", [found], one("kept"))


def test_another_topology_data_set_or_weight_stops_every_rank_and_names_the_one() -> None:
    for each in ranks_of(2, IN_DEFAULT):
        assert each["mismatched"] == "RanksDiffer: rank 1 has another network than rank 0"
        assert each["astray"] == "RanksDiffer: rank 1 has another set of weights than rank 0"
        assert each["other_data"] == "RanksDiffer: rank 1 has another data set than rank 0"


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
