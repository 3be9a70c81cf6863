"""A script reads of keywords and settings where the launcher's user reads of flags."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import esper
from esper.core.errors import ConfigError
from esper.tolaria.door.wording import in_words_of_flags, in_words_of_scripts, reworded

TOLD = [
    ("use --resume, --overwrite, or another --run-dir", "use resume=True, overwrite=True, or another run_dir"),
    ("lower min_samples, or --grow never", "lower min_samples, or grow='never'"),
    ("or give --checkpoint-every-epochs 0", "or give checkpoint_every_epochs=0"),
    ("go on with --resume or not", "go on with resume=True or not"),
    ("--ignore-index=-1 if so, (--context)", "ignore_index=-1 if so, (context)"),
    ("see --help; a -- b", "see --help; a -- b"),
]


@pytest.mark.parametrize(("flags", "keywords"), TOLD)
def test_flags_become_keywords_and_settings(flags: str, keywords: str) -> None:
    assert reworded(flags) == keywords
    with in_words_of_flags():
        assert reworded(flags) == flags


def test_errors_are_reworded_throughout() -> None:
    with pytest.raises(ConfigError) as caught, in_words_of_scripts():
        raise ConfigError("run_dir", "a--b", "use --overwrite")
    assert str(caught.value) == "run_dir = 'a--b': use overwrite=True"
    assert caught.value.remedy == "use overwrite=True"


def run(run_dir: str, door: str) -> None:
    model = nn.Linear(2, 2)
    data = torch.randn(40, 2), torch.arange(40) % 2
    settings = {"run_dir": run_dir, "grow": "never", "steps": 1, "batch_size": 8, "checkpoint_every_epochs": 0}
    if door == "train":
        esper.train(model, data, config=settings)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with esper.Growth(model, optimizer, step=lambda model, batch: model(batch[0])[:, 0], judge=[], config=settings):
            pass


@pytest.mark.parametrize("door", ["train", "Growth"])
def test_both_doors_name_keywords_where_a_run_is_there(tmp_path, door: str) -> None:
    (tmp_path / "events.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="use resume=True, overwrite=True, or another run_dir"):
        run(str(tmp_path), door)


def test_a_display_shows_a_run_of_a_script(tmp_path) -> None:
    shown = io.StringIO()
    settings = {"run_dir": tmp_path, "grow": "never", "steps": 2, "batch_size": 8, "min_samples": 4}
    data = torch.randn(40, 2), torch.arange(40) % 2
    esper.train(nn.Linear(2, 2), data, config=settings, callbacks=[esper.Display(shown)])
    assert "classification, 2 classes" in shown.getvalue()
    assert "seeds: 0 germinated" in shown.getvalue()
