"""Names in PyTorch's state dicts."""

from __future__ import annotations

import numpy as np

from gen_jax.nn.torch_names import without_prefix


def test_a_prefix_is_left_out_where_every_name_has_it():
    array = np.ones(3)
    assert without_prefix({"module.a.weight": array, "module.b": array}) == {"a.weight": array, "b": array}
    some = {"module.a.weight": array, "b": array}
    assert without_prefix(some) == some
    assert without_prefix({}) == {}
