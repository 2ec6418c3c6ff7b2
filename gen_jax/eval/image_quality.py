"""How alike two images look."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

SSIM_WINDOW = 11  # The side in pixels of the windows that `ssim` looks through.


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """The peak signal-to-noise ratio: −10 log₁₀ of the mean squared error.

    See "Mean Squared Error: Love It or Leave It?", Wang and Bovik, 2009 (IEEE Signal Processing Magazine 26), pages 98
    to 117.

    Args:
      image: [H, W, C] in [0, 1].
      truth: [H, W, C] in [0, 1].

    Returns:
      Decibels; ∞ for equal images.
    """
    error = float(np.mean((np.asarray(image, np.float64) - truth) ** 2))
    return -10.0 * float(np.log10(error)) if error else float("inf")


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """The structural similarity, with Gaussian windows of standard deviation 1.5 pixels, the mean over the channels.

    See "Image Quality Assessment: From Error Visibility to Structural Similarity", Wang et al., 2004 (IEEE
    Transactions on Image Processing 13), Section III.C.

    Args:
      image: [H, W, C] in [0, 1], each side 11 or more.
      truth: [H, W, C] in [0, 1].

    Returns:
      At most 1, which equal images have.
    """
    return float(
        structural_similarity(
            np.asarray(truth, np.float64),
            np.asarray(image, np.float64),
            data_range=1.0,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
