"""Batches of rays: a function of (seed, step), each ray of the pixel that it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gen_jax.contracts import UserError
from gen_jax.data.rays import RayBatches, ray_sources
from gen_jax.data.scenes import make_scene, make_views

HEIGHT, WIDTH = 5, 7


def views(count: int, first: int = 0):
    """Views in which the colour of a pixel says which it is, and the camera which view it is of."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    images = [np.stack([x, y, np.full_like(x, first + i)], axis=-1).astype(np.uint8) for i in range(count)]
    poses = np.tile(np.eye(3, 4), (count, 1, 1))
    poses[:, 0, 3] = first + np.arange(count)
    focal = np.arange(first + 1, first + count + 1)[:, None] * np.ones(2)
    names = [str(i) for i in range(count)]
    return make_views(images, poses, focal, focal + 0.5, np.zeros((count, 4)), names, "here")


def sources(**options) -> tuple[RayBatches, RayBatches]:
    scene = make_scene(views(4), views(3, 10), views(3, 10), near=1.0, far=2.0, origin="here")
    return ray_sources(scene, **({"batch_size": 12, "evaluation_batch_size": 2, "seed": 3} | options))


def test_each_ray_is_of_the_pixel_whose_colour_it_has():
    train, _ = sources(batch_size=200)
    batch = train.batch(5)
    x, y, view = batch["color"].astype(int).T
    np.testing.assert_array_equal(batch["pixel"], np.stack([x, y], axis=1) + 0.5)
    np.testing.assert_array_equal(batch["pose"][:, 0, 3], view)
    np.testing.assert_array_equal(batch["focal"], (view + 1)[:, None] * np.ones(2))
    np.testing.assert_array_equal(batch["center"], (view + 1)[:, None] + [0.5, 0.5])
    np.testing.assert_array_equal(batch["row"], (view * HEIGHT + y) * WIDTH + x)
    np.testing.assert_array_equal(batch["index"], 5 * 200 + np.arange(200))
    assert set(view) == {0, 1, 2, 3} and len(set(x)) == WIDTH and len(set(y)) == HEIGHT


def test_a_batch_is_a_function_of_the_seed_and_the_step():
    train, other = sources()[0], sources(seed=4)[0]
    assert np.array_equal(train.batch(7)["row"], sources()[0].batch(7)["row"])
    assert not np.array_equal(train.batch(7)["row"], train.batch(8)["row"])
    assert not np.array_equal(train.batch(7)["row"], other.batch(7)["row"])
    several = train.batches(7, 3)
    for name, array in several.items():
        np.testing.assert_array_equal(array, np.stack([train.batch(7 + i)[name] for i in range(3)]))


def test_every_pixel_is_as_likely():
    train, _ = sources(batch_size=14_000)
    counts = np.bincount(train.batch(0)["row"], minlength=4 * HEIGHT * WIDTH)
    chi2 = np.sum((counts - 100.0) ** 2) / 100.0
    assert 90 < chi2 < 200  # 139 degrees of freedom: a mean of 139 and a standard deviation of 17.


def test_with_one_view_all_rays_of_a_step_are_of_it():
    train, _ = sources(one_view=True)
    seen = [set(train.batch(step)["color"][:, 2].tolist()) for step in range(40)]
    assert all(len(one) == 1 for one in seen) and set.union(*seen) == {0, 1, 2, 3}


def test_processes_share_the_batches():
    whole, test = sources()
    parts = [sources(process_index=i, process_count=2) for i in range(2)]
    for name, array in whole.batch(2).items():
        np.testing.assert_array_equal(array, np.concatenate([part[0].batch(2)[name] for part in parts]))
    for batch, *shares in zip(test.evaluation(), *(part[1].evaluation() for part in parts), strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, np.concatenate([share[name] for share in shares]))
    np.testing.assert_array_equal(parts[1][0].whole().batch(2)["row"], whole.batch(2)["row"])


def test_the_evaluation_shows_every_view_once_on_a_grid_of_pixels():
    _, test = sources(stride=2)
    batches = list(test.evaluation())
    assert [batch["mask"].tolist() for batch in batches] == [[1, 1], [1, 0]]
    for batch in batches:
        assert batch["color"].shape == (2, 3 * 4, 3) and batch["pixel"].shape == (2, 12, 2)
        np.testing.assert_array_equal(batch["pixel"], batch["color"][..., :2] + 0.5)
        np.testing.assert_array_equal(batch["color"][:, 0, 2], 10 + batch["row"])
        np.testing.assert_array_equal(batch["pose"][:, 0, 3], 10 + batch["row"])
        assert set(batch["color"][0, :, 0].tolist()) == {0, 2, 4, 6} and set(batch["color"][0, :, 1]) == {0, 2, 4}


def test_bad_numbers_are_refused_by_a_sentence():
    with pytest.raises(UserError, match=r"batch_size=13 cannot be shared by 2 process"):
        sources(batch_size=13, process_count=2)
    with pytest.raises(UserError, match=r"no process 2 among 2"):
        sources(process_index=2, process_count=2)
    with pytest.raises(UserError, match=r"seed -1 is out of range"):
        sources(seed=-1)
    with pytest.raises(UserError, match=r"stride=0; every so many-th pixel"):
        sources(stride=0)


def test_notes_go_with_the_source():
    train, _ = sources(notes={"near": 1.0})
    assert dict(train.notes) == {"near": 1.0}
    assert dataclasses.replace(train, batch_size=3).notes == train.notes
