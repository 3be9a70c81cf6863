"""docs/blueprints.md, as it stands: the example is added, grown, judged, kept, resumed and exported."""

import json
import re
from pathlib import Path

import pytest
import torch

from esper.cli.main import main as esper
from esper.tolaria.launcher import main

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "blueprints.md").read_text()
LOOSE = ("--margin-absolute", "0", "--margin-relative", "0", "--tau", "0", "--max-seeds", "1")
RUN = ("--data", "mnist1d", "--grow", "always", "--growth-warmup-steps", "100", "--plain", *LOOSE)


def documented(folder: Path) -> Path:
    """The page's two files; the description's path."""
    blocks = re.findall(r"```(?:python|toml)\n# ([\w.]+)\n(.*?)```", PAGE, flags=re.DOTALL)
    assert [name for name, _ in blocks] == ["gated.py", "gated.toml"]
    for name, text in blocks:
        (folder / name).write_text(text)
    return folder / "gated.toml"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("ESPER_KEYRING", "ESPER_LEYLINE_SECRET"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state" / "esper" / "urza"


def test_the_documented_blueprint_is_added_and_grown(library: Path, tmp_path: Path) -> None:
    assert esper(["urza", "add", str(documented(tmp_path))]) == 0
    assert re.search(r"^esper urza add gated.toml$", PAGE, flags=re.MULTILINE)
    run = tmp_path / "run"
    growing = ("--grow", "always", "--growth-warmup-steps", "20", "--epochs", "3", "--plain")
    assert main(["--data", "mnist1d", *growing, "--blueprints", "lab.gated", "--run-dir", str(run)]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["seeds"][0]["blueprint_id"] == "lab.gated"
    stored = (run / "services" / "oona.db").read_bytes()
    assert b"KernelPrefetchRequest" in stored
    assert b"KernelArtifactReady" in stored


@pytest.mark.slow
def test_the_documented_blueprint_is_grown_kept_resumed_and_exported(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert esper(["urza", "add", str(documented(tmp_path))]) == 0
    run = tmp_path / "run"
    named = [*RUN, "--blueprints", "lab.gated", "--run-dir", str(run)]
    assert main([*named, "--epochs", "12"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    (seed,) = summary["seeds"]
    assert (seed["blueprint_id"], summary["growth"]["kept"], summary["reproducible"]) == ("lab.gated", 1, True)

    assert esper(["urza", "gc", "--retire", "lab.gated"]) == 0
    assert f"{run} was grown with it" in capsys.readouterr().out
    for artifact in (library / "artifacts").iterdir():
        artifact.unlink()
    assert main([*named, "--epochs", "13", "--resume"]) == 0
    assert json.loads((run / "summary.json").read_text())["growth"]["kept"] == 1
    assert esper(["export", str(run), str(tmp_path / "net.pt2")]) == 0
    assert torch.export.load(tmp_path / "net.pt2").module()(torch.zeros(2, 40)).shape == (2, 10)

    (source,) = [path for path in (run / "blueprints").iterdir() if b"class Gated" in path.read_bytes()]
    source.write_bytes(source.read_bytes() + b"#\n")
    capsys.readouterr()
    assert esper(["export", str(run), str(tmp_path / "again.pt2")]) == 1
    assert f"esper: artefact {source} has SHA-256" in capsys.readouterr().err
