"""Where a step's gradient comes from (microbatches, losses, or the seeds that it came through) and what each asks."""

from esper.tolaria.loop.aggregation.meter import Note, Sample, SeedMeter
from esper.tolaria.loop.aggregation.paths import SeedPaths
from esper.tolaria.loop.aggregation.sources import SeedSources, Weigh, weight_of
from esper.tolaria.loop.aggregation.surgery import GradientSurgery

__all__ = ["GradientSurgery", "Note", "Sample", "SeedMeter", "SeedPaths", "SeedSources", "Weigh", "weight_of"]
