"""Streams: whole documents are held out, sequences are drawn by a generator alone and are what lies in the text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.core.errors import ConfigError
from esper.leyline import TaskType
from esper.tolaria.task.data import Splits
from esper.tolaria.task.data.splitting import JUDGE_SHARE
from esper.tolaria.task.data.stream import (
    CHEAP_SHARE,
    JUDGE_DOCUMENTS,
    LONGEST_STRETCH,
    SHORTEST_STRETCH,
    STRETCHES,
    TEST_DOCUMENTS,
    Corpus,
    TokenStream,
    split_by_document,
    with_stretches,
)
from esper.tolaria.task.randomness import generator


def corpus(lengths: list[int], seed: int = 0) -> Corpus:
    """Documents of these lengths, every token of a document its number."""
    return Corpus(
        name="text:here",
        tokens=np.repeat(np.arange(len(lengths), dtype=np.uint16), lengths),
        starts=np.cumsum([0, *lengths[:-1]]),
        vocabulary=len(lengths),
    )


def documents(tokens: torch.Tensor) -> set[int]:
    return set(tokens.unique().tolist())


def drawn(splits: Splits, count: int = 3000) -> set[int]:
    assert splits.stream is not None
    return documents(splits.stream.draw(count, generator(7)).inputs)


def test_no_document_is_in_two_sets_and_none_is_lost_to_training() -> None:
    splits = split_by_document(corpus([30] * 200), context=8, held_out=20, seed=1)
    judge, test, train = documents(splits.judge.inputs), documents(splits.test.inputs), drawn(splits)
    assert not judge & test
    assert not train & (judge | test)
    assert len(train) == 200 - int(200 * JUDGE_SHARE) - TEST_DOCUMENTS
    assert (splits.task, splits.outputs) == (TaskType.TASK_TYPE_LANGUAGE_MODEL, 200)


def test_the_sets_hold_the_sequences_asked_for_and_a_few_documents_at_least() -> None:
    splits = split_by_document(corpus([900] * 600), context=8, held_out=140, seed=1)
    assert len(splits.judge) == len(splits.test) == 140
    assert splits.judge.document_count == JUDGE_DOCUMENTS
    assert splits.test.document_count == TEST_DOCUMENTS
    assert splits.sizes["train"] == (600 - JUDGE_DOCUMENTS - TEST_DOCUMENTS) * 900 // 9


def test_more_documents_are_judged_where_they_cost_little_of_the_text_up_to_one_a_sequence() -> None:
    splits = split_by_document(corpus([90] * 9000), context=8, held_out=300, seed=1)
    assert (splits.judge.document_count, splits.test.document_count) == (300, TEST_DOCUMENTS)
    cheap = split_by_document(corpus([90] * 4000), context=8, held_out=300, seed=1).judge.document_count
    assert cheap == int(4000 * CHEAP_SHARE) == 200


def test_each_document_gives_as_many_sequences_as_the_others_where_it_has_them() -> None:
    splits = split_by_document(corpus([18, 90, 9000] * 200), context=8, held_out=400, seed=1)
    counts = splits.judge.targets.mode().values.bincount()
    of_each = {size: counts[size::3][counts[size::3] > 0].tolist() for size in range(3)}
    assert set(of_each[0]) <= {1, 2, 3}
    assert max(of_each[1] + of_each[2]) - min(of_each[2]) <= 2
    assert sum(map(len, of_each.values())) >= JUDGE_DOCUMENTS - 5


def test_a_set_takes_no_more_than_its_share_however_many_sequences_are_asked_for() -> None:
    splits = split_by_document(corpus([90] * 100), context=8, held_out=10_000, seed=1)
    assert splits.sizes == {"train": 65 * 10, "judge": 19 * 10, "test": 16 * 10}


def test_a_document_that_would_fill_a_set_alone_is_learnt_from() -> None:
    splits = split_by_document(corpus([5000, *[30] * 100]), context=8, held_out=20, seed=1)
    assert 0 not in documents(splits.judge.inputs) | documents(splits.test.inputs)
    assert 0 in drawn(splits)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=30),
    st.integers(1, 6),
    st.sets(st.integers(0, 29), min_size=1),
    st.data(),
)
def test_a_sequence_is_what_stands_at_its_position_across_documents(
    lengths: list[int], context: int, chosen: set[int], data: st.DataObject
) -> None:
    numbers = np.array(sorted(number for number in chosen if number < len(lengths)), dtype=np.int64)
    tokens = np.arange(sum(lengths), dtype=np.uint32)
    starts = np.cumsum([0, *lengths[:-1]])
    stream = TokenStream(Corpus(name="", tokens=tokens, starts=starts, vocabulary=1), numbers, context)
    expected = np.concatenate([tokens[:0], *(np.split(tokens, starts[1:])[number] for number in numbers)])
    assert stream.tokens == len(expected)
    if stream.tokens > context:
        position = data.draw(st.integers(0, stream.tokens - context - 1))
        split = stream.sequences(np.array([position]))
        assert split.inputs[0].tolist() == expected[position : position + context].tolist()
        assert split.targets[0].tolist() == expected[position + 1 : position + context + 1].tolist()


def test_every_position_is_drawn_and_none_beyond_the_end() -> None:
    stream = TokenStream(corpus([1] * 12), np.arange(12), context=3)
    begins = stream.draw(2000, generator(0)).inputs[:, 0]
    assert begins.unique().tolist() == list(range(9))
    assert int(begins.bincount().min()) > 150


def test_equal_generators_draw_equal_sequences() -> None:
    stream = TokenStream(corpus([1] * 200), np.arange(200), context=3)
    first, second, other = (stream.draw(8, generator(seed)).inputs for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_equal_seeds_give_equal_sets_and_another_seed_holds_out_other_documents() -> None:
    text = corpus([30] * 200)
    first, second, other = (split_by_document(text, context=8, held_out=20, seed=seed) for seed in (1, 1, 2))
    assert first.digest() == second.digest() != other.digest()
    assert documents(first.judge.inputs) != documents(other.judge.inputs)


def test_a_token_that_differs_anywhere_in_the_stream_changes_the_digest() -> None:
    digests = []
    for change in (0, 1):
        text = corpus([30] * 200)
        rest = split_by_document(text, context=8, held_out=20, seed=1)
        number = min(drawn(rest))
        text.tokens[int(text.starts[number]) + 13] += change
        digests.append(split_by_document(text, context=8, held_out=20, seed=1).digest())
    assert digests[0] != digests[1]


@pytest.mark.parametrize(("lengths", "context"), [([40] * 3, 8), ([3] * 10, 8), ([1], 1), ([30] * 200, 2000)])
def test_a_text_too_short_for_its_sets_is_one_clear_line(lengths: list[int], context: int) -> None:
    with pytest.raises(ConfigError, match="too little for sequences") as caught:
        split_by_document(corpus(lengths), context, held_out=20, seed=1)
    assert "\n" not in str(caught.value)


def test_a_single_document_is_cut_into_stretches_and_several_are_left_whole() -> None:
    length = SHORTEST_STRETCH * 9
    assert with_stretches(np.zeros(1, dtype=np.int64), 2 * length + 1, 8).tolist() == [0, length, 2 * length]
    assert with_stretches(np.array([0, 5]), 2 * length, 8).tolist() == [0, 5]


@pytest.mark.parametrize(
    ("sequences", "stretch"),
    [(100, SHORTEST_STRETCH), (8 * STRETCHES, 8), (99 * STRETCHES, LONGEST_STRETCH)],
)
def test_stretches_are_many_enough_to_judge_by_and_as_long_as_that_allows(sequences: int, stretch: int) -> None:
    starts = with_stretches(np.zeros(1, dtype=np.int64), sequences * 9, 8)
    assert starts[1] == stretch * 9


def test_a_sequence_is_of_the_document_that_most_of_what_is_predicted_lies_in() -> None:
    text = corpus([3, 9, 2, 4, 6])
    stream = TokenStream(text, np.array([0, 1, 3, 4]), context=4)
    # Laid end to end: 000 111111111 3333 444444; what is predicted follows a position.
    expected = {0: 0, 1: 1, 2: 1, 9: 1, 10: 3, 11: 3, 13: 3, 14: 4, 17: 4}
    assert stream.documents_at(np.array([*expected])).tolist() == [*expected.values()]


@given(st.lists(st.integers(1, 9), min_size=3, max_size=30), st.integers(1, 12), st.data())
def test_no_other_document_has_more_of_a_sequence(lengths: list[int], context: int, data: st.DataObject) -> None:
    text = corpus(lengths)
    stream = TokenStream(text, np.arange(len(lengths)), context)
    if stream.tokens > context:
        position = np.array([data.draw(st.integers(0, stream.tokens - context - 1))])
        counts = stream.sequences(position).targets[0].bincount()
        assert counts[stream.documents_at(position)] == counts.max()


def test_held_out_sequences_know_their_documents_and_training_needs_none() -> None:
    splits = split_by_document(corpus([30] * 400), context=8, held_out=60, seed=1)
    for split in (splits.judge, splits.test):
        assert split.documents is not None
        of_each = [row.mode().values for row in split.targets]
        assert split.documents.tolist() == [int(document) for document in of_each]
    assert splits.judge.document_count == 60
    assert splits.train.documents is None
