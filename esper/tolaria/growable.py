"""Whether a run has what growth needs: enough to judge by, slots for what was asked for, and time.

Whatever of data and time falls short is told at once: who mends one and starts again should not meet the next.
"""

from __future__ import annotations

from math import ceil

from esper.core.errors import ConfigError
from esper.tolaria.config import TrainConfig
from esper.tolaria.plane.start.blends import check_blend
from esper.tolaria.plane.start.named_blueprints import check_blueprints
from esper.tolaria.plane.start.opening import life_settings
from esper.tolaria.plane.start.stack_growth import check_stacks, check_times
from esper.tolaria.plane.start.stack_schedule import schedule_doubts
from esper.tolaria.task.data import Splits
from esper.tolaria.task.feeds.feed import BatchSets
from esper.tolaria.task.prepare import Prepared
from esper.tolaria.trial import try_stacks


def check_growth(run: Prepared) -> None:
    """Note what of the growth that was asked for will not be. Raises ConfigError where none of it can be."""
    try_stacks(run)
    found = shortfalls(run.config, run.splits)
    check_blueprints(run.config.blueprints, run.manifest(), run.own.blueprints)
    manifest = run.manifest()
    check_blend(run.config, manifest, life_settings(run.config, manifest.task, run.total_steps).window_steps)
    check_stacks(run.config, run.manifest(), run.executor.places.refused_runs)
    check_times(run.config, run.manifest())
    try:
        run.doubts += schedule_doubts(run.config, run.manifest(), run.total_steps)
    except ConfigError as error:
        found.append(error)
    if found:
        first, *others = found
        raise ConfigError(first.key, first.value, "; also ".join([first.remedy, *map(str, others)]))


def shortfalls(config: TrainConfig, sets: Splits | BatchSets) -> list[ConfigError]:
    """What the judging set lacks: samples, and documents that they are of.

    With few documents, or a few large ones among many, an error that counts them is too small (Cameron and Miller 2015,
    6.B: "few" may mean 20 to 50); 30 of about one size err little.
    """
    samples, documents = len(sets.judge), sets.judge.document_count
    found = []
    if samples < config.min_samples:
        remedy = f"the judging set has only {samples:,}; give more data, lower min_samples, or --grow never"
        remedy += _in_all(config, sets)
        found.append(ConfigError("min_samples", config.min_samples, remedy))
    if documents is not None and documents < max(2, config.min_documents):
        held = "a single document" if documents == 1 else f"only {documents} documents"
        remedy = (
            f"the {samples} judging samples are of {held}; divide documents further (--document-mark), give more of "
            "them, lower min_documents, or --grow never"
        )
        found.append(ConfigError("min_documents", config.min_documents, remedy))
    return found


def _in_all(config: TrainConfig, sets: Splits | BatchSets) -> str:
    """How many samples, divided as these are, would give enough of them to judge by."""
    sizes = {name: size for name, size in sets.sizes.items() if name != "test" or sets.test is not sets.judge}
    total, samples = sum(sizes.values()), len(sets.judge)
    if not samples or "train" not in sizes:
        return ""
    return f" (of {total:,} samples in all; divided alike, about {ceil(total * config.min_samples / samples):,} do)"
