from __future__ import annotations

import pytest

from esper.simic.dataset import Dataset, dataset_of
from esper.simic.graph_trainer import explained_by, fit_graph
from esper.simic.value import at_random, doubly_robust, greedy
from tests.unit.simic.making import reports


@pytest.mark.slow
def test_the_graph_learns_what_pays_and_its_heads_are_calibrated() -> None:
    data = dataset_of(reports(180))
    model = fit_graph(data, 0.1)
    later = _later()
    models = dict.fromkeys(later.runs, model)
    assert explained_by(models, later, 0.1) > 0.2
    better = doubly_robust(later, greedy(model, 0.5), models, 0.1, beside=at_random)
    assert better.low > 0.0
    told = [model.predict(d.candidates, d.layout).means["gain"][d.chosen] for d in later.decisions]
    measured = [d.worth.gain for d in later.decisions]
    assert sum(told) / len(told) == pytest.approx(sum(measured) / len(measured), abs=0.03)


def _later() -> Dataset:
    return dataset_of(reports(360)[180:])
