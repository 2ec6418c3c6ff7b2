"""The U-Net of ADM against a PyTorch copy of its published structure, written here, with random weights."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gen_jax import rng
from gen_jax.contracts import UserError
from gen_jax.families.diffusion.adm import ADMUNet, ResidualBlock, check_heads
from gen_jax.families.diffusion.classifier import NoisyClassifier
from gen_jax.nn.group_norm import num_groups_of

SMALL: dict[str, Any] = {
    "channels": 8,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attention_at": (4,),
    "head_channels": 4,
}
WIDE: dict[str, Any] = {
    "channels": 8,
    "channel_mult": (2, 3),
    "num_blocks": 2,
    "attention_at": (4, 8),
    "head_channels": 8,
}


class _Block(nn.Module):
    """ResBlock: `updown` of -1 halves, of 1 doubles."""

    def __init__(self, inputs: int, outputs: int, width: int, adaptive: bool, updown: int = 0) -> None:
        super().__init__()
        self.updown, self.adaptive = updown, adaptive
        self.norm1 = nn.GroupNorm(num_groups_of(inputs), inputs, eps=1e-5)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embedding = nn.Linear(width, 2 * outputs if adaptive else outputs)
        self.norm2 = nn.GroupNorm(num_groups_of(outputs), outputs, eps=1e-5)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def _resized(self, x: Tensor) -> Tensor:
        if self.updown > 0:
            return functional.interpolate(x, scale_factor=2, mode="nearest")
        return functional.avg_pool2d(x, 2) if self.updown < 0 else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(self._resized(functional.silu(self.norm1(x))))
        told = self.embedding(functional.silu(embedding))[:, :, None, None]
        if self.adaptive:
            scale, shift = told.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + told)
        h = self.conv2(functional.silu(h))
        x = self._resized(x)
        return (self.shortcut(x) if hasattr(self, "shortcut") else x) + h


def _attend(qkv: Tensor, heads: int) -> Tensor:
    """QKVAttention: [N, 3 H C, T] to [N, H C, T]."""
    batch, width, length = qkv.shape
    q, k, v = (part.reshape(batch * heads, -1, length) for part in qkv.chunk(3, dim=1))
    scale = 1 / math.sqrt(math.sqrt(width // (3 * heads)))
    weights = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
    return torch.einsum("bts,bcs->bct", weights, v).reshape(batch, -1, length)


class _Attention(nn.Module):
    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(num_groups_of(channels), channels, eps=1e-5)
        self.qkv, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        flat = x.flatten(2)
        return (flat + self.out(_attend(self.qkv(self.norm(flat)), self.heads))).reshape(x.shape)


class _Pool(nn.Module):
    """AttentionPool2d."""

    def __init__(self, positions: int, channels: int, head_channels: int, outputs: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.places = nn.Parameter(torch.empty(channels, positions + 1))
        self.qkv, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.places
        return self.out(_attend(self.qkv(x), self.heads))[:, :, 0]


class _Copy(nn.Module):
    """UNetModel and EncoderUNetModel: `decode` or not. Its modules have our names; its order is the published one."""

    def __init__(
        self,
        size: int,
        outputs: int,
        *,
        channels: int,
        channel_mult: tuple[int, ...],
        num_blocks: int,
        attention_at: tuple[int, ...],
        head_channels: int,
        num_classes: int = 0,
        adaptive: bool = True,
        big_gan: bool = True,
        decode: bool = True,
    ) -> None:
        super().__init__()
        width, self.channels, self.decode = 4 * channels, channels, decode
        self.time1, self.time2 = nn.Linear(channels, width), nn.Linear(width, width)
        if num_classes:
            self.label = nn.Embedding(num_classes, width)
        block = functools.partial(_Block, width=width, adaptive=adaptive)
        self.parts = nn.ModuleDict()
        ch, ds = channel_mult[0] * channels, 1
        self.parts["in"] = nn.Conv2d(3, ch, 3, padding=1)
        self.way_in, self.way_out, chans = [["in"]], [], [ch]
        last = len(channel_mult) - 1

        def add(stage: list[str], name: str, module: nn.Module) -> None:
            self.parts[name] = module
            stage.append(name)

        for level, mult in enumerate(channel_mult):
            for i in range(num_blocks):
                stage: list[str] = []
                add(stage, f"down{level}_{i}", block(ch, mult * channels))
                ch = mult * channels
                if size // ds in attention_at:
                    add(stage, f"down{level}_{i}_attention", _Attention(ch, head_channels))
                self.way_in.append(stage)
                chans.append(ch)
            if level != last:
                stage = []
                add(stage, f"down{level}", block(ch, ch, updown=-1) if big_gan else nn.Conv2d(ch, ch, 3, 2))
                self.way_in.append(stage)
                chans.append(ch)
                ds *= 2
        self.middle: list[str] = []
        add(self.middle, "middle0", block(ch, ch))
        add(self.middle, "middle_attention", _Attention(ch, head_channels))
        add(self.middle, "middle1", block(ch, ch))
        for level, mult in list(enumerate(channel_mult))[::-1] if decode else []:
            for i in range(num_blocks + 1):
                stage = []
                add(stage, f"up{level}_{i}", block(ch + chans.pop(), mult * channels))
                ch = mult * channels
                if size // ds in attention_at:
                    add(stage, f"up{level}_{i}_attention", _Attention(ch, head_channels))
                if level and i == num_blocks:
                    up = block(ch, ch, updown=1) if big_gan else nn.Conv2d(ch, ch, 3, padding=1)
                    add(stage, f"up{level}", up)
                    ds //= 2
                self.way_out.append(stage)
        self.norm = nn.GroupNorm(num_groups_of(ch), ch, eps=1e-5)
        if decode:
            self.out = nn.Conv2d(ch, outputs, 3, padding=1)
        else:
            self.pool = _Pool((size // ds) ** 2, ch, head_channels, outputs)

    def _run(self, stage: list[str], h: Tensor, embedding: Tensor) -> Tensor:
        for name in stage:
            module = self.parts[name]
            if isinstance(module, nn.Conv2d):
                if name.startswith("down"):
                    h = functional.pad(h, (0, 1, 0, 1))  # As in DDPM; ADM's code pads all around.
                elif name.startswith("up"):
                    h = functional.interpolate(h, scale_factor=2, mode="nearest")
                h = module(h)
            else:
                h = module(h, embedding)
        return h

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        half = self.channels // 2
        angles = time[:, None] * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        # Sines first, as ours: the published code has them last.
        embedding = self.time2(functional.silu(self.time1(torch.cat([angles.sin(), angles.cos()], dim=1))))
        if label is not None:
            embedding = embedding + self.label(label)
        h, kept = x, []
        for stage in self.way_in:
            h = self._run(stage, h, embedding)
            kept.append(h)
        h = self._run(self.middle, h, embedding)
        for stage in self.way_out:
            h = self._run(stage, torch.cat([h, kept.pop()], dim=1), embedding)
        h = functional.silu(self.norm(h))
        return self.out(h) if self.decode else self.pool(h)


def _random_copy(size: int, outputs: int, **sizes: Any) -> _Copy:
    """A copy, every number of it random; the first activations are so small that ε counts."""
    copy, generator = _Copy(size, outputs, **sizes), torch.Generator().manual_seed(0)
    for name, parameter in copy.named_parameters():
        scale = 0.3 if parameter.ndim == 1 else float(np.prod(parameter.shape[1:])) ** -0.5
        normal = torch.randn(parameter.shape, generator=generator) * scale
        parameter.data = normal + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        parameter.data *= 3e-3 if "parts.in." in name else 1.0
    return copy


def _params(model: nn.Module, *inputs: Any, copy: _Copy) -> Any:
    """Ours, each taken from the copy by its name; the null label's row, which that has not, is zero."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    state = {name.removeprefix("parts."): value.numpy() for name, value in copy.state_dict().items()}

    def take(path: Any, leaf: Any) -> jax.Array:
        *modules, last = (entry.key for entry in path)
        name = ".".join([*modules, {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(last, last)])
        array = state.pop(name)
        if last == "embedding":
            array = np.concatenate([array, np.zeros_like(array[:1])])
        elif array.ndim > 1:
            array = np.moveaxis(array, (0, 1), (-1, -2))
            array = array[0] if array.ndim == 3 else array  # A convolution over one position.
            array = array[0, 0] if array.ndim == 4 and len(leaf.shape) == 2 else array
        assert array.shape == leaf.shape, name
        return jnp.asarray(array)

    params = jax.tree_util.tree_map_with_path(take, shapes)
    assert not state
    return params


def _inputs(height: int = 8, width: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).standard_normal((2, height, width, 3)).astype(np.float32)
    return x, np.array([3, 421], np.int32), np.array([2, 0], np.int32)


def _apply(model: Any, params: Any, *inputs: Any) -> jax.Array:
    return jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs))(params, *inputs)


def _torch(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.tensor(a).permute(0, 3, 1, 2) if a.ndim == 4 else torch.tensor(a) for a in arrays]


@functools.cache
def _labelled() -> tuple[_Copy, ADMUNet, Any]:
    """A small network with three labels and what it is copied from."""
    copy, model = _random_copy(8, 6, num_classes=3, **SMALL), ADMUNet(num_classes=3, dropout=0.4, **SMALL)
    return copy, model, _params(model, *_inputs(), copy=copy)


def _count(parameters: Any) -> int:
    return sum(math.prod(p.shape) for p in parameters)


@pytest.mark.slow
def test_published_numbers_of_parameters():
    """The ImageNet-64 model has the copy's 295.9 million, of which the paper writes 296, and a null label's row more.

    Its classifier as well has as many as the copy.
    """
    sizes: dict[str, Any] = {"channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3}
    common: dict[str, Any] = {"attention_at": (32, 16, 8), "head_channels": 64}
    x, time = jnp.zeros((1, 64, 64, 3)), jnp.zeros(1)
    with torch.device("meta"):
        network = _Copy(64, 6, num_classes=1000, **sizes, **common)
        classifier = _Copy(64, 1000, decode=False, **sizes | {"channels": 128, "num_blocks": 4}, **common)
    expected = _count(network.parameters())
    assert round(expected / 1e6) == 296
    own = jax.eval_shape(ADMUNet(num_classes=1000).init, jax.random.key(0), x, time)["params"]
    assert _count(jax.tree.leaves(own)) == expected + 4 * 192
    own = jax.eval_shape(NoisyClassifier(num_blocks=4).init, jax.random.key(0), x, time)["params"]
    assert _count(jax.tree.leaves(own)) == _count(classifier.parameters())


def test_output_is_pytorchs():
    """Labels, scales and shifts, residual blocks that halve and double, two heads: equal to 1e-4."""
    copy, model, params = _labelled()
    x, time, label = _inputs()
    with torch.no_grad():
        expected = copy(*_torch(x, time, label)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(_apply(model, params, x, time, label), expected, atol=1e-4)
    assert np.std(expected) > 0.1


def test_output_without_the_options_is_pytorchs():
    """No labels, the embedding added, convolutions that halve and double; two blocks a level, not square."""
    copy = _random_copy(8, 3, adaptive=False, big_gan=False, **WIDE)
    model = ADMUNet(out_channels=3, adaptive_norm=False, big_gan_resampling=False, **WIDE)
    x, time, _ = _inputs(8, 12)
    with torch.no_grad():
        expected = copy(*_torch(x, time)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(_apply(model, _params(model, x, time, copy=copy), x, time), expected, atol=1e-4)
    assert np.std(expected) > 0.1


def test_classifier_is_pytorchs():
    """The logits of the inward half with attention pooling, for images that are as wide as high."""
    copy, model = _random_copy(8, 5, decode=False, **SMALL), NoisyClassifier(num_classes=5, **SMALL)
    x, time, _ = _inputs()
    with torch.no_grad():
        expected = copy(*_torch(x, time)).numpy()
    np.testing.assert_allclose(_apply(model, _params(model, x, time, copy=copy), x, time), expected, atol=1e-4)
    assert np.std(expected) > 0.1


def test_labels():
    """Another label changes its own image alone; the last row is that of no label, which is what None means."""
    _, model, params = _labelled()
    x, time, _ = _inputs()
    apply = jax.jit(functools.partial(model.apply, {"params": params}))
    first, second = apply(x, time, np.array([2, 0])), apply(x, time, np.array([1, 0]))
    assert np.abs(first[0] - second[0]).max() > 0.05
    np.testing.assert_array_equal(first[1], second[1])
    without = apply(x, time, np.array([3, 3]))
    np.testing.assert_allclose(_apply(model, params, x, time), without, atol=1e-5)
    table = params["label"]["embedding"].at[3].add(1.0)
    other = params | {"label": {"embedding": table}}
    assert np.abs(_apply(model, other, x, time, np.array([3, 3])) - without).max() > 0.05
    with pytest.raises(ValueError, match="num_classes=0 and was given labels"):
        ADMUNet(**SMALL).init(jax.random.key(0), x, time, np.array([0, 1]))


def test_dropout_belongs_to_the_example():
    """An example's output is that of its own key, whatever stands beside it."""
    sizes: dict[str, Any] = SMALL | {"channel_mult": (1,), "num_blocks": 1}
    inputs = _inputs(4, 4)
    model = ADMUNet(num_classes=3, dropout=0.4, **sizes)
    params = _params(model, *inputs, copy=_random_copy(4, 6, num_classes=3, **sizes))
    apply = jax.jit(functools.partial(model.apply, {"params": params}))
    first = apply(*inputs, rng.per_example(rng.root(0), np.array([5, 6])))
    again = apply(*(a[[0, 0]] for a in inputs), rng.per_example(rng.root(0), np.array([5, 7])))
    np.testing.assert_allclose(again[0], first[0], atol=1e-5)
    assert np.abs(again[0] - again[1]).max() > 0.05


def test_dropout_is_before_the_last_convolution():
    """Where the last convolution hands its input on, each number of it is 0 or twice what it is without dropout."""
    x, embedding = _inputs(2, 2)[0], np.ones((2, 4), np.float32)
    block, random = ResidualBlock(3, dropout=0.5), np.random.default_rng(3)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, embedding, None)["params"]
    params = jax.tree.map(lambda a: random.standard_normal(a.shape, np.float32), shapes)
    params["conv2"] = {"kernel": np.zeros((3, 3, 3, 3), np.float32), "bias": np.zeros(3, np.float32)}
    params["conv2"]["kernel"][1, 1] = np.eye(3)
    apply = jax.jit(lambda keys: block.apply({"params": params}, x, embedding, keys) - x)
    dropped, whole = apply(rng.per_example(rng.root(0), np.arange(2))), apply(None)
    kept = np.abs(dropped) > 1e-6
    np.testing.assert_allclose(dropped, np.where(kept, 2 * whole, 0), atol=1e-5)
    assert 0.2 < kept.mean() < 0.8


def test_the_papers_widths_are_normalised_in_thirty_two_groups():
    """Those of ADM's networks for 64 to 512 pixels, whose code has GroupNorm(32) everywhere."""
    widths = {mult * channels for channels in (128, 192, 256) for mult in (1, 2, 3, 4)}
    assert {num_groups_of(width) for width in widths} == {32}


@pytest.mark.slow
def test_remat_changes_nothing():
    """The same parameters, outputs and gradients, with dropout."""
    sizes: dict[str, Any] = SMALL | {"channel_mult": (1,), "num_blocks": 0}  # Dropout takes long to compile.
    x, time, _ = _inputs(4, 4)
    params = _params(ADMUNet(**sizes), x, time, copy=_random_copy(4, 6, **sizes))
    keys = rng.per_example(rng.root(0), np.arange(2))
    trees = [
        jax.eval_shape(ADMUNet(remat=remat, **WIDE).init, jax.random.key(0), *_inputs()[:2]) for remat in (False, True)
    ]
    assert jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])

    def run(remat: bool) -> tuple[Any, Any]:
        model = ADMUNet(dropout=0.3, remat=remat, **sizes)
        loss = lambda params: jnp.sum(jnp.sin(model.apply({"params": params}, x, time, None, keys)))  # noqa: E731
        program = jax.jit(jax.value_and_grad(loss)).trace(params)
        assert ("remat" in str(program.jaxpr)) is remat
        return program.lower().compile({"xla_backend_optimization_level": 0})(params)  # Compiles sooner.

    (value, gradient), (again, other) = run(False), run(True)
    np.testing.assert_allclose(value, again, rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (gradient, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max() + 1e-6)


def test_starts_at_nothing():
    """The last layer of the network and of every branch is exactly 0; the others have PyTorch's bounds."""
    inputs = _inputs()

    def kernels(key: jax.Array) -> tuple[list[jax.Array], jax.Array, jax.Array]:
        params = ADMUNet(num_classes=3, **SMALL).init(key, *inputs)["params"]
        last = [params["out"]["kernel"]]
        last += [params[name]["conv2"]["kernel"] for name in ("down0_0", "down0", "middle0", "middle1", "up0_0", "up1")]
        last += [params[name]["out"]["kernel"] for name in ("down1_0_attention", "middle_attention")]
        return last, params["in"]["kernel"], params["label"]["embedding"]

    last, first, table = jax.jit(kernels)(jax.random.key(0))
    assert not any(kernel.any() for kernel in last)
    assert 0.9 * 27**-0.5 < np.abs(first).max() <= 27**-0.5
    assert table.shape == (4, 32) and table.std() == pytest.approx(1, abs=0.2)


def test_half_precision():
    """bfloat16 parameters and images give a bfloat16 output near that in float32."""
    _, model, params = _labelled()
    x, time, label = _inputs()
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    found = _apply(model, half, jnp.asarray(x, jnp.bfloat16), time, label)
    assert found.dtype == jnp.bfloat16
    expected = _apply(model, params, x, time, label)
    assert np.abs(np.asarray(found, np.float32) - expected).mean() < 0.05 * np.abs(expected).mean()


def test_heads_that_cannot_be_are_refused():
    """The channels of every level that has attention are a multiple of a head's; the last level always has it."""
    check_heads(64, 192, (1, 2, 3, 4), (32, 16, 8), 64)
    check_heads(28, 16, (1, 2, 4), (7,), 32)
    with pytest.raises(UserError, match=r"head_channels is 64, and a level of 96 channels .* divides 192, 96"):
        check_heads(32, 96, (2, 1), (32,), 64)
    with pytest.raises(UserError, match=r"a level of 96 channels .* divides 96"):
        check_heads(32, 96, (2, 1), (), 64)
    with pytest.raises(UserError, match="head_channels is 0"):
        check_heads(32, 64, (1, 2), (), 0)
