"""The classifier of noisy images, whose gradient guides a sampler."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import rng
from gen_jax.contracts import Array, Batch, Key, ModelState, Params, Terms, Values
from gen_jax.families.diffusion import timesteps
from gen_jax.families.diffusion.adm import EPSILON, Levels, torch_uniform
from gen_jax.families.diffusion.continuous import in_continuous_time, signal_and_noise
from gen_jax.families.diffusion.guidance import shift_epsilon
from gen_jax.families.diffusion.process import Process, diffuse, space, spaced_steps, told_time
from gen_jax.families.diffusion.samplers import ddim
from gen_jax.families.diffusion.sampling import sample
from gen_jax.nn.attention import attention
from gen_jax.nn.group_norm import GroupNorm
from gen_jax.nn.precision import apply_in_param_dtype
from gen_jax.ops import pixels
from gen_jax.ops.distributions import is_most_probable


class AttentionPool(nn.Module):
    """A linear map of what the mean of all positions attends to.

    The mean is one more position, before the others; all are told where they are by learned vectors.

    See "Learning Transferable Visual Models From Natural Language Supervision", Radford et al., 2021
    (arXiv:2103.00020), Section 2.4, from which ADM's classifier has it.

    Attributes:
      features: of the output.
      head_channels: of each head, which divide the input's.
    """

    features: int
    head_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, features]."""
        channels = x.shape[-1]
        h = x.reshape(x.shape[0], -1, channels)
        h = jnp.concatenate([jnp.mean(h, axis=1, keepdims=True), h], axis=1)
        places = self.param("places", nn.initializers.normal(channels**-0.5), h.shape[1:], jnp.float32)
        h = h + places.astype(h.dtype)[None]
        qkv = nn.Dense(3 * channels, kernel_init=torch_uniform, name="qkv")(h)
        qkv = qkv.reshape(*h.shape[:2], 3, channels // self.head_channels, self.head_channels)
        # Only what the mean attends to is wanted.
        found = attention(qkv[:, :1, 0], qkv[:, :, 1], qkv[:, :, 2]).reshape(-1, channels)
        return nn.Dense(self.features, kernel_init=torch_uniform, name="out")(found)


class NoisyClassifier(Levels):
    """The inward half of ADM's U-Net with attention pooling at its end, which says the label of a noisy image.

    See "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233), Section 4.3, and
    its code. Images of one size only, for the sake of the pooling.

    Attributes:
      num_classes: K.
    """

    channels: int = 128
    num_blocks: int = 2
    dropout: float = 0.0
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x: Array, time: Array, dropout_keys: Key | None = None) -> Array:
        """Classifies noisy images.

        Args:
          x: [B, H, W, C].
          time: [B] what `process.told_time` says.
          dropout_keys: [B] of dropout, or None for none.

        Returns:
          [B, K] logits.
        """
        embedding = self.embed(time, x.dtype)
        h = self.middle(self.way_in(x, embedding, dropout_keys)[-1], embedding, dropout_keys)
        h = nn.swish(GroupNorm(epsilon=EPSILON, name="norm")(h))
        return AttentionPool(self.num_classes, self.head_channels, name="pool")(h)


def log_prob(params: Params, x: Array, time: Array, label: Array, *, model: NoisyClassifier) -> Array:
    """What guidance climbs: log p(y | x_t, t).

    See "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233), Section 4.

    Args:
      params: of the model.
      x: [B, H, W, C] noisy images.
      time: [B] what `process.told_time` says.
      label: [B] int, y.
      model: the classifier.

    Returns:
      [B] nats; each of its example alone.
    """
    return _chosen(_log_probs(params, x, time, model=model, dropout_keys=None), label)


def classifier_objective(
    params: Params, model_state: ModelState, key: Key, batch: Batch, *, model: NoisyClassifier, process: Process
) -> tuple[Array, tuple[ModelState, Terms]]:
    """The mean cross-entropy of noisy images, each at a step of its own: −E_t log p(y | x_t, t).

    See "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233), Section 4.3.

    Args:
      params: of the model.
      model_state: {}.
      key: of this step.
      batch: `image` [B, H, W, C] uint8, `label` [B] and `index` [B].
      model: the classifier.
      process: from which images get their noise.

    Returns:
      The loss [] in nats, and (model_state, terms): {}, and `accuracy`, the fraction of the batch classified correctly,
      with `cross_entropy`, the loss.
    """
    t, _ = timesteps.uniform(rng.stream(key, "timestep"), batch["index"], process.num_steps)
    x_t = _noisy(process, batch["image"], t, rng.per_example(rng.stream(key, "noise"), batch["index"]))
    keys = rng.per_example(rng.stream(key, "dropout"), batch["index"])
    logs = _log_probs(params, x_t, told_time(process, t), model=model, dropout_keys=keys)
    loss = -jnp.mean(_chosen(logs, batch["label"]))
    correct = jax.vmap(is_most_probable)(logs, batch["label"])
    return loss, (model_state, {"accuracy": jnp.mean(correct), "cross_entropy": loss})


def classifier_values(
    params: Params, key: Key, batch: Batch, *, model: NoisyClassifier, process: Process, steps: Sequence[int]
) -> Values:
    """Whether each test image is classified correctly at some steps, and the cross-entropy of its class there.

    Args:
      params: of the model.
      key: the root key; the noise of an image at a step is the same at every evaluation of a run.
      batch: `image` [B, H, W, C] uint8, `label` [B] and `index` [B].
      model: the classifier, which sees B · S images at once.
      process: from which images get their noise.
      steps: S of the process's.

    Returns:
      `correct_by_step`, 0 or 1, and `cross_entropy_by_step` in nats, each [B, S], and their means over the steps,
      `correct` and `cross_entropy`, each [B].
    """
    keys = rng.in_evaluation(key, "noise", batch["index"])

    def every_step(array: Array) -> Array:  # [B, ...] -> [B · S, ...], the steps of an example side by side.
        return jnp.repeat(array, len(steps), axis=0)

    t = jnp.tile(jnp.asarray(steps, jnp.int32), len(keys))
    label = every_step(batch["label"])
    x_t = _noisy(process, every_step(batch["image"]), t, jax.vmap(jax.random.fold_in)(every_step(keys), t))
    logs = _log_probs(params, x_t, told_time(process, t), model=model, dropout_keys=None)
    values = {"correct": jax.vmap(is_most_probable)(logs, label), "cross_entropy": -_chosen(logs, label)}
    by_step = {name: value.reshape(-1, len(steps)) for name, value in values.items()}
    return {name: jnp.mean(value, axis=1) for name, value in by_step.items()} | {
        f"{name}_by_step": value for name, value in by_step.items()
    }


def classifier_report(means: dict[str, np.ndarray], *, steps: np.ndarray) -> dict[str, float]:
    """The numbers people read.

    Args:
      means: over the test set, as `classifier_values` names them.
      steps: [S] of the process at which images were classified, rising from 0.

    Returns:
      `accuracy_percent` and `cross_entropy_nats` over all steps, `accuracy_percent_clean` at the first, and
      `accuracy_percent_t` for each step t.
    """
    by_step = {f"accuracy_percent_{t}": 100 * float(a) for t, a in zip(steps, means["correct_by_step"], strict=True)}
    return {
        "accuracy_percent": 100 * float(means["correct"]),
        "accuracy_percent_clean": by_step[f"accuracy_percent_{steps[0]}"],
        "cross_entropy_nats": float(means["cross_entropy"]),
    } | by_step


def class_images(
    params: Params, keys: Key, label: Array, *, model: NoisyClassifier, process: Process, shape: tuple[int, ...]
) -> Array:
    """What the classifier alone makes of noise: diffusion of data that are N(0, ¼ I), guided strongly.

    ε_θ(x_t) = √(1 − ᾱ) / (¼ ᾱ + 1 − ᾱ) x_t, the best prediction for such data, so that everything that is not noise in
    these images comes from the classifier's gradient. They show what it looks for, and are no samples of the data's
    distribution.

    See "Diffusion Models Beat GANs on Image Synthesis", Dhariwal and Nichol, 2021 (arXiv:2105.05233), Algorithm 2, here
    with s = 30 and at most 50 steps.

    Args:
      params: of the classifier.
      keys: [n].
      label: [n] int, what is asked for.
      model: the classifier.
      process: the one that it was trained on.
      shape: (H, W, C) of an image.

    Returns:
      [n, H, W, C] in [0, 1]; image i depends on key i and label i alone.

    Raises:
      ValueError: where the timesteps of the process do not increase.
    """
    level = in_continuous_time(process).log_snr

    def predict(x: Array, time: Array) -> Array:
        signal, noise = signal_and_noise(level(time.astype(x.dtype)))
        return (noise / (0.25 * signal**2 + noise**2))[:, None, None, None] * x

    def wanted(x: Array, time: Array) -> Array:
        return log_prob(params, x, time, label, model=model)

    few = space(process, spaced_steps(process, min(50, process.num_steps), "even"))
    sampler = ddim(few, predict, guide=shift_epsilon(wanted, 30.0))
    return sample(sampler, keys, shape, finish=pixels.to_unit)


def _log_probs(params: Params, x: Array, time: Array, *, model: NoisyClassifier, dropout_keys: Key | None) -> Array:
    """[B, K] log p(y | x_t, t) of every y."""
    return jax.nn.log_softmax(apply_in_param_dtype(model, params, x, time, dropout_keys, method="__call__"))


def _chosen(logs: Array, label: Array) -> Array:
    """[B] the entry of each row [B, K] that its label names."""
    return jnp.take_along_axis(logs, jnp.asarray(label)[:, None], axis=1)[:, 0]


def _noisy(process: Process, image: Array, t: Array, keys: Key) -> Array:
    """The images [B, ...] uint8 as [−1, 1] after their steps t [B], each with the noise of its key."""
    return diffuse(process, pixels.examples_of({"image": image}), t, keys)[0]
