"""The page of results has the tables that its commands print from the committed rows, line by line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.tools.experiments.loading import FOLDER

PAGE = (FOLDER.parents[1] / "docs" / "results.md").read_text().splitlines()
TASKS = ("digits_shifted", "hastie", "mnist1d_small", "photos")
PRINTED = [
    *(f"run_plan.py {plan} --recorded" for plan in (*TASKS, "mnist1d_large", "digits_turned")),
    *(f"run_plan.py {plan} --recorded" for plan in ("digits_sweep", "digits_race", "digits_forced")),
    f"growing/small_settings.py digits_sweep {' '.join(TASKS)}",
    "growing/width_factor.py --recorded",
    "growing/stack_operators.py --out tools/experiments/rows/stack_operators.jsonl --table",
    "judging/stacks_to_the_end.py --recorded stacks_to_the_end",
    "judging/stack_judge_replay.py",
]


@pytest.mark.parametrize("command", PRINTED)
def test_the_page_has_the_table_that_a_command_prints(command: str, tmp_path: Path) -> None:
    script, *flags = command.split()
    out = ("--out", str(tmp_path)) if script == "run_plan.py" else ()
    argv = [sys.executable, str(FOLDER / script), *flags, *out]
    told = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=FOLDER.parents[1]).stdout
    rows = [line for line in told.splitlines() if line.startswith("| ")]
    assert len(rows) > 2
    assert not [row for row in rows if row not in PAGE]
