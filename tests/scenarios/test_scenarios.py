"""Every rule fires in a scenario and clears in it; what the services say on the way is as written, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios import gate_player, policy_player
from tests.scenarios.reading import Seen, files, read

POLICY = files("policy")


@pytest.mark.parametrize("path", POLICY, ids=lambda path: path.stem)
def test_the_policy_and_its_risk_rules(path: Path, tmp_path: Path) -> None:
    policy_player.play(read(path, policy_player.Scene, policy_player.Stage), tmp_path, Seen())


@pytest.mark.parametrize("path", files("gates"), ids=lambda path: path.stem)
def test_the_gates_and_the_orders(path: Path, tmp_path: Path) -> None:
    gate_player.play(read(path, gate_player.Scene, gate_player.Stage), tmp_path, Seen())
