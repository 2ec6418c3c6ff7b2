"""Points of a mixture against its formula, and their stream against its definition, for any batches and processes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gen_jax.contracts import Source, UserError
from gen_jax.data import Mixture, PointBatches, point_sources

RING = Mixture.ring(std=0.1)


def make(mixture: Mixture = RING, **changes) -> PointBatches:
    options = {"num_examples": 1000, "batch_size": 12, "evaluation_batch_size": 12, "seed": 0}
    return PointBatches(mixture, **(options | changes))


def draw(source: PointBatches, count: int) -> tuple[np.ndarray, np.ndarray]:
    batch = dataclasses.replace(source, batch_size=count).batch(0)
    return batch["point"].astype(np.float64), batch["label"]


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_the_ring_is_the_formula_and_its_modes_are_different():
    ring = Mixture.ring(8, radius=3.0, std=0.2)
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    np.testing.assert_allclose(ring.centres, 3 * np.stack([np.cos(angles), np.sin(angles)], 1), rtol=0, atol=1e-14)
    distances = np.linalg.norm(ring.centres[:, None] - ring.centres[None], axis=-1) + 10 * np.eye(8)
    assert distances.min() == pytest.approx(2 * 3 * math.sin(math.pi / 8))


def test_the_grid_is_the_product_of_its_ticks():
    grid = Mixture.grid(5, spacing=2.0, std=0.05)
    assert grid.centres.shape == (25, 2)
    expected = {(x, y) for x in (-4.0, -2.0, 0.0, 2.0, 4.0) for y in (-4.0, -2.0, 0.0, 2.0, 4.0)}
    assert {tuple(c) for c in grid.centres.tolist()} == expected
    assert grid.centres[1].tolist() == [-2.0, -4.0], "row by row from the lowest"


def test_the_log_density_is_that_of_scipys_gaussians():
    mixture = Mixture.ring(5, radius=1.0, std=0.7)
    x = np.random.default_rng(0).normal(size=(4, 3, 2))
    density = np.mean([stats.multivariate_normal(c, 0.49 * np.eye(2)).pdf(x) for c in mixture.centres], axis=0)
    np.testing.assert_allclose(mixture.log_density(x), np.log(density), rtol=1e-13)
    far = Mixture.ring(std=0.02).log_density(np.array([[100.0, 0.0]]))
    assert far[0] == pytest.approx(-(98**2) / (2 * 0.02**2) - math.log(8 * 2 * math.pi * 0.02**2), rel=1e-12)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("mixture", [RING, Mixture.grid()], ids=["ring", "grid"])
def test_the_modes_are_equally_likely_and_the_points_around_them_are_normal(mixture, held_out):
    count = 100_000
    points, labels = draw(make(mixture, held_out=held_out), count)
    assert stats.chisquare(np.bincount(labels, minlength=len(mixture.centres))).pvalue > 1e-3
    noise = (points - mixture.centres[labels]) / mixture.std
    for coordinate in noise.T:
        assert stats.kstest(coordinate, "norm").pvalue > 1e-3
    error = 4 / math.sqrt(count)  # Four standard errors of a mean of products of normal numbers.
    np.testing.assert_allclose(np.cov(noise.T), np.eye(2), rtol=0, atol=1.5 * error)
    # Neighbours in the stream, and mode and noise, have nothing to do with each other.
    for one, other in (
        (noise[:-1, 0], noise[1:, 0]),
        (noise[:-1, 1], noise[1:, 0]),
        (labels - labels.mean(), noise[:, 0]),
        (labels[:-1] - labels.mean(), labels[1:] - labels.mean()),
    ):
        assert abs(np.corrcoef(one, other)[0, 1]) < error
    assert abs(np.corrcoef(noise[:, 0] ** 2, noise[:, 1] ** 2)[0, 1]) < error


def test_a_point_is_made_of_the_bits_at_its_number():
    source = make(seed=5)
    batch = source.batch(3)
    generator = np.random.Philox(key=np.array([5, 0], np.uint64))
    words = generator.advance(36).random_raw(12 * 4).reshape(12, 4).tolist()
    for j, (mode, first, second, _) in enumerate(words):
        centre = RING.centres[mode % 8]
        length = math.sqrt(-2 * math.log(((first >> 11) + 1) / 2**53))
        angle = 2 * math.pi * (second >> 11) / 2**53
        expected = centre + 0.1 * length * np.array([math.cos(angle), math.sin(angle)])
        np.testing.assert_allclose(batch["point"][j], expected, rtol=1e-6)
        assert (batch["label"][j], batch["row"][j], batch["index"][j]) == (mode % 8, 36 + j, 36 + j)


@given(
    per_process=st.integers(1, 9),
    process_count=st.integers(1, 4),
    seed=st.integers(0, 2**64 - 1),
    step=st.integers(0, 2**40),
    count=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_the_processes_together_have_the_whole_batch_and_batches_are_stacked_ones(
    per_process, process_count, seed, step, count
):
    size = per_process * process_count
    whole = make(batch_size=size, evaluation_batch_size=size, seed=seed)
    parts = [dataclasses.replace(whole, process_index=i, process_count=process_count) for i in range(process_count)]
    joined = [p.batch(step) for p in parts]
    assert_same({k: np.concatenate([j[k] for j in joined]) for k in joined[0]}, whole.batch(step))
    stacked = [parts[-1].batch(step + i) for i in range(count)]
    assert_same({k: np.stack([s[k] for s in stacked]) for k in stacked[0]}, parts[-1].batches(step, count))
    assert_same(parts[-1].whole().batch(step), whole.batch(step))


def test_the_stream_does_not_depend_on_the_batches_it_is_dealt_in_or_on_the_epoch():
    small, large = make(batch_size=6, num_examples=10), make(batch_size=18, num_examples=7)
    joined = [small.batch(step) for step in range(6)]
    assert_same(
        {k: np.concatenate([j[k] for j in joined]) for k in joined[0]},
        {k: np.concatenate([large.batch(0)[k], large.batch(1)[k]]) for k in joined[0]},
    )
    points, _ = draw(small, 5000)
    assert len(np.unique(points, axis=0)) == 5000, "no epoch repeats another"


def test_types_and_shapes_are_as_the_contract_says():
    batch = make().batch(2)
    kinds = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    assert kinds == {
        "point": ((12, 2), "float32"),
        "label": ((12,), "int32"),
        "row": ((12,), "int32"),
        "index": ((12,), "uint32"),
    }
    late = make(batch_size=2**20).batch(2**13 - 1)
    assert late["index"][-1] == 2**32 - 1 and late["row"].min() >= 0, "the point's number is 2^33 - 1"
    source: Source = make()
    assert source.example_shape == (2,)


def test_other_seeds_and_the_held_out_points_are_others_but_those_are_the_same_for_all_seeds():
    options = {"num_examples": 100, "num_test": 60, "batch_size": 20, "evaluation_batch_size": 20}
    (train, test), (other_train, other_test) = (point_sources(RING, seed=seed, **options) for seed in (0, 1))
    for a, b in ((train, other_train), (train, test), (other_train, test), (make(seed=2**63), train)):
        assert not np.intersect1d(draw(a, 500)[0], draw(b, 500)[0]).size
    assert_same(draw_evaluation(test), draw_evaluation(other_test))
    assert (train.num_examples, test.num_examples) == (100, 60)
    assert train.example_shape == test.example_shape == (2,)


def draw_evaluation(source: PointBatches) -> dict[str, np.ndarray]:
    batches = list(source.evaluation())
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("count", [1, 12, 29, 36])
def test_evaluation_has_every_point_once_and_says_what_is_padding(count, processes):
    source = make(num_examples=count, held_out=True)
    parts = [dataclasses.replace(source, process_index=i, process_count=processes) for i in range(processes)]
    rounds = list(zip(*(p.evaluation() for p in parts), strict=True))
    whole = {k: np.concatenate([batch[k] for batches in rounds for batch in batches]) for k in rounds[0][0]}
    assert_same(whole, draw_evaluation(source))
    real = whole["mask"] > 0
    assert whole["mask"].dtype == np.float32 and len(real) == -(-count // 12) * 12
    assert whole["row"][real].tolist() == list(range(count))
    assert (whole["row"][~real] == count - 1).all()
    np.testing.assert_array_equal(whole["point"][real], draw(source, count)[0].astype(np.float32))


def test_the_fingerprint_is_that_of_the_distribution():
    same = make(Mixture("another name", RING.centres * (1 + 1e-15), 0.1), seed=3, batch_size=24, held_out=True)
    assert make().fingerprint == same.fingerprint
    others = [Mixture.ring(std=0.2), Mixture.ring(radius=1.0, std=0.1), Mixture.ring(7, std=0.1), Mixture.grid()]
    assert len({make(mixture).fingerprint for mixture in [RING, *others]}) == 5
    assert make().origin == "8 Gaussians on a ring, standard deviation 0.1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"process_index": 2, "process_count": 2}, "no process 2 among 2"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"seed": 2**64}, "out of range"),
        ({"num_examples": 0}, "num_examples=0"),
        ({"batch_size": 13, "process_count": 2}, "batch_size=13 cannot be shared by 2"),
        ({"evaluation_batch_size": 0}, "evaluation_batch_size=0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, said):
    with pytest.raises(UserError, match=said):
        make(**change)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Mixture.ring(0), "num_modes=0"),
        (lambda: Mixture.grid(0), "side=0"),
        (lambda: Mixture.ring(std=0.0), "standard deviation 0.0"),
        (lambda: Mixture.ring(radius=math.nan), "all finite"),
        (lambda: Mixture("m", np.zeros((3, 3)), 1.0), "expected \\[K, 2\\]"),
    ],
)
def test_what_is_no_mixture_is_refused(build, said):
    with pytest.raises(UserError, match=said):
        build()
