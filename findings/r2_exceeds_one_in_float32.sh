#!/usr/bin/env bash
# The share of variance that is explained comes out wrong, above 1 too, where targets lie far from zero
#
# Packages: torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 scikit-learn==1.9.1
# Expected: R2Score() gives what scikit-learn's r2_score gives for the same float32 numbers, and no more than 1: moving
#           targets and predictions by a constant, as with years, prices or pressures, changes neither errors nor variance.
# Seen:     the variance is a difference of two large sums in the inputs' own precision. At a mean of a thousand standard
#           deviations the score is off by hundredths, at ten thousand of them it reads 0.99 or 1.02 in place of 0.78 and
#           0.75, without a warning. ExplainedVariance and RelativeSquaredError do the same, PearsonCorrCoef doesn't.
#           R2Score().set_dtype(torch.float64) fed with doubles is right.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 \
  scikit-learn==1.9.1
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from sklearn.metrics import r2_score
from torch import Tensor
from torchmetrics.regression import ExplainedVariance, PearsonCorrCoef, R2Score, RelativeSquaredError


def given(metric: torchmetrics.Metric, predicted: Tensor, wanted: Tensor) -> float:
    for batch in zip(predicted.split(100), wanted.split(100), strict=True):
        metric.update(*batch)
    return round(metric.compute().item(), 3)


def scores(mean: float, count: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    wanted = mean + torch.randn(count, generator=generator)
    predicted = wanted + 0.5 * torch.randn(count, generator=generator)
    return {
        "r2_score": round(float(r2_score(wanted.numpy(), predicted.numpy())), 3),
        "R2Score in float64": given(R2Score().set_dtype(torch.float64), predicted.double(), wanted.double()),
        "R2Score": given(R2Score(), predicted, wanted),
        "ExplainedVariance": given(ExplainedVariance(), predicted, wanted),
        "1 - RelativeSquaredError": round(1 - given(RelativeSquaredError(), predicted, wanted), 3),
        "PearsonCorrCoef": given(PearsonCorrCoef(), predicted, wanted),
    }


CASES = [(0.0, 1000), (1000.0, 1000), (10000.0, 1000), (10000.0, 10000)]
print(f"torch {torch.__version__}, torchmetrics {torchmetrics.__version__}")
found = {case: scores(*case) for case in CASES}
for (mean, count), values in found.items():
    print(f"{count} targets of deviation 1 around {mean:g}: {values}")
centred, thousand, far, many = found.values()
is_right = all(abs(values["r2_score"] - values["R2Score in float64"]) < 0.002 for values in found.values())
is_right &= abs(centred["R2Score"] - centred["r2_score"]) < 0.002
is_off = abs(thousand["R2Score"] - thousand["r2_score"]) > 0.005
is_off &= all(abs(values[name] - values["r2_score"]) > 0.1 for values in (far, many) for name in list(values)[2:5])
is_steady = abs(far["PearsonCorrCoef"] - centred["PearsonCorrCoef"]) < 0.002
raise SystemExit(0 if is_right and is_off and is_steady else 1)
PY
