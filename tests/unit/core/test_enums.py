"""Every enum of the contracts keeps the rule of prefixes that short names rest on."""

from __future__ import annotations

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from esper import leyline
from esper.core.enums import short_name
from esper.leyline import SeedStage

ENUMS = [each for each in vars(leyline).values() if isinstance(each, EnumTypeWrapper)]


def test_a_short_name_is_the_name_without_its_enums_prefix() -> None:
    assert short_name(SeedStage, SeedStage.SEED_STAGE_BLENDING) == "BLENDING"


@pytest.mark.parametrize("enum", ENUMS, ids=lambda enum: enum.DESCRIPTOR.name)
def test_the_zero_of_every_enum_is_unspecified_and_no_value_keeps_its_prefix(enum: EnumTypeWrapper) -> None:
    names = [short_name(enum, value) for value in enum.values()]
    assert names[0] == "UNSPECIFIED"
    assert not set(names) & set(enum.keys())


def test_a_value_that_the_enum_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="999"):
        short_name(SeedStage, 999)
