"""What the experiments on diffusion of images share: samples and pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import _diffusion, _guidance
from gen_jax import rng
from gen_jax.contracts import Array, Grid, Key, Params, Picture, Source, Terms
from gen_jax.families import diffusion as family
from gen_jax.families.diffusion import evaluation, objectives, pictures
from gen_jax.families.diffusion.objectives import Diffusion
from gen_jax.train.state import TrainState


def sample(
    state: TrainState,
    keys: Key,
    *,
    config: ConfigDict,
    diffusion: Diffusion,
    shape: tuple[int, ...],
    guided: _guidance.Guided,
) -> Array:
    """Draws images by the config's sampler, image i from key i alone.

    Args:
      state: of the run.
      keys: [B].
      config: the resolved config.
      diffusion: the model.
      shape: of an image (H, W, C).
      guided: how it is guided.

    Returns:
      [B, H, W, C] in [0, 1].
    """
    sampler = _diffusion.make_sampler(config, diffusion, *guided(diffusion, state.eval_params, keys))
    return family.sample(sampler, keys, shape, finish=family.to_unit)


def samples_of(state: TrainState, name: str, count: int, *, sample: Callable[..., Array]) -> np.ndarray:
    """[count, H, W, C] samples of a run by keys of its own, for what a name says."""
    return np.asarray(sample(state, rng.numbered(state.key, name, count)))


def chain_of(
    state: TrainState,
    keys: Key,
    *,
    config: ConfigDict,
    diffusion: Diffusion,
    shape: tuple[int, ...],
    guided: _guidance.Guided,
) -> tuple[Array, Array]:
    """How samples come out of the noise.

    Args:
      state: of the run.
      keys: [B].
      config: the resolved config.
      diffusion: the model.
      shape: of an example.
      guided: how it is guided.

    Returns:
      x after each step and the x_0 believed in at it, [S, B, ...] each.
    """
    sampler = _diffusion.make_sampler(config, diffusion, *guided(diffusion, state.eval_params, keys))
    kept = family.run(sampler, family.start_noise(keys, shape), keys, intermediates=True)[1]
    assert kept is not None
    return kept


def fill_in(
    params: Params, keys: Key, known: Array, mask: Array, label: Array, *, config: ConfigDict, diffusion: Diffusion
) -> Array:
    """What the model puts where an image is missing: a worked example of conditioning without training for it.

    Args:
      params: of the network.
      keys: [B].
      known: [B, H, W, C] in [−1, 1].
      mask: [H, W, 1], 1 where an image is known.
      label: [B] int of the images, read by a model with labels.
      config: the resolved config.
      diffusion: the model.

    Returns:
      [B, H, W, C] in [−1, 1].
    """
    whole = diffusion.process
    few = family.space(whole, family.spaced_steps(whole, min(whole.num_steps, 50), "even"))
    options: dict[str, Any] = {"prediction": diffusion.prediction, "variance": diffusion.variance}
    clip = family.clip_to_unit if config.sampler.clip else None
    predict = objectives.predictor(params, label, diffusion=diffusion)
    sampler = family.ddim(few, predict, eta=1.0, constrain=clip, **options)
    filled = family.inpaint(few, sampler, known, jnp.broadcast_to(mask, known.shape), num_resamples=2)
    return family.sample(filled, keys, known.shape[1:])


def by_scale(
    params: Params, keys: Key, label: Array, scale: float, *, config: ConfigDict, diffusion: Diffusion, shape: Any
) -> Array:
    """Samples of some classes under classifier-free guidance of some scale.

    Args:
      params: of the network.
      keys: [B].
      label: [B] int.
      scale: s; 0 is without the label, 1 with it and without guidance.
      config: the resolved config.
      diffusion: the model, with labels.
      shape: of an image (H, W, C).

    Returns:
      [B, H, W, C] in [−1, 1].
    """
    predict = _guidance.guided_by_itself(diffusion, params, label, scale)
    return family.sample(_diffusion.make_sampler(config, diffusion, predict), keys, shape)


def compiled_draw(
    *,
    sample: Callable[..., Array],
    test_source: Source,
    config: ConfigDict,
    diffusion: Diffusion,
    shape: tuple[int, ...],
    guided: _guidance.Guided,
) -> Callable[[TrainState], dict[str, Picture]]:
    """`draw` with functions that are compiled when they are first called.

    Args:
      sample: `(state, keys) -> images`, compiled.
      test_source: of the test images.
      config: the resolved config.
      diffusion: the model.
      shape: of an image (H, W, C).
      guided: how it is guided.

    Returns:
      `state -> pictures`.
    """
    model: dict[str, Any] = {"config": config, "diffusion": diffusion}
    steps = pictures.curve_steps(diffusion.process.num_steps)
    return functools.partial(
        draw,
        sample=sample,
        chain=jax.jit(functools.partial(chain_of, shape=shape, guided=guided, **model)),
        terms=jax.jit(functools.partial(evaluation.image_terms, diffusion=diffusion, steps=steps)),
        fill=jax.jit(functools.partial(fill_in, **model)),
        scaled=jax.jit(functools.partial(by_scale, shape=shape, **model), static_argnames="scale"),
        test_source=test_source,
        **model,
    )


def draw(
    state: TrainState,
    *,
    sample: Callable[..., Array],
    chain: Callable[..., tuple[Array, Array]],
    terms: Callable[..., Terms],
    fill: Callable[..., Array],
    scaled: Callable[..., Array],
    test_source: Source,
    config: ConfigDict,
    diffusion: Diffusion,
) -> dict[str, Picture]:
    """Draws what a person wants to see of a trained model.

    Args:
      state: of the run.
      sample: `(state, keys) -> images`, compiled.
      chain: `chain_of`, compiled.
      terms: `(params, key, batch)` to the terms of the bound at `pictures.curve_steps`, compiled.
      fill: `fill_in` of `(params, keys, known, mask, label)`, compiled.
      scaled: `by_scale` of `(params, keys, label, scale)`, compiled.
      test_source: of the test images.
      config: the resolved config.
      diffusion: the model.

    Returns:
      `samples`, `chain`, `x0_predictions`, `denoising`, `loss_by_step`, `bits_by_step` and `inpainting`;
      `guidance` of a model that was trained with labels and without.
    """
    process = diffusion.process
    found: dict[str, Picture] = {"samples": pictures.sample_grid(samples_of(state, "pictures", 100, sample=sample), 10)}
    xs, x0s = chain(state, rng.numbered(state.key, "pictures", 9))
    steps = _diffusion.kept_steps(config, process)
    found |= pictures.image_chain(np.asarray(xs), np.asarray(x0s), process.timesteps[steps][::-1])
    batch = next(iter(test_source.whole().evaluation()))
    few = {key: np.asarray(value[:32]) for key, value in batch.items()}
    steps = pictures.curve_steps(process.num_steps)
    found |= pictures.loss_curves(steps, terms(state.eval_params, state.key, few), process.num_steps)
    found["inpainting"] = inpainting(state, few["image"][:8], few["label"][:8], fill)
    if diffusion.num_classes and config.objective.label_dropout:
        found["guidance"] = guidance(state, min(diffusion.num_classes, 10), scaled)
    return found


def guidance(state: TrainState, num_classes: int, scaled: Callable[..., Array]) -> Grid:
    """A class in each column from one noise, guided ever more strongly from row to row.

    Args:
      state: of the run.
      num_classes: how many classes are shown.
      scaled: as in `draw`.

    Returns:
      The picture.
    """
    scales = (0.0, 1.0, 2.0, 4.0)
    keys, label = rng.numbered(state.key, "guidance", num_classes), jnp.arange(num_classes)
    images = np.stack([np.asarray(scaled(state.eval_params, keys, label, scale=scale)) for scale in scales])
    rows = ("no label", "label, s = 1", *(f"s = {scale:g}" for scale in scales[2:]))
    return Grid(
        "Classifier-free guidance, a class in each column from one noise",
        _unit(images),
        rows,
    )


def inpainting(state: TrainState, images: np.ndarray, label: np.ndarray, fill: Callable[..., Array]) -> Grid:
    """Test images, their upper halves, and three ways in which the model goes on from each.

    Args:
      state: of the run.
      images: [n, H, W, C] uint8.
      label: [n] int.
      fill: as in `draw`.

    Returns:
      The picture.
    """
    known = images.astype(np.float32) / 127.5 - 1
    mask = (np.arange(images.shape[1]) < images.shape[1] // 2).astype(np.float32)[:, None, None]
    shown = [known, known * mask - (1 - mask)]
    for i in range(3):
        keys = rng.numbered(state.key, f"inpainting_{i}", len(images))
        shown.append(np.asarray(fill(state.eval_params, keys, known, mask, label)))
    labels = ("image", "known", "filled in", "filled in", "filled in")
    return Grid(
        "Test images, what is known of them, and how the model goes on",
        _unit(np.stack(shown)),
        labels,
    )


def draw_frame(state: TrainState, *, sample: Callable[..., Array]) -> Grid:
    """The samples of the same 64 noises, to be seen change over training."""
    return pictures.sample_grid(samples_of(state, "frame", 64, sample=sample), 8, "Samples of the same noise")


def _unit(images: np.ndarray) -> np.ndarray:
    return np.asarray(family.to_unit(jnp.asarray(images)))
