"""Every network of the zoo comes out as the page says; four plain ones in the default suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esper.tolaria.task.feeds.model_loss import IGNORED
from tests.zoo.network import TOKENS, Network
from tests.zoo.page import PAGE, cells_of, misfits, read, updated, written
from tests.zoo.row import NO, YES, row_of
from tests.zoo.trial import ROUNDS, STEPS
from tests.zoo.zoo import FAMILIES, NETWORKS, SLUGS

FAST = ("MLP", "BatchNorm and dropout", "ConvNet", "rtdl MLP")
LEAST, LEAST_GROWN = 48, 48


def page() -> dict[str, dict[str, str]]:
    return read(PAGE.read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", NETWORKS.values(), ids=SLUGS)
def test_a_network_grows_as_the_page_says(network: Network, tmp_path: Path) -> None:
    if network.has_transformers:
        pytest.importorskip("transformers")
    row = row_of(network, tmp_path)
    assert row.crashes == []
    assert cells_of(row) == page()[network.name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAST)
def test_a_plain_network_grows_as_the_page_says(name: str, tmp_path: Path) -> None:
    row = row_of(NETWORKS[name], tmp_path, exports=False)
    assert row.notes == {}
    assert cells_of(row) == page()[name] | {"export": "–"}


def test_the_page_has_a_row_for_every_network_in_its_own_form() -> None:
    rows = page()
    assert list(rows) == list(NETWORKS)
    assert {name: misfits(cells) for name, cells in rows.items() if misfits(cells)} == {}


def test_enough_networks_grow_and_every_no_has_its_reason() -> None:
    rows, reasons = page(), PAGE.read_text().partition("## Reasons")[2]
    grown = [name for name, cells in rows.items() if YES in (cells["folds"], cells["stacks"])]
    assert len(rows) >= LEAST
    assert len(grown) >= LEAST_GROWN
    refused = [(name, column) for name, cells in rows.items() for column, text in cells.items() if text == NO]
    assert [refusal for refusal in refused if "* **{}**, {}: ".format(*refusal) not in reasons] == []


def test_a_page_reads_back_as_it_was_written(tmp_path: Path) -> None:
    row = row_of(NETWORKS["a module used twice"], tmp_path)
    text = written([row], version="1", steps=ROUNDS * STEPS)
    assert read(text) == {row.name: cells_of(row)}
    assert f"* **{row.name}**, slots: {row.notes['slots']}" in text


def test_single_rows_of_a_page_are_written_anew_with_their_reasons(tmp_path: Path) -> None:
    row = row_of(NETWORKS["a module used twice"], tmp_path)
    other = replace(row, name="another", notes={"slots": "why", "heads": "so"})
    text = written([row, other], version="1", steps=ROUNDS * STEPS)
    now = replace(other, clone="yes", notes={"folds": "this", "heads": "that"})
    assert updated(text, [now]) == written([row, now], version="1", steps=ROUNDS * STEPS)
    assert updated(updated(text, [now]), [other]) == text
    with pytest.raises(ValueError, match=r"elsewhere is not on what_grows\.md: write the whole page"):
        updated(text, [replace(row, name="elsewhere")])


def test_fed_texts_are_padded_and_each_token_tells_the_next() -> None:
    sample = NETWORKS["LLaMA"].datasets(seed=0)["train"][0]
    tokens, labels, is_text = sample["input_ids"], sample["labels"], sample["attention_mask"].bool()
    assert 0 < is_text.sum() < len(tokens)
    assert torch.equal(labels[is_text], tokens[is_text])
    assert set(labels[~is_text].tolist()) == {IGNORED}
    assert torch.equal(tokens[1:], (7 * tokens[:-1] + 3) % TOKENS)


def test_names_are_distinct() -> None:
    assert len(SLUGS) == len(NETWORKS) == sum(len(family.NETWORKS) for family in FAMILIES)
