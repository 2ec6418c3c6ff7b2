"""Likeness of images against closed forms."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import ndimage

from gen_jax.eval.image_quality import psnr, ssim
from gen_jax.ops.image_quality import psnr as psnr_of_error


@pytest.mark.parametrize(("error", "decibels"), [(0.01, 20), (0.001, 30), (1e-4, 40)])
def test_psnr_of_known_errors(error, decibels):
    truth = np.random.default_rng(0).random((5, 7, 3))
    np.testing.assert_allclose(psnr(truth + np.sqrt(error), truth), decibels, rtol=1e-9)
    np.testing.assert_allclose(psnr_of_error(np.float32(error)), decibels, rtol=1e-6)
    assert psnr(truth, truth) == np.inf


def test_rounding_to_bytes_leaves_59_decibels():
    """An error that is uniform in ±½ of 1/255 has the variance 1/12 of it."""
    truth = np.random.default_rng(1).random((300, 300, 3))
    np.testing.assert_allclose(psnr(np.rint(255 * truth) / 255, truth), 58.92, atol=0.02)


def test_ssim():
    truth = np.random.default_rng(2).random((32, 24, 3))
    np.testing.assert_allclose(ssim(truth, truth), 1)
    # Two constants: only the term of the means is left, (2ab + C₁) / (a² + b² + C₁).
    a, b, c = 0.2, 0.6, 0.01**2
    flat = np.ones((32, 24, 3))
    np.testing.assert_allclose(ssim(a * flat, b * flat), (2 * a * b + c) / (a * a + b * b + c), rtol=1e-6)
    noise = np.random.default_rng(3).normal(0, 0.1, truth.shape)
    assert 1 > ssim(truth + noise, truth) > ssim(truth + 2 * noise, truth) > 0


def test_ssim_of_two_images():
    """By its definition: means, variances and covariance in a Gaussian window, where no window leaves the image."""
    truth, image = np.random.default_rng(4).random((2, 24, 20, 1))
    window = functools.partial(ndimage.gaussian_filter, sigma=1.5, truncate=5 / 1.5)
    x, y = truth[..., 0], image[..., 0]
    mean_x, mean_y = window(x), window(y)
    var_x, var_y, cov = window(x * x) - mean_x**2, window(y * y) - mean_y**2, window(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    of_pixels = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    np.testing.assert_allclose(ssim(image, truth), of_pixels[5:-5, 5:-5].mean(), rtol=1e-9)
