#!/usr/bin/env bash
# Reading Parquet with a filter loses NaN rows that the same filter keeps in memory
#
# Packages: pyarrow==26.0.1
# Expected: rows that a filter selects while a file is read are those that it selects of the table read whole. So `not (loss
#           <= 5)`, by which losses that are too large or no number are found, gives the rows whose loss is NaN.
# Seen:     a row group's least and greatest value leave NaN out, and the filter is decided by them. `not (loss <= 5)` passes
#           over a group whose numbers are all small; where they are one and the same, `loss != 1` and is_nan(loss) find
#           nothing either. How many rows come back depends on what stood beside them. The same filter on the table once it
#           was read gives them all.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check pyarrow==26.0.1
cd "$HOME_DIR"
"$HOME_DIR/venv/bin/python" - <<'PY'
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import dataset, parquet

loss = pc.field("loss")
NAN = float("nan")
FILTERS = {
    "not (loss <= 5)": ~(loss <= 5),
    "loss != 1": loss != 1,
    "(loss > 5) | is_nan(loss)": (loss > 5) | pc.is_nan(loss),
    "is_nan(loss)": pc.is_nan(loss),
}


def steps(losses: list[float], wanted: pc.Expression) -> list[list[int]]:
    """By the table in memory, by read_table and by a dataset."""
    table = pa.table({"step": list(range(len(losses))), "loss": losses})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "losses.parquet")
        parquet.write_table(table, file)
        of_dataset = dataset.dataset(file).to_table(filter=wanted)
        found = (table.filter(wanted), parquet.read_table(file, filters=wanted), of_dataset)
        return [rows["step"].to_pylist() for rows in found]


small = {name: steps([1.0, NAN, 1.0], wanted) for name, wanted in FILTERS.items()}
large = {name: steps([1.0, NAN, 9.0], wanted) for name, wanted in FILTERS.items()}
print(f"pyarrow {pa.__version__}: rows found (in memory, read_table, dataset)")
print("losses 1, NaN, 1:", small)
print("losses 1, NaN, 9:", large)
is_kept_beside_a_large_one = all(kept[0] == kept[1] == kept[2] for kept in large.values())
seen = list(small.values()) == [[[1], [], []]] * 4 and is_kept_beside_a_large_one
raise SystemExit(0 if seen else 1)
PY
