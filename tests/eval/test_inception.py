"""Inception-v3 against numpy and PyTorch networks written from the papers' tables, with random weights."""

import sys
import types

import jax
import numpy as np
import pytest
import scipy.special

from gen_jax.contracts import UserError
from gen_jax.eval import features, inception

# Every convolution by its name in the public port: (outputs, inputs, kernel height, kernel width).
STEM = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
}


def block_a(inputs: int, pool: int) -> dict:
    return {
        "branch1x1": (64, inputs, 1, 1),
        "branch5x5_1": (48, inputs, 1, 1),
        "branch5x5_2": (64, 48, 5, 5),
        "branch3x3dbl_1": (64, inputs, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (pool, inputs, 1, 1),
    }


def block_b(inputs: int) -> dict:
    return {
        "branch3x3": (384, inputs, 3, 3),
        "branch3x3dbl_1": (64, inputs, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    }


def block_c(inputs: int, c: int) -> dict:
    return {
        "branch1x1": (192, inputs, 1, 1),
        "branch7x7_1": (c, inputs, 1, 1),
        "branch7x7_2": (c, c, 1, 7),
        "branch7x7_3": (192, c, 7, 1),
        "branch7x7dbl_1": (c, inputs, 1, 1),
        "branch7x7dbl_2": (c, c, 7, 1),
        "branch7x7dbl_3": (c, c, 1, 7),
        "branch7x7dbl_4": (c, c, 7, 1),
        "branch7x7dbl_5": (192, c, 1, 7),
        "branch_pool": (192, inputs, 1, 1),
    }


def block_d(inputs: int) -> dict:
    return {
        "branch3x3_1": (192, inputs, 1, 1),
        "branch3x3_2": (320, 192, 3, 3),
        "branch7x7x3_1": (192, inputs, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    }


def block_e(inputs: int) -> dict:
    return {
        "branch1x1": (320, inputs, 1, 1),
        "branch3x3_1": (384, inputs, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (448, inputs, 1, 1),
        "branch3x3dbl_2": (384, 448, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (192, inputs, 1, 1),
    }


BLOCKS = {
    "Mixed_5b": block_a(192, 32),
    "Mixed_5c": block_a(256, 64),
    "Mixed_5d": block_a(288, 64),
    "Mixed_6a": block_b(288),
    "Mixed_6b": block_c(768, 128),
    "Mixed_6c": block_c(768, 160),
    "Mixed_6d": block_c(768, 160),
    "Mixed_6e": block_c(768, 192),
    "Mixed_7a": block_d(768),
    "Mixed_7b": block_e(1280),
    "Mixed_7c": block_e(2048),
}
CONVOLUTIONS = STEM | {f"{block}.{name}": shape for block, convs in BLOCKS.items() for name, shape in convs.items()}

# What follows each branch's convolutions: the numbers of those with stride 2 and no padding.
VALID = {"Conv2d_1a_3x3": 2, "Conv2d_2a_3x3": 1, "Conv2d_4a_3x3": 1}
STRIDED = ("Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2", "Mixed_7a.branch7x7x3_4")
VALID |= dict.fromkeys(STRIDED, 2)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """Random weights under PyTorch's names, such that what a layer gives neither vanishes nor grows."""
    random = np.random.default_rng(0)
    arrays = {}
    for name, shape in CONVOLUTIONS.items():
        outputs, *fan_in = shape
        arrays[f"{name}.conv.weight"] = random.normal(0, np.sqrt(1.5 / np.prod(fan_in)), shape)
        for kind, low, high in (
            ("weight", 0.7, 1.3),
            ("bias", -0.3, 0.3),
            ("running_mean", -0.2, 0.2),
            ("running_var", 0.5, 1.5),
        ):
            arrays[f"{name}.bn.{kind}"] = random.uniform(low, high, outputs)
        arrays[f"{name}.bn.num_batches_tracked"] = np.array(7)
    arrays["fc.weight"] = random.normal(0, 0.03, (1008, 2048))
    arrays["fc.bias"] = random.normal(0, 0.5, 1008)
    return {name: a.astype(np.float32) if a.ndim else a for name, a in arrays.items()}


@pytest.fixture(scope="module")
def variables(weights) -> dict:
    return inception.variables_of(weights, "here")


def windows(x: np.ndarray, size: tuple[int, int], stride: int, fill: float | None) -> np.ndarray:
    """[C, H', W', h, w] of x [C, H, W]; the edge is padded with `fill`, or not where it is None."""
    if fill is not None:
        x = np.pad(x, ((0, 0), *((s // 2, s // 2) for s in size)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))[:, ::stride, ::stride]


def halved(x: np.ndarray) -> np.ndarray:
    """The greatest of every second 3x3 pixels of [C, H, W]."""
    return windows(x, (3, 3), 2, None).max(axis=(3, 4))


class Slow:
    """The network in float64 numpy, channels first, as PyTorch lays the weights out."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = {name: a.astype(np.float64) for name, a in arrays.items()}

    def conv(self, name: str, x: np.ndarray) -> np.ndarray:
        kernel = self.arrays[f"{name}.conv.weight"]
        found = windows(x, kernel.shape[2:], VALID.get(name, 1), None if name in VALID else 0.0)
        y = np.tensordot(kernel, found, ([1, 2, 3], [0, 3, 4]))
        gain, bias, mean, var = (
            self.arrays[f"{name}.bn.{kind}"][:, None, None]
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return np.maximum(gain * (y - mean) / np.sqrt(var + 0.001) + bias, 0)

    def chain(self, block: str, x: np.ndarray, *names: str) -> np.ndarray:
        for name in names:
            x = self.conv(f"{block}.{name}", x)
        return x

    def block(self, block: str, x: np.ndarray) -> np.ndarray:
        run = lambda *names: self.chain(block, x, *names)  # noqa: E731
        kind = block[6:]
        mean = np.nanmean(windows(x, (3, 3), 1, np.nan), axis=(3, 4))
        if kind.startswith("5"):
            double = run("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
            pooled = self.chain(block, mean, "branch_pool")
            return np.concatenate([run("branch1x1"), run("branch5x5_1", "branch5x5_2"), double, pooled])
        if kind == "6a":
            return np.concatenate([run("branch3x3"), run(*(f"branch3x3dbl_{i}" for i in (1, 2, 3))), halved(x)])
        if kind.startswith("6"):
            single = run(*(f"branch7x7_{i}" for i in (1, 2, 3)))
            double = run(*(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)))
            return np.concatenate([run("branch1x1"), single, double, self.chain(block, mean, "branch_pool")])
        if kind == "7a":
            large = run(*(f"branch7x7x3_{i}" for i in (1, 2, 3, 4)))
            return np.concatenate([run("branch3x3_1", "branch3x3_2"), large, halved(x)])
        single, double = run("branch3x3_1"), run("branch3x3dbl_1", "branch3x3dbl_2")
        pooled = windows(x, (3, 3), 1, -np.inf).max(axis=(3, 4)) if kind == "7c" else mean
        return np.concatenate(
            [
                run("branch1x1"),
                *(self.chain(block, single, f"branch3x3_2{part}") for part in "ab"),
                *(self.chain(block, double, f"branch3x3dbl_3{part}") for part in "ab"),
                self.chain(block, pooled, "branch_pool"),
            ]
        )

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[3, H, W] to [2048] and [1008]."""
        for name in STEM:
            x = self.conv(name, x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = halved(x)
        for block in BLOCKS:
            x = self.block(block, x)
        found = x.mean(axis=(1, 2))
        return found, self.arrays["fc.weight"] @ found + self.arrays["fc.bias"]


@pytest.fixture(scope="module")
def slow(weights) -> Slow:
    return Slow(weights)


def test_the_whole_network_is_numpys(variables, slow, monkeypatch):
    """On images of 91x107 features, logits and probabilities are those of loops over the published tables."""
    monkeypatch.setattr(inception, "prepare", lambda x: x)
    x = np.random.default_rng(1).uniform(-1, 1, (2, 91, 107, 3)).astype(np.float32)

    @jax.jit
    def both(variables, x):
        return inception.InceptionV3().apply(variables, x), inception.features_and_probs(variables, x)

    (found, logits), (same, probs) = both(variables, x)
    np.testing.assert_array_equal(found, same)
    for i in range(2):
        expected, expected_logits = slow(x[i].transpose(2, 0, 1))
        assert expected.std() > 0.1 and expected_logits.std() > 0.1  # Nothing has vanished.
        np.testing.assert_allclose(found[i], expected, atol=1e-4 * expected.std())
        np.testing.assert_allclose(logits[i], expected_logits, atol=1e-4 * expected_logits.std())
        expected_probs = scipy.special.softmax(expected_logits - slow.arrays["fc.bias"])
        np.testing.assert_allclose(probs[i], expected_probs, atol=1e-4 * expected_probs.max())


def test_the_number_of_parameters(variables):
    """23,834,568, what torchvision's has without its auxiliary classifier, and 2049 for each of 8 more classes."""
    assert sum(a.size for a in jax.tree.leaves(variables["params"])) == 23_834_568 + 8 * 2049
    assert len(CONVOLUTIONS) == 94


@pytest.mark.parametrize(("height", "width"), [(28, 28), (64, 40), (299, 299), (300, 512)])
def test_images_are_resized_linearly(height: int, width: int):
    """Pixel i of n comes from (i + ½) H/n − ½, between its two neighbours, and from the edge beyond it.

    The place is a number of up to H in float32, and so is the weight that follows from it.
    """
    image = np.random.default_rng(2).random((height, width))

    def along(x: np.ndarray, size: int) -> np.ndarray:
        place = np.clip((np.arange(299) + 0.5) * size / 299 - 0.5, 0, size - 1)
        low = np.minimum(place.astype(int), size - 2)
        part = (place - low)[:, None]
        return (1 - part) * x[low] + part * x[low + 1]

    expected = along(along(image, height).T, width).T
    found = np.asarray(inception.prepare(image[None, :, :, None].astype(np.float32)))
    assert found.shape == (1, 299, 299, 3)
    for channel in range(3):
        np.testing.assert_allclose(found[0, :, :, channel], 2 * expected - 1, atol=5e-7 * max(height, width))


def torch_network(arrays):
    """The network by PyTorch's own convolutions and pools, [B, 3, H, W] to [B, 2048] and [B, 1008]."""
    import torch
    from torch.nn import functional

    weights = {name: torch.from_numpy(np.asarray(a)) for name, a in arrays.items()}

    def conv(name, x):
        kernel = weights[f"{name}.conv.weight"]
        padding = 0 if name in VALID else (kernel.shape[2] // 2, kernel.shape[3] // 2)
        y = functional.conv2d(x, kernel, stride=VALID.get(name, 1), padding=padding)
        kinds = ("running_mean", "running_var", "weight", "bias")
        return functional.relu(functional.batch_norm(y, *(weights[f"{name}.bn.{k}"] for k in kinds), eps=0.001))

    def network(x):
        for name in STEM:
            x = conv(name, x)
            x = functional.max_pool2d(x, 3, 2) if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3") else x
        for block in BLOCKS:

            def run(*names, start=x, block=block):
                for name in names:
                    start = conv(f"{block}.{name}", start)
                return start

            mean = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            if block[6] == "5":
                parts = [
                    run("branch1x1"),
                    run("branch5x5_1", "branch5x5_2"),
                    run("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
                    run("branch_pool", start=mean),
                ]
            elif block == "Mixed_6a":
                double = run("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
                parts = [run("branch3x3"), double, functional.max_pool2d(x, 3, 2)]
            elif block[6] == "6":
                parts = [
                    run("branch1x1"),
                    run("branch7x7_1", "branch7x7_2", "branch7x7_3"),
                    run(*(f"branch7x7dbl_{i}" for i in range(1, 6))),
                    run("branch_pool", start=mean),
                ]
            elif block == "Mixed_7a":
                large = run(*(f"branch7x7x3_{i}" for i in range(1, 5)))
                parts = [run("branch3x3_1", "branch3x3_2"), large, functional.max_pool2d(x, 3, 2)]
            else:
                single, double = run("branch3x3_1"), run("branch3x3dbl_1", "branch3x3dbl_2")
                pooled = mean if block == "Mixed_7b" else functional.max_pool2d(x, 3, 1, 1)
                parts = [
                    run("branch1x1"),
                    run("branch3x3_2a", start=single),
                    run("branch3x3_2b", start=single),
                    run("branch3x3dbl_3a", start=double),
                    run("branch3x3dbl_3b", start=double),
                    run("branch_pool", start=pooled),
                ]
            x = torch.cat(parts, 1)
        found = x.mean((2, 3))
        return found, functional.linear(found, weights["fc.weight"], weights["fc.bias"])

    return network


def test_small_images_end_where_pytorchs_do(weights, tmp_path):
    """From images of 28x28 to features and probabilities, by way of a .pth file, it is PyTorch's network."""
    torch = pytest.importorskip("torch")
    file = tmp_path / "weights.pth"
    torch.save({name: torch.from_numpy(np.asarray(a)) for name, a in weights.items()}, file)
    images = np.random.default_rng(3).random((2, 28, 28, 3)).astype(np.float32)
    extractor = features.load(str(file), (28, 28, 3))
    found, probs = extractor.extract(images)
    with torch.no_grad():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        x = torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
        expected, logits = torch_network(weights)(2 * x - 1)
    expected_probs = torch.softmax(logits - torch.from_numpy(weights["fc.bias"]), 1).numpy()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4 * expected.numpy().std())
    np.testing.assert_allclose(probs, expected_probs, atol=1e-4 * expected_probs.max())
    assert extractor.name == "inception_2015"


def test_an_npz_has_the_same_weights(weights, variables, tmp_path):
    """The same arrays as .npz give the same variables."""
    np.savez(tmp_path / "weights.npz", **weights)
    jax.tree.map(np.testing.assert_array_equal, inception.load_fid_weights(tmp_path / "weights.npz"), variables)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("Mixed_6c.branch7x7_2.bn.running_var"), "no array Mixed_6c.branch7x7_2.bn.running_var"),
        (lambda w: w.update({"AuxLogits.fc.bias": np.ones(3)}), "array AuxLogits.fc.bias too many"),
        (lambda w: w.update({"fc.weight": np.ones((1000, 2048))}), r"fc.weight of the shape \(1000, 2048\)"),
        (lambda w: w.update({"Conv2d_1a_3x3.conv.weight": np.ones((3, 3, 3, 32))}), "Conv2d_1a_3x3.conv.weight of"),
        (lambda w: w.update({"fc.bias": np.full(1008, np.nan)}), "fc.bias with numbers that are not finite"),
        (lambda w: w.update({"fc.bias": np.full(1008, "text")}), "fc.bias of the type <U4"),
        (lambda w: w.update({"fc.bias": np.full(1008, 1j)}), "fc.bias of the type complex128"),
    ],
)
def test_other_weights_are_refused(weights, change, sentence: str):
    """What is absent, superfluous or of another shape is named."""
    changed = dict(weights)
    change(changed)
    with pytest.raises(UserError, match=sentence):
        inception.variables_of(changed, "here")


@pytest.mark.parametrize("name", ["absent.npz", "broken.npz", "text.npz", "one.npz"])
def test_unreadable_files_are_refused(tmp_path, name: str):
    """A file that is not there, cut short, or no archive is refused by one sentence."""
    np.savez(tmp_path / "broken.npz", a=np.ones(1000))
    whole = (tmp_path / "broken.npz").read_bytes()
    (tmp_path / "broken.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("not an archive")
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(UserError, match=name):
        inception.load_fid_weights(tmp_path / name)


def test_another_byte_in_an_array_is_no_traceback(tmp_path):
    """Whichever byte of a compressed array is flipped, the file is refused by one sentence."""
    file = tmp_path / "flipped.npz"
    np.savez_compressed(file, a=np.arange(20.0))
    whole = file.read_bytes()
    for place in range(whole.index(b"a.npy") + 25, whole.index(b"PK\x01\x02")):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        file.write_bytes(changed)
        with pytest.raises(UserError, match=r"flipped\.npz (cannot be read|has no array)"):
            inception.load_fid_weights(file)


def test_without_pytorch_the_sentence_says_how_to_convert(tmp_path, monkeypatch):
    """A .pth file needs PyTorch once, and the error has the line that makes an .npz of it."""
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(UserError, match=r"numpy\.savez"):
        inception.load_fid_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize(("version", "allowed"), [("1.13.1", 0), ("2.5.1+cu124", 0), ("2.6.0", 1), ("2.13.0+cpu", 1)])
def test_a_pytorch_that_executes_what_is_in_a_file_is_not_used(tmp_path, monkeypatch, version: str, allowed: int):
    """Before 2.6 `weights_only` does not protect: the file is not opened, and the error says how to convert it."""
    opened = []

    def load(file, **options):
        assert options["weights_only"] is True
        opened.append(file)
        return {}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__=version, load=load))
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(UserError, match="no array" if allowed else r"needs PyTorch 2\.6 or newer.*numpy\.savez"):
        inception.load_fid_weights(tmp_path / "weights.pth")
    assert len(opened) == allowed


def test_a_broken_file_of_pytorchs_is_refused(tmp_path):
    """What PyTorch cannot read is refused by one sentence."""
    pytest.importorskip("torch")
    (tmp_path / "weights.pth").write_bytes(b"not PyTorch's")
    with pytest.raises(UserError, match="cannot be read as PyTorch's"):
        inception.load_fid_weights(tmp_path / "weights.pth")
