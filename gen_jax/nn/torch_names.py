"""What PyTorch's state dicts have in common, whatever the network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def without_prefix(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict without the "module." that a network spread over devices has before every name.

    Args:
      state: arrays by their names in PyTorch.

    Returns:
      The arrays by their names without it, or as they are where one name does not begin so.
    """
    prefix = "module."
    has_prefix = all(name.startswith(prefix) for name in state)
    return {name.removeprefix(prefix) if has_prefix else name: array for name, array in state.items()}
