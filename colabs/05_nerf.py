# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gen-jax/gen_jax/blob/main/colabs/05_nerf.ipynb)
#
# # Neural radiance fields
#
# A scene is a function from a place and a direction to a colour and a density; it is learned from photographs by
# rendering it. This notebook follows "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis"
# (Mildenhall et al., 2020, [arXiv:2003.08934](https://arxiv.org/abs/2003.08934)) in the order of its sections.
# Rendering has no parameters: it is in `gen_jax.ops`, written for one ray. The scene is one of our own,
# `gen_jax.data.analytic_scene`, of which every ray's first surface is known exactly.

# %%
import importlib.metadata
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("gen_jax") is None:  # As on a fresh Colab machine. Its CPU is enough.
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "git+https://github.com/gen-jax/gen_jax"], check=True)
    if "numpy" in sys.modules and sys.modules["numpy"].__version__ != importlib.metadata.version("numpy"):
        from IPython import get_ipython

        print("The runtime restarts, for it had begun with another numpy: run the cells again from the first.")
        get_ipython().kernel.do_shutdown(True)

# %%
import itertools
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gen_jax
from experiments import nerf, tiny_nerf
from gen_jax import rng, runtime
from gen_jax.data.analytic_scene import FAR, NEAR, analytic_scene, render_view, trace
from gen_jax.families.nerf.losses import photometric
from gen_jax.families.nerf.objectives import see
from gen_jax.ops import cameras
from gen_jax.ops.encodings import positional_encoding
from gen_jax.ops.image_quality import psnr
from gen_jax.ops.volume_rendering import (
    composite,
    importance_depths,
    intervals,
    over,
    render_weights,
    stratified_depths,
)
from gen_jax.train import loop

runtime.configure()  # Before JAX computes anything: its flags, and the cache of compiled programs.
root = rng.root(0)

# %% [markdown]
# ## Section 4: volume rendering
#
# $$\hat C(\mathbf r) = \sum_i T_i (1 - e^{-\sigma_i \delta_i})\, \mathbf c_i, \qquad
# T_i = \exp\Big(-\sum_{j < i} \sigma_j \delta_j\Big) \quad \text{(Eq. 3)}$$
#
# $\sigma_i$ is the density at a sample, $\delta_i$ the distance to the next one, $T_i$ what light is left when it
# gets there, and $w_i = T_i (1 - e^{-\sigma_i \delta_i})$ the weight of its colour. Nothing is counted twice: the
# weights and the light that is left at the end make 1. And a fog that is the same everywhere looks the same however
# finely it is cut.

# %%
density, delta = jnp.array([0.0, 1.0, 3.0, 0.5]), jnp.array([0.5, 0.5, 1.0, 1.0])
weights = render_weights(density, delta)
print("weights", weights, " sum", jnp.sum(weights), " 1 − what is left", 1 - jnp.exp(-jnp.sum(density * delta)))

for count in (1, 4, 64):
    depths = jnp.linspace(0, 2, count, endpoint=False)
    fog = composite(jnp.ones((count, 3)), jnp.full(count, 0.7), depths, far=2.0)
    print(f"a fog of density 0.7 and thickness 2 in {count:2} parts: opacity {fog.opacity:.6f}")
print(f"1 − exp(−0.7 · 2) = {-np.expm1(-1.4):.6f}")

# %% [markdown]
# ## One ray
#
# A pixel sees the ray $\mathbf r(t) = \mathbf o + t \mathbf d$. For the picture we fill the things of the scene with
# fog: its density is the same everywhere inside of them and 0 outside, with the edges softened a little. Transmittance
# falls where the fog begins, and the weights are where it falls. Make the fog thin and the ray sees through it.

# %%
column = 30  # @param {"type": "slider", "min": 0, "max": 63, "step": 1}
row = 40  # @param {"type": "slider", "min": 0, "max": 63, "step": 1}
fog_density = 15.0  # @param {"type": "slider", "min": 0.5, "max": 60, "step": 0.5}
num_samples = 48  # @param {"type": "slider", "min": 4, "max": 128, "step": 4}

scene = analytic_scene(size=64, num_train=2, num_test=3)
pose, camera = scene.test.poses[1], cameras.Camera(scene.test.focal[1], scene.test.center[1], scene.test.distortion[1])
photograph = over(scene.test.images[1] / 255, np.ones(3))
origin, direction = cameras.ray(camera, pose, jnp.array([column + 0.5, row + 0.5]))


def surfaces(direction):
    """Where rays [R, 3] from the camera go in first and come out last, in units of t, and the colour seen, [R, 3]."""
    direction = np.asarray(direction, np.float64)
    start = np.broadcast_to(np.asarray(origin, np.float64), direction.shape)
    color, enter = trace(start, direction)
    return enter, FAR - trace(start + FAR * direction, -direction)[1], color


def density_at(depths, enter, leave, fog_density, edge=0.03):
    """The density of one ray at depths: that of the fog between two surfaces, none outside."""
    return fog_density * jax.nn.sigmoid((depths - enter) / edge) * jax.nn.sigmoid((leave - depths) / edge)


(enter,), (leave,), (color,) = surfaces(direction[None])
depths = stratified_depths(None, NEAR, FAR, num_samples)
density = density_at(depths, enter, leave, fog_density)
colors = jnp.broadcast_to(jnp.float32(color), (num_samples, 3))
norm = jnp.linalg.norm(direction)
seen = composite(colors, density, depths, norm=norm, far=FAR, background=jnp.ones(3))
thickness = density * intervals(depths, far=FAR) * norm
transmittance = jnp.exp(-(jnp.cumsum(thickness) - thickness))

figure, axes = plt.subplots(1, 2, figsize=(13, 4), width_ratios=(1, 2.4))
axes[0].imshow(photograph)
axes[0].plot(column, row, "r+", ms=16, mew=2)
axes[0].set(title="The pixel", xticks=[], yticks=[])
axes[1].fill_between(depths, density / fog_density, color="gray", alpha=0.25, label="density, as a share of the fog's")
axes[1].plot(depths, transmittance, "k.-", label="transmittance T")
axes[1].bar(depths, seen.weights, width=0.7 * (FAR - NEAR) / num_samples, color="C1", label="weights w")
axes[1].set(title="Along its ray", xlabel="depth t", ylim=(0, 1.05))
axes[1].legend(loc="center right")
plt.show()
meets = f"its surface is at {enter:.3f}" if np.isfinite(enter) else "this ray meets nothing"
print(f"opacity {seen.opacity:.3f}, depth {seen.depth:.3f} ({meets})")
print("colour", np.round(seen.color, 3), "in the photograph", np.round(photograph[row, column], 3))

# %% [markdown]
# ## Section 5.1: positional encoding
#
# $$\gamma(x) = (\sin 2^0 \pi x, \cos 2^0 \pi x, \dots, \sin 2^{L-1} \pi x, \cos 2^{L-1} \pi x) \quad \text{(Eq. 4)}$$
#
# A network of ReLUs hardly tells two places apart that are close together. Their $\gamma$ are further apart, the more
# so the more frequencies there are. On the right, how alike $\gamma$ of a place is to that of 0, as a cosine: the more
# frequencies, the narrower the peak. Where the finer waves have come round again there are lower peaks beside it.

# %%
for count in (1, 3, 6, 10):
    gammas = [positional_encoding(jnp.array([place]), count, convention="paper") for place in (0.25, 0.26)]
    print(f"L = {count:2}: γ(0.25) and γ(0.26) are {jnp.linalg.norm(gammas[1] - gammas[0]):.3f} apart")
print("γ(0.25) with L = 3:", np.round(positional_encoding(jnp.array([0.25]), 3, convention="paper"), 3))
x = jnp.linspace(-1, 1, 400)
figure, axes = plt.subplots(1, 2, figsize=(12, 3.6))
axes[0].imshow(
    jax.vmap(lambda x: positional_encoding(x[None], 6, convention="paper"))(x).T,
    aspect="auto",
    cmap="RdBu",
    extent=(-1, 1, 12, 0),
    interpolation="nearest",
)
axes[0].set(
    title="γ(x) with L = 6",
    xlabel="x",
    yticks=np.arange(12) + 0.5,
    yticklabels=[rf"$\{wave}\,2^{octave}\pi x$" for octave in range(6) for wave in ("sin", "cos")],
)
for count in (1, 3, 6):
    gamma = jax.vmap(lambda x, count=count: positional_encoding(x[None], count, convention="paper"))(x)
    zero = positional_encoding(jnp.zeros(1), count, convention="paper")
    axes[1].plot(x, gamma @ zero / count, label=f"L = {count}")
axes[1].set(title="Likeness of γ(x) and γ(0)", xlabel="x")
axes[1].legend()
plt.show()

# %% [markdown]
# With and without it: the field of `experiments.tiny_nerf`, three layers of 64, learns the photograph as a function
# from a pixel's place in the plane to its colour, by 300 steps of Adam on all pixels. As in the paper's code the field
# sees the place itself as well, before its $\gamma$, and so nothing else where $L = 0$.

# %%
frequencies = 6  # @param {"type": "slider", "min": 1, "max": 10, "step": 1}

size = 48
picture = jnp.float32(over(render_view(pose, 1.2 * size, size)[0] / 255, np.ones(3)))
places = jnp.asarray(cameras.pixel_centers(size, size)) / size * 2 - 1


def fit(count):
    """What the field shows after the steps, with so many frequencies."""
    field, tx = tiny_nerf.Field((64, 64, 64)), optax.adam(5e-3)
    encoded = jax.vmap(jax.vmap(lambda place: positional_encoding(place, count, convention="paper_with_input")))(places)
    params = field.init(rng.stream(root, "init"), encoded[0, 0])

    def show(params):
        return jax.vmap(jax.vmap(lambda place: field.apply(params, place)[0]))(encoded)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda params: jnp.mean((show(params) - picture) ** 2))(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=300)
    return show(params)


figure, axes = plt.subplots(1, 3, figsize=(12, 4.2))
axes[0].imshow(picture)
axes[0].set_title("the photograph")
for axis, count in zip(axes[1:], (0, frequencies), strict=True):
    learned = jax.jit(fit, static_argnums=0)(count)
    axis.imshow(learned)
    axis.set_title(f"L = {count}: {psnr(jnp.mean((learned - picture) ** 2)):.1f} dB")
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Section 5.2: coarse samples, then fine ones
#
# Most of a ray is empty. The coarse samples, one in each of its equal parts (Eq. 2), find where something is; the fine
# ones are drawn where the coarse weights are large (`importance_depths`). On the right is the error of the depth of up
# to 500 rays through things that are nearly solid, where the depth by 1,024 samples counts as true. Half of the samples
# coarse and half fine come nearer than all in equal parts.

# %%
num_coarse = 16  # @param {"type": "slider", "min": 4, "max": 64, "step": 2}
num_fine = 16  # @param {"type": "slider", "min": 4, "max": 64, "step": 2}
solid = 60.0


def ray_depth(depths, enter, leave, norm):
    """What a ray whose direction has this norm sees at these depths: the weights, and the depth of what is seen."""
    found = composite(jnp.ones((len(depths), 3)), density_at(depths, enter, leave, solid), depths, norm=norm, far=FAR)
    return found.weights, found.depth


def both(key, ray, num_coarse, num_fine):
    """Coarse depths and their weights, fine depths, and what all of them see."""
    coarse = stratified_depths(rng.stream(key, "coarse"), NEAR, FAR, num_coarse)
    weights, _ = ray_depth(coarse, *ray)
    fine = importance_depths(rng.stream(key, "fine"), coarse, weights, num_fine)
    return coarse, weights, fine, ray_depth(jnp.sort(jnp.concatenate([coarse, fine])), *ray)[1]


figure, axes = plt.subplots(1, 2, figsize=(13, 4), width_ratios=(1.6, 1))
coarse, weights, fine, _ = both(root, (enter, leave, norm), num_coarse, num_fine)
fence = jnp.linspace(NEAR, FAR, 500)
axes[0].fill_between(
    fence, density_at(fence, enter, leave, 1.0), color="gray", alpha=0.25, label="density, as a share of the fog's"
)
axes[0].vlines(coarse, 0, weights, color="C0", lw=3, label="coarse weights")
axes[0].plot(coarse, jnp.full(num_coarse, -0.08), "|", ms=14, color="C0", label=f"{num_coarse} coarse samples")
axes[0].plot(fine, jnp.full(num_fine, -0.2), "|", ms=14, color="C1", label=f"{num_fine} fine samples")
axes[0].set(title="The same ray", xlabel="depth t", ylim=(-0.3, 1.05))
axes[0].legend(loc="upper right")

x, y = jax.random.uniform(rng.stream(root, "pixels"), (2, 1500), minval=8, maxval=56)
many = jax.vmap(lambda pixel: cameras.ray(camera, pose, pixel)[1])(jnp.stack([x, y], axis=1))
ins, outs, _ = surfaces(many)
hit = np.flatnonzero(np.isfinite(ins))[:500]
rays = [jnp.float32(part[hit]) for part in (ins, outs, jnp.linalg.norm(many, axis=1))]
keys = rng.per_example(root, jnp.arange(len(hit)))
totals = (8, 16, 64)


def depths_of(depth_of):
    """The depth that each of the rays sees."""
    return jax.jit(jax.vmap(depth_of))(keys, rays)


exact = depths_of(lambda key, ray: ray_depth(stratified_depths(key, NEAR, FAR, 1024), *ray)[1])
even = [depths_of(lambda key, ray, n=n: ray_depth(stratified_depths(key, NEAR, FAR, n), *ray)[1]) for n in totals]
split = [depths_of(lambda key, ray, n=n: both(key, ray, n // 2, n // 2)[3]) for n in totals]
even, split = ([float(jnp.mean(jnp.abs(found - exact))) for found in way] for way in (even, split))
axes[1].loglog(totals, even, "o-", label="all in equal parts")
axes[1].loglog(totals, split, "o-", label="half coarse, half fine")
axes[1].set(title="Mean error of the depth", xlabel="samples of a ray, in all")
axes[1].set_xticks(totals, totals)
axes[1].minorticks_off()
axes[1].legend()
plt.show()

# %% [markdown]
# ## Section 5.3: a run
#
# The loss of a ray is the squared error of both fields' colours, $\|\hat C_c - C\|^2 + \|\hat C_f - C\|^2$ (Eq. 6);
# `photometric` takes the mean over the three channels where the paper has the sum, as its code does. A small field
# learns the scene from 30 views of 32 by 32 pixels. On a terminal, larger and for minutes:
# `python -m experiments.nerf`.

# %%
loss, terms = photometric(jnp.array([0.5, 0.5, 0.5]), jnp.array([0.6, 0.4, 0.2]), jnp.array([0.6, 0.4, 0.3]))
print("loss", loss, {name: float(term) for name, term in terms.items()})

config = nerf.get_config().lock()
config.data.size, config.data.num_train, config.data.num_test = 32, 30, 4
config.model.depth, config.model.width = 2, 64
config.model.position_frequencies, config.model.direction_frequencies = 5, 1
config.rendering.num_coarse = config.rendering.num_fine = 12
config.train.batch_size = 256
config.optim.learning_rate = 1e-2
config.train.duration = config.train.eval_every = config.train.checkpoint_every = "300 steps"
config.eval.batch_size = config.eval.num_views = 4
config.eval.path_frames = 4
folder = pathlib.Path(tempfile.mkdtemp())
outcome = loop.train(nerf.build(config), config, folder)
print({name: round(value, 3) for name, value in outcome.results.items()})

# %% [markdown]
# Read back, and seen from where no photograph was taken: the flight round the scene has 24 views. A depth is where
# half of what a pixel sees is before it, so where it sees next to nothing its depth means nothing.

# %%
frame = 5  # @param {"type": "slider", "min": 0, "max": 23, "step": 1}

run = gen_jax.load(folder)
shot = next(itertools.islice(run.experiment.fly(run.settled, "orbit", 24), frame, None))
figure, axes = plt.subplots(1, 2, figsize=(9, 4))
axes[0].imshow(shot.color)
axes[0].set_title(f"view {frame}")
drawn = axes[1].imshow(shot.depth, cmap="viridis_r", vmin=NEAR, vmax=FAR)
axes[1].set_title("depth")
figure.colorbar(drawn, ax=axes, shrink=0.8, label="along the optical axis")
for axis in axes:
    axis.axis("off")
plt.show()

figure = plt.figure(figsize=(7, 5.4))
plt.imshow(plt.imread(folder / "pictures" / "views.png"))
plt.axis("off")
plt.show()

# %% [markdown]
# And the ray from above through the learned fields: how much of what is seen lies before a depth,
# $\sum_{t_i \le t} w_i$. For the scene itself it is a step at the surface.

# %%
model = nerf.build_model(run.config, run.experiment.train_source)
params = run.state.eval_params
pixel = jnp.array([column + 0.5, row + 0.5])
coarse_seen, fine_seen = see(params, None, camera, pose, pixel, jnp.ones(3), nerf=model)
coarse = stratified_depths(None, NEAR, FAR, model.sampling.num_coarse)
more = importance_depths(None, coarse, coarse_seen.weights, model.sampling.num_fine)
figure, axis = plt.subplots(figsize=(8, 3.6))
axis.step(coarse, jnp.cumsum(coarse_seen.weights), "o-", ms=4, where="post", label="coarse field")
axis.step(
    jnp.sort(jnp.concatenate([coarse, more])), jnp.cumsum(fine_seen.weights), ".-", where="post", label="fine field"
)
if np.isfinite(enter):
    axis.axvline(enter, color="k", ls="--", label="the scene's surface")
axis.set(title="The learned weights, added up along the ray", xlabel="depth t")
axis.legend()
plt.show()
print("colour", np.round(fine_seen.color, 3), "in the photograph", np.round(photograph[row, column], 3))

# %% [markdown]
# ## What this leaves out
#
# - **Sharpness.** The run has two fields of some ten thousand parameters, 24 samples a ray and 300 steps of training;
#   the paper has two of 600,000, 192 samples and a day or more. `python -m experiments.nerf` reaches 31.8 dB on this
#   scene in minutes, and its preset `blender` is the paper's recipe.
# - **Real photographs.** The scene is traced, and its cameras are exact. For a folder of photographs with poses give
#   `--data_dir`; to find the poses is another program's work, such as COLMAP's.
# - **The fog of the first pictures is not the paper's scene.** Things have no density of their own; we gave them one
#   between the first surface of a ray and its last, so what lies between two things counts as inside. The true field
#   of a surface would be infinitely dense, and no quadrature sees that.
# - **A picture in the plane is not a scene.** With and without encoding differ there as in a field, but a field sees
#   each place from many sides, and too many frequencies can look good from the photographs' sides alone.
# - Not shown: the colour's dependence on the direction of view, which the field of the run has and which a few hundred
#   steps hardly teach it; normalised device coordinates, for scenes seen from one side; samples that are even in
#   disparity; meshes; and the reader of published weights. They are in `gen_jax.ops` and `gen_jax.families.nerf`.
