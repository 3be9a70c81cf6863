#!/usr/bin/env bash
# Ranks that torchrun starts anew look for those that have died, by gloo, unless each attempt has a store of its own
#
# Packages: torch==2.13.0 numpy==2.4.6
# Expected: torchrun --max-restarts 1 starts both ranks anew after one has ended with an error, and the second attempt's
#           init_process_group("gloo") brings them together as the first one's did.
# Seen:     more often than not the second attempt's init_process_group raises that gloo's connectFullMesh failed: it connects
#           to addresses of the first attempt, which are still in the store that ranks share with torchrun. With
#           TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 each attempt has a store of its own, and the second one runs to its end.
# Exits with 0 while this is still seen, with 1 once it has changed.
set -euo pipefail
HOME_DIR=$(mktemp -d)
trap 'rm -rf "$HOME_DIR"' EXIT
python3 -m venv "$HOME_DIR/venv"
"$HOME_DIR/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$HOME_DIR"
cat > ranks.py <<'PY'
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
try:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
except RuntimeError as error:
    print("connectFullMesh" if "connectFullMesh" in str(error) else f"another error: {error}", flush=True)
    sys.exit(1)
total = torch.ones(1)
dist.all_reduce(total)
if attempt == 0 and dist.get_rank() == 1:
    os._exit(1)
if attempt == 0:
    dist.barrier()
dist.destroy_process_group()
print(f"attempt {attempt} met {total.item():.0f} ranks", flush=True)
PY
launched() {
    OMP_NUM_THREADS=1 timeout 180 "$HOME_DIR/venv/bin/python" -m torch.distributed.run --standalone --nproc-per-node 2 \
        --max-restarts 1 ranks.py 2>"$HOME_DIR/told" || true
}
tries=0 shared=
while [[ "$shared" != *connectFullMesh* && $tries -lt 8 ]]; do
    shared=$(launched) tries=$((tries + 1))
done
apart=
for _ in 1 2 3; do
    apart+=$(TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 launched)$'\n'
done
echo "the store shared with torchrun, try $tries: $(sort -u <<<"$shared" | tr '\n' ' ')"
echo "a store for each attempt, three tries: $(grep -o 'attempt 1 met 2 ranks' <<<"$apart" | wc -l) of 6 ranks met"
if [[ "$shared" == *connectFullMesh* && $(grep -o 'attempt 1 met 2 ranks' <<<"$apart" | wc -l) = 6 ]]; then
    echo "as seen before"
else
    echo "this has changed"
    exit 1
fi
