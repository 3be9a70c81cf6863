"""What is interrupted goes on where it was, and no report is lost by it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.tools.experiments.loading import LEARNING, load

episodes = load("episodes", LEARNING)
launching = load("launching")
load("learning_rows", LEARNING)
learning_plane = load("learning_plane", LEARNING)

SUMMARY = {
    **dict.fromkeys(("test_loss", "test_accuracy", "host_parameters", "final_parameters", "training_macs"), 1),
    "growth": {"germinated": 0, "judged": 0, "kept": 0},
    "training_macs_by_use": {"main": 1, "twin": 0, "side": 0},
    "seeds": [],
}


def test_an_episode_whose_reports_were_not_collected_is_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def launch(server: Any, control: None, argv: Sequence[str], log: Path) -> int:
        folder = Path(argv[1])
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(SUMMARY))
        trained.append(folder.name)
        return 0

    def interrupted(store: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(learning_plane, "launch", launch)
    wanted = episodes.episodes(episodes.NECKS, 2, first_seed=1)
    names = [each.name for each in wanted]

    def gather(collect: Any) -> None:
        plane = SimpleNamespace(flags=[], collect=collect)
        learning_plane.gather(plane, wanted, tmp_path, tmp_path / "store", launching.Places("cpu", 1), "explored")

    with pytest.raises(KeyboardInterrupt):
        gather(interrupted)
    gather(lambda store: "2 reports taken\n")
    assert trained == names * 2
    gather(interrupted)  # nothing is left to be done
    assert trained == names * 2
    assert [json.loads(line)["episode"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == names
