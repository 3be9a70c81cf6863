"""Batches of texts of several lengths, padded to their longest, go through the door with a seed that attends."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import esper
from tests.unit.tolaria.scripted_control import germination, judgement, keep

WORDS, WIDTH, CLASSES, PAD = 11, 8, 3, 0


class Reader(nn.Module):
    """Called as Hugging Face's classifiers are; its mask is its own business from there on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.1, activation=nn.ReLU(), batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        hidden = self.encoder(self.embedding(input_ids), src_key_padding_mask=attention_mask == 0)
        kept = attention_mask[..., None].to(hidden)
        logits = self.head((hidden * kept).sum(1) / kept.sum(1))
        return {"loss": None if labels is None else F.cross_entropy(logits, labels), "logits": logits}


def texts(count: int, seed: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=draw)
    return [torch.randint(1, WORDS, (int(length),), generator=draw) for length in lengths]


def collated(pad: int, rows: list[Tensor]) -> dict[str, Tensor]:
    longest = max(len(row) for row in rows)
    ids = torch.stack([F.pad(row, (0, longest - len(row)), value=pad) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    labels = torch.stack([row.sum() % CLASSES for row in rows])
    return {"input_ids": ids, "attention_mask": (torch.arange(longest) < lengths[:, None]).long(), "labels": labels}


def loaders(pad: int = PAD) -> dict[str, DataLoader[Any]]:
    parts = {"train": (120, 1), "judge": (60, 2), "test": (60, 3)}
    return {
        name: DataLoader(texts(*part), batch_size=16, shuffle=name == "train", collate_fn=partial(collated, pad))  # type: ignore[arg-type]
        for name, part in parts.items()
    }


SLOT = "residual_linear:encoder.layers.0-encoder.layers.0"
SCRIPT = {4: [*germination("s1", SLOT, "attention.self"), judgement("s1", 12)], 16: keep("s1")}
CONFIG = {
    "steps": 24,
    "batch_size": 16,
    "min_samples": 20,
    "warmup_steps": 3,
    "evaluate_every_steps": 4,
    "checkpoint_every_epochs": 1,
}


def test_a_run_over_padded_batches_keeps_a_seed_that_knows_its_mask(tmp_path, scripted):
    """Nothing follows from the padding, no kill changes the weights, and the network masks without the trainer."""
    scripted(SCRIPT)

    def run(name: str, *, pad: int = PAD, resume: bool = False, dies_at: int | None = None) -> esper.Result:
        data = loaders(pad)
        if dies_at is not None:
            data["train"].collate_fn = partial(dying, [dies_at])
        return esper.train(Reader(), data, config={**CONFIG, "run_dir": tmp_path / name}, resume=resume)

    whole, padded_by_a_word = run("whole"), run("other", pad=WORDS - 1)
    assert [seed["fate"] for seed in whole.summary["seeds"]] == ["kept"]
    assert padded_by_a_word.summary["weights_digest"] == whole.summary["weights_digest"]
    with pytest.raises(RuntimeError, match="killed"):
        run("killed", dies_at=14)
    resumed = run("killed", resume=True)
    assert resumed.summary["weights_digest"] == whole.summary["weights_digest"]
    assert resumed.summary["reproducible"]

    batch = next(iter(loaders()["test"]))
    noisy = {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 7)}
    wanted = whole.model(**batch)["logits"]
    torch.testing.assert_close(whole.model(**noisy)["logits"], wanted)
    with torch.no_grad():
        torch.testing.assert_close(whole.model(**noisy)["logits"], wanted)


class Masking(nn.Module):
    """Its mask has a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.fc1, self.act, self.fc2 = nn.Linear(WIDTH, 12), nn.ReLU(), nn.Linear(12, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, is_text: Tensor) -> Tensor:
        hidden = self.embedding(input_ids)
        kept = is_text[..., None].to(hidden)
        return self.head(((hidden + self.fc2(self.act(self.fc1(hidden)))) * kept).sum(1) / kept.sum(1))


def own_names(rows: list[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    batch = collated(PAD, rows)
    return {"input_ids": batch["input_ids"], "is_text": batch["attention_mask"]}, batch["labels"]


def test_a_seed_that_may_attend_to_padding_is_told_of_in_one_line(tmp_path, scripted):
    scripted({4: germination("s1", "residual_linear:act-act", "attention.self")})
    data, told = loaders(), []
    for loader in data.values():
        loader.collate_fn = own_names
    config = {**CONFIG, "steps": 12, "run_dir": tmp_path}
    loss = partial(F.cross_entropy, reduction="none")
    esper.train(Masking(), data, loss=loss, config=config, callbacks=[told.append])
    lines = [event.message for event in told if getattr(event, "name", "") == "tolaria.seed_unmasked"]
    assert len(lines) == 1
    assert lines[0].startswith(
        "seed s1: attention.self in residual_linear:act-act attends over padding, if there is any: "
    )


def dying(left: list[int | None], rows: list[Tensor]) -> dict[str, Tensor]:
    if left[0] is not None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("killed")
    return collated(PAD, rows)
