from __future__ import annotations

import pytest

from esper.core.dependency_guard import require
from esper.core.errors import DependencyViolationError


def test_what_is_there_comes_back_also_when_it_is_falsy() -> None:
    for entry in (0, "", [], "blueprint"):
        assert require(entry, "urza", "blueprint", "b", "name one") == entry


def test_what_is_missing_is_named_with_a_remedy() -> None:
    with pytest.raises(DependencyViolationError, match="urza: blueprint 'b' is missing; name one") as refused:
        require(None, "urza", "blueprint", "b", "name one")
    assert (refused.value.subsystem, refused.value.kind, refused.value.identifier) == ("urza", "blueprint", "b")
