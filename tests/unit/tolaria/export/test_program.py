"""A program has an open number of rows or there is none, and torch's own words stay out of sight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.tolaria.export.program import LONGEST_REASON, foreign_operator, in_words, traced


class Host(nn.Module):
    """Two layers and whatever a test does between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.between(self.fc1(x)))  # type: ignore[no-any-return]

    def between(self, x: Tensor) -> Tensor:
        return x.relu()


class RowsInPython(Host):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.ones(int(x.shape[0]), 3)


class FixedRows(Host):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.ones(5, 3)


class Branching(Host):
    def between(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Raising(Host):
    def between(self, x: Tensor) -> Tensor:
        raise KeyError("no such thing\nand more")


EXAMPLE = torch.zeros(3, 4)


@pytest.mark.parametrize("kind", [Host, RowsInPython])
def test_any_number_of_rows_goes_through(kind: type[Host]) -> None:
    module = kind().eval()
    program, reason = traced(module, EXAMPLE)
    assert program is not None, reason
    for rows in (1, 2, 7, 100):
        inputs = torch.randn(rows, 4)
        assert torch.allclose(program.module()(inputs), module(inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(FixedRows, ""), (Branching, "its control flow depends on the values of its inputs"), (Raising, "KeyError: ")],
)
def test_what_cannot_be_traced_is_told_in_one_line_and_nothing_is_printed(
    kind: type[Host], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    program, reason = traced(kind().eval(), torch.zeros(5, 4))
    assert program is None
    assert reason.startswith(words)
    assert 0 < len(reason) <= LONGEST_REASON
    assert "\n" not in reason
    assert capfd.readouterr() == ("", "")


def test_a_program_knows_nothing_of_the_code_that_it_came_from() -> None:
    program, _ = traced(Host().eval(), EXAMPLE)
    assert program is not None
    assert not [node for node in program.graph.nodes if node.meta.get("stack_trace")]


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert in_words(AssertionError()) == "AssertionError"


@pytest.mark.filterwarnings("ignore")
def test_a_part_that_is_a_compiled_script_is_named() -> None:
    host = nn.Sequential(nn.Linear(4, 3), torch.jit.script(nn.Sequential(nn.Linear(3, 2)))).eval()
    assert traced(host, EXAMPLE) == (None, "1 is a compiled script (torch.jit)")


@torch.library.custom_op("esper_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return 2 * x


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class OfALibrary(Host):
    def between(self, x: Tensor) -> Tensor:
        return doubled(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "operator"), [(Host, ""), (OfALibrary, "esper_tests::doubled")])
def test_an_operator_that_torch_itself_lacks_is_named(kind: type[Host], operator: str) -> None:
    program, reason = traced(kind().eval(), EXAMPLE)
    assert program is not None, reason
    assert foreign_operator(program) == operator
