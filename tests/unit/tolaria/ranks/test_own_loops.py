"""A loop of a user's own on many ranks grows as in one process, and stops where the ranks don't hold the same."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from tests.unit.tolaria.ranks import own_loops
from tests.unit.tolaria.ranks.processes import ran

MODULE = "tests.unit.tolaria.ranks.own_loops"
# Sums of float64 in another order.
TOLERANCE = 1e-9
# The last one leaves the processes without each other.
IN_DEFAULT = ("kept", "stacked", "early", "resumed", "mismatched", "refused", "left_by", "failing")
DRILLED = ("kept", "stacked", "culled", "unstacked", "accumulated", "draws_anew", "ungrown")
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


@cache
def folder(count: int, names: tuple[str, ...]) -> Path:
    return Path(mkdtemp(prefix=f"{count}-own-"))


@cache
def ranks_of(count: int, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What each of so many ranks came to; the processes are started once."""
    return ran(",".join(names), count, folder(count, names), MODULE)


@cache
def one(name: str) -> Any:
    return own_loops.SCENARIOS[name](Path(mkdtemp()))


def assert_as_one(found: list[Any], expected: Any, count: int) -> None:
    first = found[0]
    assert {each["digest"] for each in found} == {first["digest"]}
    assert [first["ranks"], expected["ranks"]] == [count, 1]
    assert first["steps"] == expected["steps"] == own_loops.STEPS
    for part in ("weights", "average"):
        for name, value in expected[part].items():
            torch.testing.assert_close(first[part][name], value, rtol=TOLERANCE, atol=TOLERANCE)
    assert first["val_loss"] == pytest.approx(expected["val_loss"], rel=TOLERANCE)
    assert first["fates"] == expected["fates"]
    assert [each["changes"] for each in found] == [expected["changes"]] * count
    assert first["trains_alone"]


@pytest.mark.parametrize("name", ["kept", "stacked"])
def test_two_ranks_of_a_loop_of_ones_own_grow_as_one_does(name: str) -> None:
    found = [each[name] for each in ranks_of(2, IN_DEFAULT)]
    assert_as_one(found, one(name), 2)
    assert found[0]["fates"] == ["kept"]
    assert found[0]["changes"] == [(8, "grafted")]


def test_who_is_early_for_the_next_run_of_a_script_waits_for_the_first() -> None:
    first, second = (each["early"] for each in ranks_of(2, IN_DEFAULT))
    assert first == second
    assert len(first) == 64, first


def test_a_loop_on_two_ranks_goes_on_with_torchs_own_sampler_to_the_same_bits() -> None:
    for each in ranks_of(2, IN_DEFAULT):
        assert each["resumed"]["digest"] == each["resumed"]["whole"]
        assert each["resumed"]["reproducible_cause"] is None


def test_a_rank_whose_graft_failed_is_named_before_any_gradient_is_summed() -> None:
    for each in ranks_of(2, IN_DEFAULT):
        assert each["mismatched"] == "RanksDiffer: rank 1 has another network than rank 0"


def test_a_loop_that_fails_on_one_rank_is_told_by_the_others() -> None:
    found = [each["failing"] for each in ranks_of(2, IN_DEFAULT)]
    assert found[0].startswith("RankLost: rank 1 ended: ValueError no such file; the newest checkpoint stands")
    assert found[1] == "no such file"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("alike", "loader = 'DataLoader': gives every rank the same first batch: each needs a share of its own"),
        ("longer", "batches in an epoch; those of the ranks give from 12 to 14, and every rank must make as many"),
        ("judge", "rank 1 has another judging set than rank 0; give every rank the whole of it"),
        ("bare", "growth.model = 'step 1': was never passed: with many ranks the loop passes batches through"),
        ("plateau", "rank 1 has another learning rate than rank 0; a scheduler must be given what is the same"),
        ("incubate", "incubate = 'shadow': trains seeds on a batch of one process, and with many ranks each"),
        ("patience", "rank_timeout_s = 4.0: must be longer than deadline_s"),
    ],
)
def test_what_the_ranks_bring_is_checked_on_each(name: str, says: str) -> None:
    for each in ranks_of(2, IN_DEFAULT):
        assert says in each["refused"][name]


def test_a_loop_of_ones_own_goes_on_with_as_many_ranks_alone(tmp_path: Path) -> None:
    assert [each["left_by"] for each in ranks_of(2, IN_DEFAULT)] == ["killed", "killed"]
    shutil.copytree(folder(2, IN_DEFAULT) / "left_by", tmp_path, dirs_exist_ok=True)
    expected = "ranks = 1: the checkpoint's run had 2, each with batches of its own loader; start as many"
    assert expected in own_loops.gone_on(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", DRILLED)
def test_more_ranks_and_other_loops_agree_as_well(count: int, name: str) -> None:
    # One process's first steps are compared to the bit with those of one pass, so that it can't make two.
    expected = one("kept" if name == "accumulated" else name)
    assert_as_one([each[name] for each in ranks_of(count, DRILLED)], expected, count)
