from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from esper.tamiyo.learned.graph import MEMBERS, Graph, GraphModel, Groups, forward, graph_of, shapes
from esper.tamiyo.learned.linear import HEADS, Floats, Layout
from esper.tamiyo.learned.policy import LearnedPolicy
from esper.tamiyo.learned.weights import FEATURE_NAMES, WeightsRefused, read_weights, write_weights
from tests.unit.tamiyo.builders import packet
from tests.unit.tamiyo.learned.weighing import view

LAYOUT = Layout(slots=["a", "a", "b", "b", "c"], blueprints=["x", "y", "x", "y", "x"])
FEATURES = len(FEATURE_NAMES)


def model(seed: int = 0) -> GraphModel:
    draw = np.random.default_rng(seed)
    return GraphModel(
        center=np.zeros(FEATURES),
        scale=np.ones(FEATURES),
        tensors={name: draw.normal(scale=0.3, size=shape) for name, shape in shapes().items()},
        calibration=np.tile([0.0, 1.0], (len(HEADS), 1)),
        noise=np.ones(len(HEADS)),
    )


def rows(seed: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Of five candidates: those of a slot share what is the slot's, all share what is the run's."""
    draw = np.random.default_rng(seed)
    found = np.tile(draw.normal(size=FEATURES), (5, 1))
    places = {name: FEATURE_NAMES.index(name) for name in ("width", "position", "added", "cost", "widening")}
    by_slot = draw.normal(size=(3, 2))
    for row, slot in enumerate((0, 0, 1, 1, 2)):
        found[row, [places["width"], places["position"]]] = by_slot[slot]
        found[row, [places["added"], places["cost"], places["widening"]]] = draw.normal(size=3)
    return found


def shares(graph: Graph, name: str) -> Floats:
    """An edge as a matrix, also where each target has one source."""
    edge = graph.edges[name]
    if isinstance(edge, Groups):
        return edge.means(np.eye(len(edge.target)))
    return edge if edge.ndim > 1 else np.eye(len(graph.nodes[name.split("_to_")[0]]))[edge]


def test_the_order_in_which_candidates_are_told_does_not_matter() -> None:
    order = [3, 0, 4, 2, 1]
    moved = Layout(slots=[LAYOUT.slots[i] for i in order], blueprints=[LAYOUT.blueprints[i] for i in order])
    first, second = model().predict(rows(), LAYOUT), model().predict(rows()[order], moved)
    assert np.allclose(first.means["reward"][order], second.means["reward"])
    assert np.allclose(first.errors["gain"][order], second.errors["gain"])


def test_a_candidate_hears_of_other_slots_and_not_of_other_packets() -> None:
    """The bandit couldn't: there, what is known of another slot changes nothing."""
    changed = rows()
    changed[4, FEATURE_NAMES.index("width")] += 1.0
    alone = model().predict(rows(), LAYOUT).means["reward"]
    assert abs(model().predict(changed, LAYOUT).means["reward"][0] - alone[0]) > 1e-6
    graph = graph_of([(rows(), LAYOUT), (changed, LAYOUT)], np.zeros(FEATURES), np.ones(FEATURES))
    for name in graph.edges:
        edge = shares(graph, name)
        half_rows, half_columns = (size // 2 for size in edge.shape)
        assert not edge[:half_rows, half_columns:].any(), name
        assert not edge[half_rows:, :half_columns].any(), name


def test_means_are_means() -> None:
    graph = graph_of([(rows(), LAYOUT)], np.zeros(FEATURES), np.ones(FEATURES))
    for name in graph.edges:
        sums = shares(graph, name).sum(axis=1)
        expected = sums.round() if name == "before_to_slot" else np.ones(len(sums))
        assert np.allclose(sums, expected), name


def test_weights_survive_their_bytes_and_decide() -> None:
    content = write_weights(model(), version="1.2.0", caution=0.5, price=0.05, expected_reward=0.0)
    weights = read_weights(content)
    assert (weights.policy_id, weights.version) == ("graph", "1.2.0")
    told = [each.predict(rows(), LAYOUT).means["reward"] for each in (weights.model, model())]
    assert np.array_equal(told[0], told[1])
    proposal = LearnedPolicy(weights).propose(view(packet(500)))
    assert proposal.value is not None


def test_weights_of_another_shape_are_refused() -> None:
    short = replace(model(), tensors={**model().tensors, "head": np.zeros((1, 2, 3))})
    with pytest.raises(WeightsRefused, match="head has shape"):
        read_weights(write_weights(short, version="1.2.0", caution=0.5, price=0.05, expected_reward=0.0))


def test_what_is_absent_or_far_is_answered_in_finite_numbers() -> None:
    for given in (np.full((5, FEATURES), np.nan), np.full((5, FEATURES), 1e9)):
        found = model().predict(given, LAYOUT)
        assert all(np.isfinite(values).all() for values in (*found.means.values(), *found.errors.values()))


def test_the_service_predicts_in_single_precision_what_double_precision_says() -> None:
    draw, own = np.random.default_rng(3), model(2)
    count, order = 60, np.random.default_rng(4).permutation(60)
    given = np.tile(draw.normal(size=FEATURES), (count, 1))
    given[:, FEATURE_NAMES.index("added")] = draw.normal(size=count)
    layout = Layout(slots=[f"s{place // 6}" for place in order], blueprints=[f"b{place % 6}" for place in order])
    graph = graph_of([(given, layout)], own.center, own.scale)
    for member in range(MEMBERS):
        alone = forward({name: tensor[member] for name, tensor in own.tensors.items()}, graph)
        together = forward(own.tensors, graph)[member]
        assert np.allclose(alone, together, rtol=0, atol=1e-12), "members side by side don't hear each other"
    exact = forward(own.tensors, graph).mean(axis=0)
    told = np.stack(list(own.predict(given, layout).means.values()), axis=1)
    assert np.abs(told - exact).max() < 1e-5


def test_weights_too_great_for_single_precision_are_not_finite_and_no_error() -> None:
    great = replace(model(), tensors={name: tensor * 1e300 for name, tensor in model().tensors.items()})
    assert not np.isfinite(great.predict(rows(), LAYOUT).means["reward"]).all()
