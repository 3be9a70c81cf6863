"""Data that a run learns from, is judged on and is reported on: three disjoint sets, no download."""

from esper.tolaria.data.registry import open_source
from esper.tolaria.data.source import DataSource, Split, Splits

__all__ = ["DataSource", "Split", "Splits", "open_source"]
