from __future__ import annotations

import pytest

from esper.core.dependency_guard import require, require_id
from esper.core.errors import DependencyViolationError


def test_what_is_there_comes_back_also_when_it_is_falsy() -> None:
    for entry in (0, "", [], "blueprint"):
        assert require(entry, subsystem="urza", kind="blueprint", identifier="b", remedy="name one") == entry


def test_what_is_missing_is_named_with_a_remedy() -> None:
    with pytest.raises(DependencyViolationError, match="urza: blueprint 'b' is missing; name one") as refused:
        require(None, subsystem="urza", kind="blueprint", identifier="b", remedy="name one")
    assert (refused.value.subsystem, refused.value.kind, refused.value.identifier) == ("urza", "blueprint", "b")


@pytest.mark.parametrize("identifier", ["", " ", " r", "r\n"])
def test_a_blank_or_padded_id_is_no_id(identifier: str) -> None:
    with pytest.raises(DependencyViolationError, match="run"):
        require_id(identifier, subsystem="tamiyo", kind="run")


def test_a_good_id_comes_back() -> None:
    assert require_id("run-1", subsystem="tamiyo", kind="run") == "run-1"
