#!/usr/bin/env bash
# What is gathered for metrics is cut down in the last batch, with one process and no duplicates too
#
# Packages: torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
# Expected: with one process accelerator.gather_for_metrics(x) is x: there are no other ranks, and nothing that was repeated to
#           fill a batch. By its description it drops duplicates of the last batch if the system is distributed.
# Seen:     in the last batch each tensor is cut to as many rows as the data leaves over, whatever its rows are. Tokens that
#           were flattened or chosen by a mask lose all but the first few, sums for each class lose classes, and the
#           accuracy is another one, without a warning. Where batches come out even nothing is cut.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 accelerate==1.15.0
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import accelerate
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

LENGTH, CLASSES, IGNORED = 6, 5, -100


def sentences(count: int) -> tuple[Tensor, Tensor]:
    """Labels, of which half are ignored, and predictions that are wrong from the ninth sentence on."""
    labels = torch.arange(count * LENGTH).reshape(count, LENGTH) % CLASSES
    predicted = torch.where(torch.arange(count)[:, None] < 8, labels, (labels + 1) % CLASSES)
    return predicted, torch.where(torch.arange(LENGTH) % 2 == 0, labels, IGNORED)


def counted(gather, loader) -> dict[str, object]:
    hits = tokens = 0
    per_class = []
    for predicted, labels in loader:
        chosen = labels != IGNORED
        predicted, labels = gather((predicted[chosen], labels[chosen]))
        hits += (predicted == labels).sum().item()
        tokens += len(labels)
        per_class.append(len(gather(torch.zeros(CLASSES))))
    return {"tokens": tokens, "accuracy": round(hits / tokens, 4), "classes in each batch": per_class}


accelerator = Accelerator(cpu=True)
print(f"torch {torch.__version__}, accelerate {accelerate.__version__}, {accelerator.num_processes} process")
found = {}
for count in (12, 10):
    loader = accelerator.prepare(DataLoader(TensorDataset(*sentences(count)), batch_size=4))
    for gather in (lambda tensors: tensors, accelerator.gather, accelerator.gather_for_metrics):
        name = getattr(gather, "__name__", "").replace("<lambda>", "as they are")
        found[count, name] = counted(gather, loader)
        print(f"{count} sentences in batches of 4, {name}: {found[count, name]}")
even, even_gathered, even_for_metrics, plain, gathered, for_metrics = found.values()
is_right = accelerator.num_processes == 1 and even == even_gathered == even_for_metrics and plain == gathered
is_cut = (plain["tokens"], for_metrics["tokens"]) == (30, 26) and plain["accuracy"] == 0.8 < for_metrics["accuracy"]
is_cut &= for_metrics["classes in each batch"] == [CLASSES, CLASSES, 2]
raise SystemExit(0 if is_right and is_cut else 1)
PY
