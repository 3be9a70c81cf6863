"""Data that a run learns from, is judged on and is reported on: three disjoint sets, no download."""

from esper.tolaria.task.data.registry import load_splits, open_source
from esper.tolaria.task.data.source import DataSource, Split, Splits

__all__ = ["DataSource", "Split", "Splits", "load_splits", "open_source"]
