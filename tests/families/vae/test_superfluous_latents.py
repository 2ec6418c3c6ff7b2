"""The paper's claim on a real data set, shortened; the README has the figures of the whole runs."""

from __future__ import annotations

import pathlib

import pytest

from experiments import vae
from gen_jax.train import loop

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.slow
@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_superfluous_latents_do_not_overfit(tmp_path):
    """AEVB, Section 5: 200 codes give a test bound no worse than 20, and no gap to the training bound opens."""
    results = {}
    for latent_dim in (20, 200):
        config = vae.get_config("full")
        config.model.latent_dim, config.train.duration = latent_dim, "15 epochs"
        config.parallel.backend = "jit"
        outcome = loop.train(vae.build(config), config, tmp_path / str(latent_dim), show_progress=False)
        results[latent_dim] = outcome.results["elbo_nats"]
    assert results[200] > results[20] - 1.0, results
