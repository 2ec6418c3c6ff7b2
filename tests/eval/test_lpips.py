"""LPIPS against the same network in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from gen_jax.contracts import UserError
from gen_jax.eval import lpips

# Kernel sizes and channels of the convolutions of each stage, with the numbers that the layers have in torchvision.
ALEX = [[(0, 11, 6)], [(3, 5, 8)], [(6, 3, 9)], [(8, 3, 7)], [(10, 3, 5)]]
VGG = [[(0, 3, 4), (2, 3, 5)], [(5, 3, 6), (7, 3, 6)], [(10, 3, 7), (12, 3, 5), (14, 3, 8)], [(17, 3, 6)], [(24, 3, 4)]]


def random_state(network):
    random, before, state = np.random.default_rng(0), 3, {}
    for stage, layers in enumerate(network, start=1):
        for number, size, channels in layers:
            scale = (size * size * before) ** -0.5
            state[f"net.slice{stage}.{number}.weight"] = random.normal(0, scale, (channels, before, size, size))
            state[f"net.slice{stage}.{number}.bias"] = random.normal(0, 0.1, channels)
            before = channels
        state[f"lin{stage - 1}.model.1.weight"] = random.random((1, before, 1, 1))
    return {name: array.astype(np.float32) for name, array in state.items()}


def in_pytorch(network, state, image, truth):
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    is_alex, total = network is ALEX, 0.0
    pair = [(torch.from_numpy(x).permute(2, 0, 1)[None] * 2 - 1 - shift) / scale for x in (image, truth)]
    for stage, layers in enumerate(network, start=1):
        if stage in ((2, 3) if is_alex else (2, 3, 4, 5)):
            pair = [functional.max_pool2d(x, 3 if is_alex else 2, 2) for x in pair]
        for number, size, _ in layers:
            weight, bias = (torch.from_numpy(state[f"net.slice{stage}.{number}.{k}"]) for k in ("weight", "bias"))
            stride, padding = (4, 2) if size == 11 else (1, size // 2)
            pair = [functional.relu(functional.conv2d(x, weight, bias, stride, padding)) for x in pair]
        a, b = (x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for x in pair)
        lin = torch.from_numpy(state[f"lin{stage - 1}.model.1.weight"])
        total += float(functional.conv2d((a - b) ** 2, lin).mean())
    return total


@pytest.mark.parametrize("network", [ALEX, VGG], ids=["alex", "vgg"])
def test_the_distance_is_pytorchs(network, tmp_path):
    state = random_state(network)
    np.savez(tmp_path / "weights.npz", **state)
    weights = lpips.load(tmp_path / "weights.npz")
    image, truth = np.random.default_rng(1).random((2, 67, 80, 3)).astype(np.float32)
    found = float(lpips.lpips(weights, image, truth))
    np.testing.assert_allclose(found, in_pytorch(network, state, image, truth), rtol=1e-4)
    assert found > 0.01 and float(lpips.lpips(weights, truth, truth)) == 0


def test_other_files_are_refused(tmp_path):
    state = random_state(ALEX)
    for missing in ("net.slice3.6.weight", "lin2.model.1.weight"):
        kept = {name: array for name, array in state.items() if name != missing}
        with pytest.raises(UserError, match="no stage 3"):
            lpips.weights_of(kept)
    (tmp_path / "no.npz").write_text("no")
    with pytest.raises(UserError, match=r"no\.npz cannot be read as weights of LPIPS"):
        lpips.load(tmp_path / "no.npz")
    with pytest.raises(UserError, match="cannot be read"):
        lpips.load(tmp_path / "absent.npz")
