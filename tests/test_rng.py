"""The key derivation: root -> step -> named stream -> example."""

import jax
import numpy as np

from gen_jax import rng


def _bits(keys: jax.Array) -> np.ndarray:
    """Raw key words [n, 2] of an array of keys."""
    return np.asarray(jax.random.key_data(keys)).reshape(-1, 2)


def _distinct(keys: list[jax.Array]) -> int:
    return len({tuple(row) for key in keys for row in _bits(key)})


def test_root_is_a_typed_threefry_key_and_differs_by_seed():
    """Seeds over the whole of [0, 2^32) give different keys of the platform-independent generator."""
    seeds = [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1]
    keys = [rng.root(seed) for seed in seeds]
    assert all(jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) for key in keys)
    assert all(str(jax.random.key_impl(key)) == "threefry2x32" for key in keys)
    assert _distinct(keys) == len(seeds)


def test_same_path_gives_same_key_in_and_out_of_jit():
    """A key is a function of its path alone: made twice, in another order, or with a traced step, it is the same."""

    def path(step: jax.Array | int) -> jax.Array:
        key = rng.at_step(rng.root(3), step)
        return rng.per_example(rng.stream(key, "posterior"), np.arange(5))

    first = _bits(path(17))
    rng.stream(rng.at_step(rng.root(3), 17), "another")  # Asking for another stream in between changes nothing.
    np.testing.assert_array_equal(first, _bits(path(17)))
    np.testing.assert_array_equal(first, _bits(jax.jit(path)(17)))


def test_streams_differ_by_name_and_by_step():
    """No two of 400 names at 2 steps share a key, and none shares one with the steps' own keys."""
    names = [f"{word}/{number}" for word in ("posterior", "Dropout_0", "sample", "x") for number in range(100)]
    steps = [rng.at_step(rng.root(0), step) for step in range(2)]
    keys = [rng.stream(key, name) for key in steps for name in names]
    assert _distinct(keys + steps + [rng.root(0)]) == 2 * len(names) + 2 + 1


def test_steps_do_not_collide_with_streams_of_the_root():
    """A million steps of a run have no key in common with the root's named streams."""
    names = ["init", "sample", "pictures", "likelihood", "eval", "data", "prior", "posterior", "dropout", "observe"]
    streams = {tuple(_bits(rng.stream(rng.root(0), name))[0]) for name in names}
    steps = jax.vmap(rng.at_step, in_axes=(None, 0))(rng.root(0), np.arange(1_000_000, dtype=np.int32))
    words = _bits(steps).astype(np.uint64)
    joined = words[:, 0] << np.uint64(32) | words[:, 1]
    assert np.unique(joined).size == joined.size
    assert not streams & {tuple(row) for row in words[np.isin(words[:, 0], [s[0] for s in streams])].tolist()}


def test_per_example_is_independent_of_the_batch_split():
    """Example i has the same key in a batch of 12, in its half, in any order, and alone."""
    key = rng.stream(rng.root(1), "dropout")
    index = np.arange(40, 52, dtype=np.uint32)
    whole = _bits(rng.per_example(key, index))
    halves = np.concatenate([_bits(rng.per_example(key, half)) for half in np.split(index, 2)])
    np.testing.assert_array_equal(whole, halves)
    np.testing.assert_array_equal(whole[::-1], _bits(rng.per_example(key, index[::-1])))
    np.testing.assert_array_equal(whole[3:4], _bits(rng.per_example(key, index[3:4])))
    assert len(np.unique(whole, axis=0)) == len(index)


def test_per_example_takes_the_largest_index():
    """Indices near 2^32, where the global example counter of a long run ends, still give different keys."""
    index = np.array([0, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    assert _distinct([rng.per_example(rng.root(0), index)]) == len(index)


def test_numbered_keys_are_those_of_the_examples_from_0_on():
    """However many are asked for, key i is that of example i of the stream."""
    key = rng.root(3)
    few, many = _bits(rng.numbered(key, "walk", 4)), _bits(rng.numbered(key, "walk", 9))
    np.testing.assert_array_equal(few, many[:4])
    np.testing.assert_array_equal(many[[6]], _bits(rng.per_example(rng.stream(key, "walk"), np.array([6]))))


def test_streams_are_unrelated():
    """Normal numbers of two streams, two steps or two examples are uncorrelated (4 standard errors of n = 20000)."""
    count = 20_000
    root = rng.root(5)
    examples = rng.per_example(rng.stream(root, "z"), np.arange(2))
    keys = [rng.stream(root, "a"), rng.stream(root, "b"), rng.at_step(root, 1), examples[0], examples[1]]
    draws = np.stack([np.asarray(jax.random.normal(key, (count,))) for key in keys])
    correlation = np.corrcoef(draws) - np.eye(len(keys))
    assert np.abs(correlation).max() < 4 / np.sqrt(count)
