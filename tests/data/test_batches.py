"""The batches against the definition of the stream, for any size of set, batch and number of processes."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_jax.contracts import Source, UserError
from gen_jax.data import ImageBatches, ImageSet, epoch_order

CASES = {
    "num_examples": st.integers(1, 40),
    "per_process": st.integers(1, 17),
    "process_count": st.integers(1, 4),
    "seed": st.integers(0, 2**64 - 1),
}


def make(
    num_examples: int,
    batch_size: int,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    evaluation: int = 4,
) -> ImageBatches:
    """Batches of images that differ from each other in every pixel."""
    images = np.arange(num_examples * 6).reshape(num_examples, 2, 3, 1).astype(np.uint8)
    labels = np.arange(num_examples, dtype=np.int32) * 7
    image_set = ImageSet("a", "train", images, labels, "here", "abc")
    return ImageBatches.of(
        image_set,
        batch_size=batch_size,
        evaluation_batch_size=evaluation * process_count,
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


@given(**CASES)
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_a_permutation(num_examples: int, per_process: int, process_count: int, seed: int) -> None:
    batch_size = per_process * process_count
    sources = [make(num_examples, batch_size, seed, i, process_count) for i in range(process_count)]
    steps = -(-3 * num_examples // batch_size)
    parts = [source.batch(step)["row"] for step in range(steps) for source in sources]
    stream = np.concatenate(parts)[: 3 * num_examples].reshape(3, num_examples)
    for epoch in stream:
        assert sorted(epoch) == list(range(num_examples))


@given(**CASES)
@settings(max_examples=60, deadline=None)
def test_a_batch_is_what_the_definition_says(
    num_examples: int, per_process: int, process_count: int, seed: int
) -> None:
    batch_size = per_process * process_count
    for step in (0, 1, 7):
        numbers = range(step * batch_size, (step + 1) * batch_size)
        rows = [int(epoch_order(num_examples, seed, p // num_examples)[p % num_examples]) for p in numbers]
        source = make(num_examples, batch_size, seed)
        expected = {
            "image": np.stack([source.images[row] for row in rows]),
            "label": np.array([7 * row for row in rows], np.int32),
            "row": np.array(rows, np.int32),
            "index": np.array(numbers, np.uint32),
        }
        parts = [make(num_examples, batch_size, seed, i, process_count).batch(step) for i in range(process_count)]
        assert_same(source.batch(step), expected)
        assert_same({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, expected)


@given(count=st.integers(1, 5), step=st.integers(0, 30), **CASES)
@settings(max_examples=60, deadline=None)
def test_several_batches_are_the_single_ones_stacked(
    count: int, step: int, num_examples: int, per_process: int, process_count: int, seed: int
) -> None:
    source = make(num_examples, per_process * process_count, seed, process_count - 1, process_count)
    single = [source.batch(step + i) for i in range(count)]
    assert_same(source.batches(step, count), {name: np.stack([b[name] for b in single]) for name in single[0]})


def test_a_batch_depends_on_the_step_alone() -> None:
    used = make(23, 5, seed=3)
    for step in (9, 2, 14):
        used.batch(step)
    epoch_order.cache_clear()
    assert_same(used.batch(4), make(23, 5, seed=3).batch(4))


def test_what_a_consumer_writes_stays_in_its_batch() -> None:
    source = make(6, 6)
    before = source.batch(0)
    first = {name: value.copy() for name, value in before.items()}
    for value in before.values():
        value[...] = 0
    assert_same(source.batch(0), first)
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(6, 0, 0)[0] = 1


def test_orders_differ_between_epochs_and_seeds_and_are_uniform() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    # All 24 orders of four come up equally often: 4800 draws, 200 each, standard deviation 13.8.
    counts = Counter(tuple(epoch_order(4, 0, epoch)) for epoch in range(4800))
    assert len(counts) == 24
    assert max(abs(count - 200) for count in counts.values()) < 70
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 60  # Chi-squared, 23 degrees of freedom.


def test_the_order_comes_from_raw_philox_bits() -> None:
    # The first outputs of Philox 4x64-10 with key (1, 2), by an independent implementation of the paper's rounds.
    keys, counter, raw = [1, 2], [1, 0, 0, 0], []
    mask = 2**64 - 1
    for block in range(2):
        x, k = [counter[0] + block, 0, 0, 0], list(keys)
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(b >> 64) ^ x[1] ^ k[0], b & mask, (a >> 64) ^ x[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        raw += x
    assert epoch_order(8, 1, 2).tolist() == sorted(range(8), key=raw.__getitem__)


def test_index_wraps_at_32_bits() -> None:
    source = make(7, 4)
    index = source.batch(2**30)["index"]
    assert index.tolist() == [0, 1, 2, 3]
    assert source.batch(2**30 - 1)["index"].tolist() == [2**32 - 4, 2**32 - 3, 2**32 - 2, 2**32 - 1]
    assert source.batch(2**40)["row"].shape == (4,)


@given(num_examples=st.integers(1, 40), evaluation=st.integers(1, 17), process_count=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_evaluation_has_every_example_once_in_order(num_examples: int, evaluation: int, process_count: int) -> None:
    sources = [make(num_examples, 4 * process_count, 0, i, process_count, evaluation) for i in range(process_count)]
    rounds = list(zip(*(source.evaluation() for source in sources), strict=True))
    assert len(rounds) == -(-num_examples // (evaluation * process_count))
    batches = [part for parts in rounds for part in parts]
    assert {len(value) for part in batches for value in part.values()} == {evaluation}
    whole = {name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
    assert whole["mask"].dtype == np.float32
    real = whole["mask"] == 1
    assert (whole["mask"][~real] == 0).all()
    for name in ("row", "index"):
        assert whole[name][real].tolist() == list(range(num_examples))
    np.testing.assert_array_equal(whole["image"][real], sources[0].images)
    np.testing.assert_array_equal(whole["label"][real], sources[0].labels)
    assert (whole["row"][~real] == num_examples - 1).all()
    assert (whole["image"][~real] == sources[0].images[-1]).all()


def test_evaluation_can_be_repeated() -> None:
    source = make(10, 4)
    for first, second in zip(source.evaluation(), source.evaluation(), strict=True):
        assert_same(first, second)


def test_it_is_a_source() -> None:
    source: Source = make(10, 4)
    assert (source.num_examples, source.example_shape) == (10, (2, 3, 1))
    assert (source.fingerprint, source.origin) == ("abc", "here")
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.num_examples = 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 6}, "batch_size=6 cannot be shared by 4"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"evaluation_batch_size": 10}, "evaluation_batch_size=10 cannot be shared by 4"),
        ({"process_index": 4}, "no process 4 among 4"),
        ({"process_index": -1}, "no process -1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**64}, "out of range"),
        ({"labels": np.zeros(3, np.int32)}, "4 images but 3 labels"),
        ({"images": np.zeros((0, 2, 2, 1), np.uint8), "labels": np.zeros(0, np.int32)}, "0 images"),
    ],
)
def test_refuses(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataclasses.replace(make(4, 8, process_count=4), **change)
