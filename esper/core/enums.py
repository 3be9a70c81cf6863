"""Enum values as people read them: without the prefix that their enum's name gives each of them."""

from __future__ import annotations

import re
from functools import cache

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper


@cache
def short_name(enum: EnumTypeWrapper, value: int) -> str:
    """SEED_STAGE_BLENDING of SeedStage -> BLENDING."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
    return str(enum.Name(value)).removeprefix(prefix)
