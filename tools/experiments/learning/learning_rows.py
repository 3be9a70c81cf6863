"""One episode as a row: what it ended with, and what its grafts cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def row_of(arm: str, episode: str, folder: Path, wall_s: float) -> dict[str, Any]:
    """From a finished run's directory."""
    summary = json.loads((folder / "summary.json").read_text())
    seeds, macs = summary["seeds"], summary["training_macs_by_use"]
    return {
        "arm": arm,
        "episode": episode,
        "test_loss": summary["test_loss"],
        "test_accuracy": summary["test_accuracy"],
        "host_parameters": summary["host_parameters"],
        "final_parameters": summary["final_parameters"],
        "germinated": summary["growth"]["germinated"],
        "judged": summary["growth"]["judged"],
        "kept": summary["growth"]["kept"],
        "refused": sum(seed["fate"] == "culled" for seed in seeds),
        "training_macs": summary["training_macs"],
        "main_macs": macs["main"],
        "judgement_macs": macs["twin"] + macs["side"],
        "wall_s": round(wall_s, 2),
    }
