"""Whether predictions mean what they say: of decisions with a like prediction, what was measured on the mean."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from esper.simic.dataset import Dataset
from esper.tamiyo.learned.linear import Model

BINS = 5


def calibration(data: Dataset, models: Mapping[str, Model], bins: int = BINS) -> list[dict[str, float]]:
    """Predicted and measured gain, and the predicted and measured share of kept seeds, by rising prediction.

    `models` are by the run that they are asked about.
    """
    predictions = [models[d.run_id].predict(d.candidates, d.layout).means for d in data.decisions]
    found = {
        name: np.array([means[name][d.chosen] for means, d in zip(predictions, data.decisions, strict=True)])
        for name in ("gain", "keep")
    }
    gains = np.array([d.worth.gain for d in data.decisions])
    kept = np.array([float(d.worth.kept) for d in data.decisions])
    order = np.argsort(found["gain"], kind="stable")
    rows = []
    for places in np.array_split(order, min(bins, len(order))):
        measured = gains[places]
        rows.append(
            {
                "count": float(len(places)),
                "predicted": float(found["gain"][places].mean()),
                "measured": float(measured.mean()),
                "error": float(measured.std(ddof=1) / np.sqrt(len(places))) if len(places) > 1 else float("nan"),
                "predicted_kept": float(np.clip(found["keep"][places], 0, 1).mean()),
                "measured_kept": float(kept[places].mean()),
            }
        )
    return rows
