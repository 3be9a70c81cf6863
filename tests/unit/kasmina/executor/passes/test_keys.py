from __future__ import annotations

import torch

from esper.kasmina.executor.passes.keys import draw_key, forked_generators


def test_equal_purposes_give_equal_keys_and_others_differ():
    assert draw_key(1, "shadow", "s1", 5) == draw_key(1, "shadow", "s1", 5)
    keys = {draw_key(1, "shadow", "s1", 5), draw_key(1, "shadow", "s1", 6), draw_key(1, "shadows1", 5), draw_key(11, 5)}
    assert len(keys) == 4
    assert all(0 <= key < 2**63 for key in keys)


def test_draws_inside_depend_on_the_key_and_leave_the_generator_alone():
    torch.default_generator.manual_seed(3)
    expected = torch.rand(4)
    torch.default_generator.manual_seed(3)
    with forked_generators(9, torch.device("cpu")):
        first = torch.rand(4)
    with forked_generators(9, torch.device("cpu")):
        second = torch.rand(4)
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(4), expected)
