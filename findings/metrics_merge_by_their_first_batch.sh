#!/usr/bin/env bash
# Metrics of a collection are merged for good where their first batch gave the same counts
#
# Packages: torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
# Expected: a MetricCollection gives what each of its metrics gives alone. Sharing of counts between metrics, which is on by
#           default, is for those that count the same, such as precision and recall.
# Seen:     which metrics share is decided by the numbers that they hold after the first update, not by their settings. Two
#           accuracies with other thresholds, or with and without an ignored class, are one from then on if the first batch
#           happens to count the same, as a small or an easy one does: the second metric repeats the first one's value.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy

PAIRS = {
    "thresholds": (
        {"at_0_5": BinaryAccuracy(threshold=0.5), "at_0_9": BinaryAccuracy(threshold=0.9)},
        [(torch.tensor([0.99, 0.01]), torch.tensor([1, 0])), (torch.tensor([0.7, 0.7]), torch.tensor([1, 1]))],
    ),
    "an ignored class": (
        {
            "of_all": MulticlassAccuracy(3, average="micro"),
            "but_0": MulticlassAccuracy(3, average="micro", ignore_index=0),
        },
        [(torch.tensor([1, 2]), torch.tensor([1, 2])), (torch.tensor([1, 1]), torch.tensor([0, 1]))],
    ),
}


def values(metrics: dict, batches: list, **settings: bool) -> dict[str, float]:
    collection = torchmetrics.MetricCollection(metrics, **settings).clone()
    for predicted, wanted in batches:
        collection.update(predicted, wanted)
    return {name: round(value.item(), 4) for name, value in sorted(collection.compute().items())}


is_seen = True
print(f"torch {torch.__version__}, torchmetrics {torchmetrics.__version__}")
for name, (metrics, batches) in PAIRS.items():
    together, apart = values(metrics, batches), values(metrics, batches, compute_groups=False)
    turned = values(metrics, batches[::-1])
    print(f"{name}: as it comes {together}, without groups {apart}, with the batches in the other order {turned}")
    is_seen &= len(set(together.values())) == 1 and together != apart == turned
raise SystemExit(0 if is_seen else 1)
PY
