"""Parts of a run on many ranks, each by itself: samples, places, refusals, signs of life, what the first one tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed import HashStore
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from esper.core.errors import ConfigError, DependencyViolationError, RankLost, RanksDiffer
from esper.kasmina.executor.memory.forecast import BURSTS, LIVE, REFUSED, Decision
from esper.leyline import ModeUpdate, SystemMode
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.shared_control import hearing, telling, told_artifact, told_mode
from esper.tolaria.ranks import pulse as pulses
from esper.tolaria.ranks.group import ALONE, Ranks
from esper.tolaria.ranks.joining import in_words
from esper.tolaria.ranks.launched import ERROR_FILE, tell_launcher
from esper.tolaria.ranks.pieces import piece_of
from esper.tolaria.ranks.place import place
from esper.tolaria.ranks.pulse import Pulse
from esper.tolaria.ranks.support import check_alone, check_bare, check_run, check_settings
from esper.tolaria.recovery.checkpoint import CheckpointStore
from esper.tolaria.recovery.continuing import mark_launch, restarted
from esper.tolaria.recovery.shared import shared_evaluation
from esper.tolaria.run_dir import LAUNCHED_BY, RunOptions
from esper.tolaria.task.objective.task import Evaluation
from esper.tolaria.task.prepare import prepare
from esper.tolaria.task.randomness import of_rank
from tests.unit.tolaria.scripted_control import ScriptedControl, germination

CONFIG = TrainConfig(samples=200, epochs=1, min_samples=30)


class Recorded(Ranks):
    """Ranks that write down what the first one tells, or read it from there."""

    count = 2

    def __init__(self, rank: int, words: list[bytes], worst: int = 0) -> None:
        self.rank = rank
        self._words = words
        self._worst = worst

    def told(self, content: bytes) -> bytes:
        if self.is_first:
            self._words.append(content)
            return content
        return self._words.pop(0)

    def largest(self, values: torch.Tensor) -> None:
        values.clamp_(min=self._worst)


@given(samples=st.integers(1, 40), count=st.integers(1, 9))
def test_each_sample_counts_once(samples: int, count: int) -> None:
    batch = (torch.arange(samples), torch.arange(samples))
    pieces = [piece_of(batch, rank, count) for rank in range(count)]
    counted = torch.cat([piece.batch[0] for piece in pieces if piece.counts])
    assert torch.equal(counted, batch[0])
    assert all(len(piece.batch[0]) >= min(samples, 2) for piece in pieces)


def test_a_rank_draws_for_its_own_samples_and_the_first_as_one_alone() -> None:
    assert of_rank(5, 0) == 5
    assert len({of_rank(5, rank) for rank in range(4)}) == 4


def test_the_place_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert (place().rank, place().count) == (0, 1)
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    here = place()
    assert (here.rank, here.count, here.local_rank, here.local_count, here.restarts) == (3, 4, 1, 2, 0)
    monkeypatch.setenv("RANK", "three")
    with pytest.raises(ConfigError, match="RANK = 'three': expected the number that torchrun sets"):
        place()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"parallel": "shard", "pcgrad": True, "accumulate": 2}, "pcgrad = True: isn't supported by --parallel shard"),
        ({"parallel": "shard", "ema": 0.9}, "ema = 0.9: isn't supported by --parallel shard: it keeps whole averages"),
        ({"parallel": "shard", "twin": "bursts"}, "twin = 'bursts': isn't supported by --parallel shard"),
        ({"device": "cuda:1"}, "device = 'cuda:1': with many ranks torchrun gives each its own"),
        ({"batch_size": 5, "accumulate": 3}, "batch_size = 5: has less than a sample for each of 2 ranks in 3 micro"),
        ({"batch_size": 1}, "batch_size = 1: has less than a sample for each of 2 ranks in 1 microbatch: 2"),
        ({"rank_timeout_s": 30.0}, "rank_timeout_s = 30.0: must be longer than deadline_s"),
    ],
)
def test_settings_that_many_ranks_do_not_go_with_are_refused(settings: dict[str, Any], says: str) -> None:
    config = replace(CONFIG, **settings)
    check_settings(config, ALONE)
    with pytest.raises(ConfigError, match=says):
        check_settings(config, Recorded(0, []))


def test_data_networks_and_flags_that_many_ranks_do_not_go_with_are_refused() -> None:
    many = Recorded(0, [])
    check_run(CONFIG, ALONE, is_replayable=False, is_reentrant=True)
    with pytest.raises(ConfigError, match="must give every process the same batches"):
        check_run(CONFIG, many, is_replayable=False, is_reentrant=False)
    with pytest.raises(ConfigError, match="use_reentrant=False"):
        check_run(CONFIG, many, is_replayable=True, is_reentrant=True)
    with pytest.raises(ConfigError, match="start it without torchrun"):
        check_alone("command line", "--compare", 2)


def test_a_batch_norm_of_many_ranks_is_doubted() -> None:
    config = replace(CONFIG, model="cnn", grow="never")
    doubts = prepare(config, ranks=Recorded(0, [])).doubts
    assert sum("BatchNorm statistics of its own samples" in doubt for doubt in doubts) == 1
    assert not any("BatchNorm" in doubt for doubt in prepare(config).doubts)


def test_one_process_says_that_it_has_nothing_to_share_out() -> None:
    config = replace(CONFIG, parallel="shard", grow="never")
    (doubt,) = prepare(config).doubts
    assert (
        doubt == "parallel = 'shard': one process has nothing to share out and holds all weights; torchrun starts more"
    )
    assert prepare(replace(config, parallel="ddp")).doubts == []


def test_torchruns_own_report_shows_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ERROR_FILE, raising=False)
    tell_launcher("nobody hears it")
    for path in (tmp_path / "error.json", tmp_path / "absent" / "error.json"):
        monkeypatch.setenv(ERROR_FILE, str(path))
        tell_launcher("tolaria-train: ema = 0.9: is refused")
    failure = ProcessFailure(0, 1, 78, str(tmp_path / "error.json"))
    assert "  traceback : tolaria-train: ema = 0.9: is refused\n" in str(
        ChildFailedError("esper.tolaria", {0: failure})
    )


@pytest.mark.parametrize(("own", "worst"), [(LIVE, REFUSED), (BURSTS, BURSTS), (LIVE, LIVE)])
def test_a_twin_lives_as_the_rank_with_the_least_room_allows(own: str, worst: str) -> None:
    ranks = Recorded(1, [], worst=[LIVE, BURSTS, REFUSED].index(worst))
    agreed = prepare(CONFIG, ranks=ranks).executor._state.config.agreed
    assert agreed is not None
    assert agreed(Decision(mode=own, why="there is room")).mode == worst


def test_all_ranks_hear_what_the_first_takes() -> None:
    words: list[bytes] = []
    control = ScriptedControl({4: germination("s1", "slot")}, policy_digest="0" * 64, replayed=frozenset({"c"}))
    told = telling(lambda opening: control, Recorded(0, words))(None)  # type: ignore[arg-type]
    heard = hearing(Recorded(1, words))(None)  # type: ignore[arg-type]
    assert (heard.policy_digest, heard.replayed) == ("0" * 64, frozenset({"c"}))
    from esper.kasmina.executor import Collected
    from esper.leyline import SystemStatePacket

    for index, wants_state in enumerate((False, True)):
        packet = SystemStatePacket(packet_index=index, step=4)
        told.hand_over(packet, Collected(), want_state=wants_state)
        heard.hand_over(packet, Collected(), want_state=wants_state)
        here, there = told.take(index), heard.take(index)
        assert here == there
        assert len(there.directives) == 3
        assert (there.states is not None) is wants_state
    assert len(control.packets) == 2


def test_all_ranks_hear_the_mode_and_the_artefacts_or_why_there_are_none() -> None:
    words: list[bytes] = []
    first, second = Recorded(0, words), Recorded(1, words)
    update = ModeUpdate(mode=SystemMode.SYSTEM_MODE_DEGRADED)
    told_mode(lambda: update, first)()
    assert told_mode(ModeUpdate, second)() == update

    def missing(digest: str) -> bytes:
        raise DependencyViolationError("urza", "artefact", digest, "it was removed")

    assert told_artifact(lambda digest: b"recipe", first)("d") == b"recipe"
    assert told_artifact(missing, second)("d") == b"recipe"
    for ranks in (first, second):
        with pytest.raises(DependencyViolationError, match="it was removed"):
            told_artifact(missing, ranks)("d")


def test_every_rank_goes_by_the_figures_of_the_first() -> None:
    words: list[bytes] = []
    here, there = Evaluation(0.5, None, {"MAE": 0.1}), Evaluation(0.5000001, None, {"MAE": 0.2})
    shared_evaluation(Recorded(0, words), here)
    assert shared_evaluation(Recorded(1, words), there) == here


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulses, "PERIOD_S", 0.02)
    monkeypatch.setattr(pulses, "PATIENCE_S", 0.3)


@pytest.fixture
def three(quick: None) -> Iterator[list[Pulse]]:
    store = HashStore()
    found = [Pulse(store, rank, 3) for rank in range(3)]
    time.sleep(0.1)  # signs of real threads
    yield found
    for each in found:
        each.end()


def test_a_rank_without_a_sign_of_life_is_named(three: list[Pulse]) -> None:
    three[2]._ended.set()  # as SIGKILL and SIGSTOP do
    time.sleep(0.1)
    lost = three[0].lost(RuntimeError("connection reset"))
    assert lost.ranks == (2,)
    assert str(lost) == "rank 2 gives no sign of life; the newest checkpoint stands: go on with --resume"


def test_one_that_left_for_that_is_believed(three: list[Pulse]) -> None:
    three[2]._ended.set()
    three[1].end(silent=(2,))
    lost = three[0].lost(RuntimeError("connection reset"))
    assert lost.ranks == (2,)


def test_one_that_lives_and_does_not_come_is_named(three: list[Pulse]) -> None:
    three[0].calls = three[2].calls = 7
    three[1].calls = 6
    time.sleep(0.1)
    lost = three[0].lost(RuntimeError("timed out"))
    assert "rank 1 did not keep up" in str(lost)


def test_the_cause_of_one_that_ended_is_told(three: list[Pulse]) -> None:
    three[1].end(in_words(RanksDiffer("rank 1 has another network than rank 0")))
    lost = three[0].lost(RuntimeError("connection closed"))
    assert str(lost).startswith("rank 1 ended: rank 1 has another network than rank 0")
    assert three[2].has_told(1, "rank 1 has another network than rank 0")
    assert not three[2].has_told(0, "anything")


def test_words_of_an_error_fit_a_line() -> None:
    assert in_words(RankLost("it is gone")) == "it is gone"
    assert in_words(ValueError("first\nsecond")) == "ValueError first"
    assert in_words(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_ranks_that_are_started_anew_go_on_with_the_run_that_they_had_begun_and_with_no_other(tmp_path: Path) -> None:
    how = RunOptions(overwrite=True)
    CheckpointStore(tmp_path / "checkpoints", 1).write(b"", 10)
    assert restarted(how, tmp_path, 1) == how  # nobody says who began it
    mark_launch(tmp_path)
    assert restarted(how, tmp_path, 0) == how
    assert restarted(how, tmp_path, 1) == RunOptions(resume=True)
    (tmp_path / LAUNCHED_BY).write_text("1\n")
    assert restarted(how, tmp_path, 1) == how


def test_a_network_that_is_wrapped_already_is_refused() -> None:
    class DistributedDataParallel(nn.Module):
        pass

    check_bare(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="is wrapped for many ranks already"):
        check_bare(DistributedDataParallel())
    with pytest.raises(ConfigError, match=r"anew after every graft: pass batches through growth\.model"):
        check_bare(DistributedDataParallel(), is_own_loop=True)
