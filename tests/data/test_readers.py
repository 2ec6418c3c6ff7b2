"""The file readers against bytes written by hand, and against every way of breaking them."""

from __future__ import annotations

import bz2
import gzip
import io
import pathlib
import struct
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from gen_jax.contracts import UserError
from gen_jax.data.readers import read_cifar10, read_folder, read_idx, read_npz

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}
SMALL_IDX = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 10, 11, 12, 13, 14, 15])


def fails(function: Callable[[], object]) -> str:
    """The sentence with which `function` refuses."""
    with pytest.raises(UserError) as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize("ending", COMPRESS)
def test_idx_bytes_written_by_hand(tmp_path: pathlib.Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    path.write_bytes(COMPRESS[ending](SMALL_IDX))
    np.testing.assert_array_equal(read_idx(path), np.array([[10, 11, 12], [13, 14, 15]]))


@pytest.mark.parametrize("code", IDX_TYPES)
def test_idx_has_every_type_big_endian(tmp_path: pathlib.Path, code: int) -> None:
    values = [0, 1, 2, 100, 127, 3] if code in (8, 9) else [0, -1, 258, 32767, -32768, 3]
    letter = {0x08: "B", 0x09: "b", 0x0B: "h", 0x0C: "i", 0x0D: "f", 0x0E: "d"}[code]
    path = tmp_path / "x"
    path.write_bytes(struct.pack(f">4B3I6{letter}", 0, 0, code, 3, 1, 2, 3, *values))
    array = read_idx(path)
    assert array.dtype == np.dtype(IDX_TYPES[code])
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, np.reshape(values, (1, 2, 3)))


@pytest.mark.parametrize("ending", COMPRESS)
def test_idx_refuses_every_truncation(tmp_path: pathlib.Path, ending: str) -> None:
    whole = COMPRESS[ending](SMALL_IDX)
    path = tmp_path / f"x{ending}"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert str(path) in fails(lambda: read_idx(path)), length


def test_idx_refuses_a_truncation_within_the_compressed_data(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    for length in range(len(SMALL_IDX)):
        for ending in (".gz", ".bz2"):
            compressed = path.with_suffix(ending)
            compressed.write_bytes(COMPRESS[ending](SMALL_IDX[:length]))
            assert str(compressed) in fails(lambda compressed=compressed: read_idx(compressed))


@pytest.mark.parametrize("ending", [".gz", ".bz2"])
def test_idx_flipped_bytes_never_pass_for_other_data(tmp_path: pathlib.Path, ending: str) -> None:
    whole = COMPRESS[ending](SMALL_IDX)
    path = tmp_path / f"x{ending}"
    refused = 0
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        path.write_bytes(broken)
        try:  # A few bytes of a header, such as the time in gzip's, mean nothing.
            array = read_idx(path)
        except UserError:
            refused += 1
        else:
            np.testing.assert_array_equal(array, np.arange(10, 16).reshape(2, 3))
    assert refused > len(whole) // 2


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (SMALL_IDX + b"\0", "after its end"),
        (b"\1" + SMALL_IDX[1:], "not an IDX file"),
        (SMALL_IDX[:2] + b"\x0a" + SMALL_IDX[3:], "not an IDX file"),
        (SMALL_IDX[:3] + b"\0", "not an IDX file"),
        (bytes([0, 0, 8, 100]) + bytes([0, 0, 0, 1]) * 100 + b"x", "not an IDX file"),
        (bytes([0, 0, 8, 2]) + b"\xff" * 8 + b"x", "truncated"),
        (bytes([0, 0, 8, 4]) + b"\xff" * 12 + b"\0" * 4, "nothing"),
        (b"<!DOCTYPE html>", "not an IDX file"),
    ],
)
def test_idx_refuses(tmp_path: pathlib.Path, raw: bytes, words: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw)
    assert words in fails(lambda: read_idx(path))


def test_absent_file_and_folder_in_place_of_a_file(tmp_path: pathlib.Path) -> None:
    assert "There is no file" in fails(lambda: read_idx(tmp_path / "absent"))
    assert "cannot be read" in fails(lambda: read_idx(tmp_path))
    assert "cannot be read" in fails(lambda: read_folder(tmp_path / "absent"))


def test_cifar10_layout_written_by_hand(tmp_path: pathlib.Path) -> None:
    # Record 0: label 3, one red pixel at (row 0, column 1), one green at (1, 0), one blue at (31, 31).
    planes = [bytearray(1024) for _ in range(3)]
    planes[0][1], planes[1][32], planes[2][1023] = 200, 100, 50
    first, second = tmp_path / "data_batch_1.bin", tmp_path / "data_batch_2.bin"
    first.write_bytes(bytes([3]) + b"".join(planes))
    second.write_bytes((bytes([9]) + bytes([7]) * 3072) * 2)
    images, labels = read_cifar10([first, second])
    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert labels.tolist() == [3, 9, 9]
    expected = np.zeros((32, 32, 3), np.uint8)
    expected[0, 1, 0], expected[1, 0, 1], expected[31, 31, 2] = 200, 100, 50
    np.testing.assert_array_equal(images[0], expected)
    assert (images[1:] == 7).all()


@pytest.mark.parametrize("raw", [b"", b"\0" * 3072, b"\0" * 3074, b"\0" * 3073 + b"\x0a" + b"\0" * 3072])
def test_cifar10_refuses(tmp_path: pathlib.Path, raw: bytes) -> None:
    path = tmp_path / "test_batch.bin"
    path.write_bytes(raw)
    assert "test_batch.bin" in fails(lambda: read_cifar10([path]))


@pytest.mark.parametrize("keys", ["x_train y_train x_test y_test", "train_images train_labels test_images test_labels"])
def test_npz_names_of_keras_and_the_other_names(tmp_path: pathlib.Path, keys: str) -> None:
    arrays = [np.full((3, 4, 5), 1, np.uint8), np.arange(3), np.full((2, 4, 5), 2, np.uint8), np.array([[7], [8]])]
    path = tmp_path / "set.npz"
    np.savez(path, **dict(zip(keys.split(), arrays, strict=True)))
    images, labels = read_npz(path, "train")
    np.testing.assert_array_equal(images, arrays[0])
    assert labels is not None
    assert (labels.dtype, labels.tolist()) == (np.int32, [0, 1, 2])
    images, labels = read_npz(path, "test")
    np.testing.assert_array_equal(images, arrays[2])
    assert labels is not None
    assert labels.tolist() == [7, 8]


def test_npz_plain_names_only_where_the_file_is_the_split(tmp_path: pathlib.Path) -> None:
    for stem in ("train", "mnist"):
        np.savez(tmp_path / f"{stem}.npz", images=np.zeros((2, 4, 4), np.uint8))
    assert read_npz(tmp_path / "train.npz", "train")[1] is None
    for stem, split in (("train", "test"), ("mnist", "train")):
        assert "no images for the split" in fails(
            lambda stem=stem, split=split: read_npz(tmp_path / f"{stem}.npz", split)
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npz_floats_become_the_nearest_level(tmp_path: pathlib.Path, dtype: type) -> None:
    levels = np.arange(256).reshape(1, 16, 16)
    nudge = np.array([-0.3, 0.3])[levels % 2] / 255
    np.savez(tmp_path / "a.npz", x_train=np.clip(levels / 255 + nudge, 0, 1).astype(dtype))
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz", "train")[0], levels)


BAD = {
    "nan": (np.array([np.nan, 0.5, np.inf, 0]).reshape(1, 2, 2), "'x_train' in"),
    "count": (np.array([np.nan, 0.5, np.inf, -0.1]).reshape(1, 2, 2), "has 3 values of 4"),
    "above one": (np.full((1, 2, 2), 1.001), "4 values"),
    "bytes as floats": (np.full((1, 2, 2), 255.0), "4 values"),
    "integers": (np.zeros((1, 2, 2), np.int64), "int64"),
    "text": (np.full((1, 2, 2), "a"), "expected uint8"),
    "flat": (np.zeros((3, 784), np.uint8), "shape (3, 784)"),
    "four channels": (np.zeros((3, 8, 8, 4), np.uint8), "C = 1 or 3"),
    "no images": (np.zeros((0, 8, 8), np.uint8), "shape (0, 8, 8)"),
    "pickled": (np.full((1, 2, 2), None), "without pickled objects"),
}


@pytest.mark.parametrize("case", BAD)
def test_npz_refuses_images(tmp_path: pathlib.Path, case: str) -> None:
    array, words = BAD[case]
    np.savez(tmp_path / "a.npz", x_train=array)
    sentence = fails(lambda: read_npz(tmp_path / "a.npz", "train"))
    assert words in sentence
    assert "a.npz" in sentence


@pytest.mark.parametrize("labels", [np.arange(3), np.zeros(2), np.zeros((2, 2), int), np.array([0, 2**31])])
def test_npz_refuses_labels(tmp_path: pathlib.Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 4, 4), np.uint8), y_train=labels)
    assert "'y_train' in" in fails(lambda: read_npz(tmp_path / "a.npz", "train"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_broken_bytes_never_pass_for_other_data(tmp_path: pathlib.Path, save: Callable[..., None]) -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    path = tmp_path / "a.npz"
    save(path, x_train=images)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        fails(lambda: read_npz(path, "train"))
    refused = 0
    for position in range(len(whole)):
        for mask in (0xFF, 0x01):
            broken = bytearray(whole)
            broken[position] ^= mask
            path.write_bytes(broken)
            try:  # The time of a member and the like mean nothing.
                array, _ = read_npz(path, "train")
            except UserError:
                refused += 1
            else:
                np.testing.assert_array_equal(array, images)
    assert refused > len(whole)


def test_npz_refuses_what_is_no_archive_of_arrays(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 4, 4), np.uint8))
    fails(lambda: read_npz(path, "train"))
    inner = io.BytesIO()
    np.savez(inner, x_train=np.zeros((2, 4, 4), np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", inner.getvalue())
    fails(lambda: read_npz(path, "train"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.txt", "hello")
    assert "x_train.txt" in fails(lambda: read_npz(path, "train"))


def save(path: pathlib.Path, value: int, mode: str = "L", size: tuple[int, int] = (5, 3)) -> None:
    """Saves an image of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("1", "L", "P", "I;16") else (value,) * len(mode)).save(path)


def test_folder_flat(tmp_path: pathlib.Path) -> None:
    for name, value in (("b.png", 2), ("a.bmp", 1), ("c.PNG", 3)):
        save(tmp_path / name, value)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image")
    images, labels = read_folder(tmp_path)
    assert images.shape == (3, 3, 5, 1)
    assert images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert (labels.dtype, labels.tolist()) == (np.int32, [-1, -1, -1])


def test_folder_classes_are_numbered_by_name(tmp_path: pathlib.Path) -> None:
    for name, value in (("dog/1.png", 20), ("cat/2.png", 11), ("cat/1.png", 10), ("ant/x.png", 5)):
        save(tmp_path / name, value, "RGB")
    (tmp_path / "aaa_without_images").mkdir()
    images, labels = read_folder(tmp_path)
    assert images.shape == (4, 3, 5, 3)
    assert images[:, 2, 4, 1].tolist() == [5, 10, 11, 20]
    assert labels.tolist() == [0, 1, 1, 2]


def test_folder_first_frame_and_palette(tmp_path: pathlib.Path) -> None:
    frames = [Image.new("RGB", (5, 3), color) for color in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    images, _ = read_folder(tmp_path)
    assert images[0, 0, 0].tolist() == [250, 0, 0]


@pytest.mark.parametrize("ending", ["png", "bmp", "webp"])
def test_folder_lossless_formats_keep_every_pixel(tmp_path: pathlib.Path, ending: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(read_folder(tmp_path)[0][0], pixels)


@pytest.mark.parametrize(
    ("second", "words"),
    [({"size": (5, 4)}, "5x4 grey but a.png is 5x3 grey"), ({"mode": "RGB"}, "5x3 RGB but a.png is 5x3 grey")],
)
def test_folder_names_the_first_image_that_differs(tmp_path: pathlib.Path, second: dict, words: str) -> None:
    save(tmp_path / "a.png", 1)
    save(tmp_path / "b.png", 1)
    save(tmp_path / "c.png", 1, **second)
    save(tmp_path / "d.png", 1, **second)
    sentence = fails(lambda: read_folder(tmp_path))
    assert sentence.startswith(str(tmp_path / "c.png"))
    assert words in sentence


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_folder_refuses_modes(tmp_path: pathlib.Path, mode: str) -> None:
    save(tmp_path / "a.png", 1, mode)
    assert f"mode {mode}" in fails(lambda: read_folder(tmp_path))


def test_folder_refuses_transparency_by_colour(tmp_path: pathlib.Path) -> None:
    Image.new("RGB", (5, 3)).save(tmp_path / "a.png", transparency=(0, 0, 0))
    assert "with transparency" in fails(lambda: read_folder(tmp_path))


def test_folder_refuses_loose_images_beside_classes_and_emptiness(tmp_path: pathlib.Path) -> None:
    assert "has no images" in fails(lambda: read_folder(tmp_path))
    save(tmp_path / "a.png", 1)
    save(tmp_path / "cat/a.png", 1)
    assert "beside sub-folders" in fails(lambda: read_folder(tmp_path))


@pytest.mark.filterwarnings("ignore")  # Pillow also warns of some of what it then refuses.
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp"])
def test_folder_broken_images_are_named(tmp_path: pathlib.Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    save(path, 100, "RGB")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in fails(lambda: read_folder(tmp_path))
    for position in range(len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        path.write_bytes(broken)
        try:  # Most formats have no check sum; what matters is that nothing but a UserError comes out.
            read_folder(tmp_path)
        except UserError as error:
            assert str(path) in str(error) or "shape" in str(error)
