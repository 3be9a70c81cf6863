"""The committed message classes give the recorded bytes under both supported major versions of protobuf."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

READS_ONE_MESSAGE_OF_EACH_FILE = """
import json, pathlib, google.protobuf
import esper.leyline as leyline
recorded = json.loads(pathlib.Path("tests/contract/golden_bytes.json").read_text())
for name, raw in recorded.items():
    message = getattr(leyline, name.split(".")[0]).FromString(bytes.fromhex(raw))
    assert message.SerializeToString(deterministic=True).hex() == raw, name
print(google.protobuf.__version__, len(recorded))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("protobuf", ["6.33.5", "7.36.2"])
def test_the_messages_work_under_both_protobufs(protobuf: str) -> None:
    home = ROOT / ".cache" / f"protobuf-{protobuf}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"protobuf=={protobuf}"], check=True)
        (home / "ready").touch()
    answer = subprocess.run(
        [python, "-c", READS_ONE_MESSAGE_OF_EACH_FILE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    version, count = answer.stdout.split()
    assert version == protobuf
    assert int(count) > 100
