"""The players' interface to their networks, and the fully connected networks.

A generator is a Linen module `(z [B, d], label [B] | None, *, train) -> x [B, ...]` with images in [-1, 1], a
discriminator or critic one `(x [B, ...], label [B] | None, *, train) -> logit [B]`. Each has the attributes `norm`,
`num_classes` (0 for an unconditional one, which does not look at `label`) and `axis_name`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.contracts import Array, Key, ModelState, Params, UserError
from gen_jax.nn.dropout import Dropout
from gen_jax.nn.maxout import maxout
from gen_jax.nn.normalization import Norm, with_spectral_norm
from gen_jax.nn.precision import param_dtype

CONDITIONINGS = ("projection", "embedding")
OUTPUTS = ("tanh", "linear")

# For each side of an image: the side at the coarse end of a convolutional network, and how many factors 2 lie between.
_PLANS = {28: (7, 2), 32: (4, 3), 64: (4, 4)}

# A class at the input of a network starts as numbers as large as those beside it.
_LABEL_INIT = nn.initializers.normal(1.0)


def init_network(network: nn.Module, key: Key, *inputs: Array) -> tuple[Params, ModelState]:
    """The initial parameters and state of a network.

    Args:
      network: a generator or discriminator.
      key: of this network's initialisation.
      *inputs: z or x of any batch size, and for a conditional network the labels.

    Returns:
      `(params, state)`; the state is the dict of all other collections, {} for a network without any.
    """
    variables = dict(network.init(key, *inputs))
    return variables.pop("params"), variables


def apply_network(
    network: nn.Module,
    params: Params,
    state: ModelState,
    x: Array,
    label: Array | None = None,
    *,
    train: bool = False,
    axis_name: str | None = None,
    dropout_keys: Key | None = None,
) -> tuple[Array, ModelState]:
    """Runs a network in the precision of its parameters.

    Args:
      network: a generator or discriminator.
      params: its parameters, all but the scalars of one floating-point type, to which `x` is cast.
      state: its other collections, as `init_network` gives them.
      x: [B, ...] the input, z or x.
      label: [B] int32 classes, or None.
      train: whether batch norm takes its statistics from this batch, and the state is updated.
      axis_name: the mapped axis of devices over which the batch lies, or None.
      dropout_keys: [B] one key an example, for a network that has dropout; None for no dropout.

    Returns:
      `(output, state)`: the output in float32 (float64 where the parameters are); the state with the types of `state`
      and, unless `train`, its values.
    """
    if axis_name is not None:
        network = network.clone(axis_name=axis_name)
    options: dict[str, Any] = {"train": train}
    if dropout_keys is not None:
        options["dropout_keys"] = dropout_keys
    variables = {"params": params, **state}
    mutable = list(state) if train else []
    output, updated = network.apply(variables, jnp.asarray(x, param_dtype(params)), label, mutable=mutable, **options)
    output = jnp.asarray(output, jnp.promote_types(output.dtype, jnp.float32))
    if not mutable:
        return output, state
    return output, jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), state, dict(updated))


def has_batch_norm(network: nn.Module) -> bool:
    """Whether examples of a batch see each other in a network, as its attribute `norm` says."""
    return getattr(network, "norm", "none") == "batch"


def leaky_relu(x: Array) -> Array:
    """max(x, 0.2 x), the activation of DCGAN's discriminator."""
    return nn.leaky_relu(x, 0.2)


def check_label(num_classes: int, label: Array | None) -> None:
    """Refuses a conditional network without labels.

    Args:
      num_classes: of the network.
      label: what it was given.

    Raises:
      UserError: where there are classes and no labels.
    """
    if num_classes > 0 and label is None:
        raise UserError(
            f"The network is conditional on {num_classes} classes and was given no labels; "
            "give it labels or set num_classes to 0."
        )


def projected_classes(num_classes: int, conditioning: str, label: Array | None) -> int:
    """How many classes the last layer of a discriminator knows, after a check of what it was given.

    Args:
      num_classes: of the discriminator.
      conditioning: "projection" or "embedding".
      label: [B], or None.

    Returns:
      `num_classes` by projection; 0 where the class is at the input.

    Raises:
      UserError: where the conditioning is unknown, or labels are missing.
    """
    check_label(num_classes, label)
    if conditioning not in CONDITIONINGS:
        raise UserError(f"conditioning='{conditioning}' is unknown; choose one of {', '.join(CONDITIONINGS)}.")
    return num_classes if conditioning == "projection" else 0


def check_conditional_norm(num_classes: int, norm: str) -> None:
    """Refuses a convolutional generator whose classes would have nowhere to go in.

    Args:
      num_classes: of the generator.
      norm: of the generator, whose gains and biases the class chooses.

    Raises:
      UserError: where there are classes and no batch norm.
    """
    if num_classes > 0 and norm != "batch":
        raise UserError(
            f"A generator conditional on {num_classes} classes takes them through its batch norm, and norm='{norm}'; "
            "set norm to 'batch' or num_classes to 0."
        )


def image_plan(shape: tuple[int, ...]) -> tuple[int, int]:
    """How a convolutional network comes to images of a size, for those sizes that there are networks for.

    Args:
      shape: (H, W, C) of the images.

    Returns:
      The side at the coarse end, and the number of stages, each of which is a factor 2.

    Raises:
      UserError: where these are no images of side 28, 32 or 64.
    """
    if len(shape) != 3 or shape[0] != shape[1] or shape[0] not in _PLANS:
        raise UserError(
            f"There is no convolutional network for data of shape {tuple(shape)}; give it images of side 28, 32 or 64."
        )
    return _PLANS[shape[0]]


class Logit(nn.Module):
    """The last layer of a discriminator: a linear function of the features, and of the class by projection.

    ψ(φ) + ⟨e_y, φ⟩,  ψ(φ) = wᵀφ + b

    See "cGANs with Projection Discriminator", Miyato and Koyama, 2018 (arXiv:1802.05637), Eq. 3.

    Attributes:
      num_classes: of the table of e; 0 for no second term.
      spectral: whether w and the table are divided by their spectral norms.
      kernel_init: of w and of the table.
    """

    num_classes: int = 0
    spectral: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, features: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Maps φ [B, n] and labels [B] to logits [B]."""

        def layer(module: nn.Module) -> Callable[..., Array]:
            return with_spectral_norm(module, spectral=self.spectral, train=train, dtype=features.dtype)

        logit = layer(nn.Dense(1, kernel_init=self.kernel_init, name="psi"))(features)[:, 0]
        if self.num_classes == 0:
            return logit
        table = nn.Embed(self.num_classes, features.shape[-1], embedding_init=self.kernel_init, name="class")
        return logit + jnp.sum(layer(table)(label) * features, axis=-1)


class LabelMap(nn.Module):
    """A learned picture for each class, as one more channel of the image.

    See "Conditional Generative Adversarial Nets", Mirza and Osindero, 2014 (arXiv:1411.1784), Section 3.2, whose
    discriminator takes the class as one more input.

    Attributes:
      num_classes: of the table.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, label: Array | None) -> Array:
        """Maps images [B, H, W, C] and labels [B] to [B, H, W, C + 1]."""
        batch, height, width, _ = x.shape
        picture = nn.Embed(self.num_classes, height * width, embedding_init=_LABEL_INIT, name="class")(label)
        return jnp.concatenate([x, picture.reshape(batch, height, width, 1)], axis=-1)


class MLPGenerator(nn.Module):
    """Fully connected G(z); a class is a learned vector beside z.

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Section 5, and for the class
    "Conditional Generative Adversarial Nets", Mirza and Osindero, 2014 (arXiv:1411.1784), Section 3.2. Goodfellow's
    output for digits in [0, 1] is a sigmoid; here images are in [-1, 1].

    Attributes:
      output_shape: of one example: (H, W, C) for images, (2,) for points in the plane.
      latent_dim: d.
      hidden: the width of each hidden layer.
      activation: between the layers.
      output: "tanh", in [-1, 1], or "linear".
      norm: "batch", before each activation, or "none".
      num_classes: 0 for an unconditional generator.
      label_dim: the length of a class's vector.
      kernel_init: of every dense layer.
      axis_name: the mapped axis of devices for the batch's statistics.
    """

    output_shape: tuple[int, ...]
    latent_dim: int
    hidden: tuple[int, ...] = (1200, 1200)
    activation: Callable[[Array], Array] = nn.relu
    output: str = "tanh"
    norm: str = "none"
    num_classes: int = 0
    label_dim: int = 50
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Maps z [B, d] and labels [B] to [B, *output_shape].

        Raises:
          UserError: where `output` or `norm` is unknown, or labels are missing.
        """
        check_label(self.num_classes, label)
        if self.output not in OUTPUTS:
            raise UserError(f"output='{self.output}' is unknown; choose one of {', '.join(OUTPUTS)}.")
        h = z
        if self.num_classes > 0:
            h = jnp.concatenate(
                [h, nn.Embed(self.num_classes, self.label_dim, embedding_init=_LABEL_INIT, name="class")(label)],
                axis=-1,
            )
        for width in self.hidden:
            # A bias before batch norm would be subtracted again with the mean.
            h = nn.Dense(width, use_bias=self.norm != "batch", kernel_init=self.kernel_init)(h)
            h = self.activation(Norm(self.norm, axis_name=self.axis_name)(h, train=train))
        x = nn.Dense(math.prod(self.output_shape), kernel_init=self.kernel_init)(h)
        return (nn.tanh(x) if self.output == "tanh" else x).reshape(-1, *self.output_shape)


class MLPDiscriminator(nn.Module):
    """Fully connected D(x), for images and points; its output is the logit.

    See "Generative Adversarial Nets", Goodfellow et al., 2014 (arXiv:1406.2661), Section 5; the authors' code has two
    hidden layers of 240 maxout units of 5 pieces for digits, with dropout.

    Attributes:
      hidden: the width of each hidden layer, in units.
      activation: between the layers, where there is no maxout.
      maxout_pieces: k > 0 for the largest of k linear pieces as activation; 0 for `activation`.
      input_scale: D sees x times this.
      input_dropout: of the input.
      dropout: after each hidden layer.
      norm: before each activation: "none", "layer" or "batch".
      spectral: whether every layer's kernel is divided by its spectral norm; a table of classes at the input is not.
      num_classes: 0 for an unconditional discriminator.
      conditioning: "projection", see `Logit`, or "embedding", a learned vector beside x, as Mirza and Osindero's.
      label_dim: the length of that vector.
      kernel_init: of every dense layer.
      axis_name: the mapped axis of devices for the batch's statistics.
    """

    hidden: tuple[int, ...] = (240, 240)
    activation: Callable[[Array], Array] = leaky_relu
    maxout_pieces: int = 0
    input_scale: float = 1.0
    input_dropout: float = 0.0
    dropout: float = 0.0
    norm: str = "none"
    spectral: bool = False
    num_classes: int = 0
    conditioning: str = "projection"
    label_dim: int = 50
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Array, label: Array | None = None, *, train: bool = False, dropout_keys: Key | None = None
    ) -> Array:
        """Maps x [B, ...] and labels [B] to logits [B].

        Raises:
          UserError: where `norm` or `conditioning` is unknown, or labels are missing.
        """
        classes = projected_classes(self.num_classes, self.conditioning, label)
        h = x.reshape(x.shape[0], -1) * self.input_scale
        h = Dropout(self.input_dropout)(h, dropout_keys)
        if self.num_classes > classes:
            h = jnp.concatenate(
                [h, nn.Embed(self.num_classes, self.label_dim, embedding_init=_LABEL_INIT, name="class")(label)],
                axis=-1,
            )
        for width in self.hidden:
            dense = nn.Dense(
                width * max(self.maxout_pieces, 1), use_bias=self.norm != "batch", kernel_init=self.kernel_init
            )
            h = with_spectral_norm(dense, spectral=self.spectral, train=train, dtype=h.dtype)(h)
            h = Norm(self.norm, axis_name=self.axis_name)(h, train=train)
            h = maxout(h, self.maxout_pieces) if self.maxout_pieces > 0 else self.activation(h)
            h = Dropout(self.dropout)(h, dropout_keys)
        return Logit(classes, self.spectral, self.kernel_init, name="logit")(h, label, train=train)
