# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gen-jax/gen_jax/blob/main/colabs/04_diffusion.ipynb)
#
# # Diffusion models
#
# An example is turned into noise in many small steps, and a network learns the way back. This notebook follows
# "Denoising Diffusion Probabilistic Models" (Ho et al., 2020, [arXiv:2006.11239](https://arxiv.org/abs/2006.11239))
# in the order of its sections, with the schedule of Nichol and Dhariwal (2021), DDIM (Song et al., 2021) and guidance
# (Dhariwal and Nichol, 2021; Ho and Salimans, 2022). Until the run near the end nothing is learned: for a mixture of
# Gaussians the best possible prediction is known, so that one sees what the equations say and not what a network
# does. All functions are those of `gen_jax.families.diffusion`. Steps count from 0 there: the papers' $t$ is one
# more.

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
import math
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gen_jax
from experiments import ddpm_toy
from gen_jax import rng, runtime
from gen_jax.data import Mixture, load_images
from gen_jax.families import diffusion
from gen_jax.families.diffusion.exact import best_epsilon
from gen_jax.ops.distributions import gaussian_log_likelihood
from gen_jax.train import loop

runtime.configure()  # Before JAX computes anything: its flags, and the cache of compiled programs.
root = rng.root(0)

# %% [markdown]
# ## Section 2: the forward process
#
# $$q(x_t \mid x_{t-1}) = \mathcal N(\sqrt{1 - \beta_t}\, x_{t-1},\ \beta_t I) \quad \text{(Eq. 2)} \qquad
# q(x_t \mid x_0) = \mathcal N(\sqrt{\bar\alpha_t}\, x_0,\ (1 - \bar\alpha_t) I),
# \quad \bar\alpha_t = \prod_{s \le t} (1 - \beta_s) \quad \text{(Eq. 4)}$$
#
# `make_process` turns the $\beta$ of a schedule into tables. The mean and the spread that 4,000 walkers have, who
# take all steps of Eq. 2 one by one from $x_0 = 1$, lie on the tables' $\sqrt{\bar\alpha}$ and
# $\sqrt{1 - \bar\alpha}$.

# %%
schedules = {
    "linear (Ho et al.)": diffusion.make_process(diffusion.linear_betas(1000)),
    "cosine (Nichol and Dhariwal)": diffusion.make_process(diffusion.cosine_betas(1000)),
}
figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
for axis, (name, process) in zip(axes, schedules.items(), strict=True):

    def walk(x, step):
        """One step of Eq. 2; the mean and the spread of all walkers after it."""
        beta, number = step
        noise = jax.random.normal(rng.at_step(rng.stream(root, "walk"), number), x.shape)
        x = jnp.sqrt(1 - beta) * x + jnp.sqrt(beta) * noise
        return x, (jnp.mean(x), jnp.std(x))

    steps = jnp.asarray(process.betas, jnp.float32), jnp.arange(1000)
    means, spreads = jax.lax.scan(walk, jnp.ones(4000), steps)[1]
    axis.plot(process.signal, label="√ᾱ: what is left of x₀")
    axis.plot(process.noise, label="√(1 − ᾱ): the noise")
    axis.plot(np.arange(0, 1000, 60), means[::60], "k.", label="walkers: mean and spread")
    axis.plot(np.arange(0, 1000, 60), spreads[::60], "k.")
    axis.set(title=name, xlabel="t")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# `q_sample` takes one example, one step and the noise. A test image of Fashion-MNIST, scaled to $[-1, 1]$, with the
# same noise at all steps:

# %%
image = 3  # @param {"type": "slider", "min": 0, "max": 200, "step": 1}

x0 = jnp.asarray(load_images("fashion_mnist_10k", "test").images[image], jnp.float32) / 127.5 - 1
epsilon = jax.random.normal(rng.stream(root, "image"), x0.shape)
shown = jnp.array([0, 50, 100, 200, 300, 500, 700, 999])
figure, axes = plt.subplots(2, len(shown), figsize=(13, 3.8))
for row, (name, process) in zip(axes, schedules.items(), strict=True):
    noisy = jax.vmap(lambda t, process=process: diffusion.q_sample(process, x0, t, epsilon))(shown)
    for axis, t, x_t in zip(row, shown, noisy, strict=True):
        axis.imshow(diffusion.to_unit(x_t)[..., 0], cmap="gray", vmin=0, vmax=1)
        axis.set(title=f"t = {t}", xticks=[], yticks=[])
    row[0].set_ylabel(name.split()[0], fontsize=12)
plt.show()

# %% [markdown]
# ## The posterior
#
# The law of the step before, had one seen both ends, is a Gaussian as well:
#
# $$q(x_{t-1} \mid x_t, x_0) = \mathcal N(\tilde\mu, \tilde\beta_t I), \qquad
# \tilde\mu = \frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1 - \bar\alpha_t} x_0 +
# \frac{\sqrt{\alpha_t} (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t, \qquad
# \tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t \quad \text{(Eq. 6, 7)}$$
#
# Below it is drawn beside Monte Carlo: two million walkers go from $x_0$ to $x_{t-1}$ to $x_t$; of those who came
# near the given $x_t$, the histogram shows where they were one step earlier. The process has 10 steps here, so that
# one step is something to see.

# %%
step = 5  # @param {"type": "slider", "min": 1, "max": 9, "step": 1}
start = 0.8  # @param {"type": "slider", "min": -1, "max": 1, "step": 0.1}
seen = 0.2  # @param {"type": "slider", "min": -1, "max": 1, "step": 0.1}

linear = schedules["linear (Ho et al.)"]
short = diffusion.space(linear, diffusion.spaced_steps(linear, 10, "trailing"))
mean, log_var = diffusion.q_posterior(short, jnp.float32(start), jnp.float32(seen), step)
one, two = jax.random.normal(rng.stream(root, "posterior"), (2, 2_000_000))
before = diffusion.q_sample(short, jnp.float32(start), step - 1, one)
after = jnp.sqrt(1 - short.betas[step]) * before + jnp.sqrt(short.betas[step]) * two
near = np.asarray(before)[np.abs(np.asarray(after) - seen) < 0.02]

x = jnp.linspace(-3, 3, 400)
figure, axis = plt.subplots(figsize=(9, 3.8), layout="constrained")
axis.hist(near, bins=60, density=True, alpha=0.4, label=f"{len(near):,} walkers who came near x_t")
axis.plot(
    x, jnp.exp(jax.vmap(lambda x: gaussian_log_likelihood(x, mean, log_var))(x)), "k", label="q(x_{t−1} | x_t, x₀)"
)
axis.axvline(start, color="C2", ls="--", label="x₀")
axis.axvline(seen, color="C3", ls="--", label="x_t")
axis.set(title=f"Where a walker was before step {step} of 10", xlabel="x_{t−1}")
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
print(f"mean {mean:.4f}, of the walkers {near.mean():.4f}; spread {jnp.exp(log_var / 2):.4f}, {near.std():.4f}")

# %% [markdown]
# ## Section 3: the reverse process, and what it is trained by
#
# The reverse step has the posterior's mean with a predicted $x_0$ in it (`reverse`). How far it is from the posterior
# is a term of the bound, and with $\Sigma = \tilde\beta$ a multiple of the squared error of $\epsilon$;
# $L_\text{simple}$ leaves the factor out:
#
# $$L_{t-1} = \mathrm{KL}\big(q(x_{t-1} \mid x_t, x_0) \,\|\, p_\theta(x_{t-1} \mid x_t)\big) =
# \frac{\beta_t^2}{2 \tilde\beta_t \alpha_t (1 - \bar\alpha_t)} \|\epsilon - \epsilon_\theta\|^2
# \quad \text{(Eq. 5, 12)}, \qquad L_\text{simple} = \|\epsilon - \epsilon_\theta\|^2 \quad \text{(Eq. 14)}$$
#
# Each is a function of one example at one step; `l_simple` is a mean over the dimensions where the paper has the sum,
# and `l_vlb` is in bits a dimension, so that between the two Eq. 12 is divided by $\log 2$. On two small arrays, with a
# prediction that is off by 0.1 everywhere:

# %%
example, noise = jnp.array([0.5, -0.5]), jnp.array([1.0, -2.0])
for t in (1, 10, 100, 999):
    x_t = diffusion.q_sample(linear, example, t, noise)
    belief = diffusion.reverse(linear, noise + 0.1, x_t, t, prediction="epsilon", variance="fixed_small")
    term = diffusion.l_vlb(linear, example, x_t, t, belief.mean, belief.log_var)
    simple = diffusion.l_simple(noise, noise + 0.1)
    factor = linear.betas[t] ** 2 / (2 * linear.posterior_variance[t] * (1 - linear.betas[t]) * linear.noise[t] ** 2)
    print(f"t = {t:3}: L_simple {simple:.4f}, L_t {term:.3e} bits/dim, by Eq. 12 {factor * simple / math.log(2):.3e}")

# %% [markdown]
# Now over all steps, for the best predictor that there can be. The data are eight Gaussians on a ring, whose
# $\mathbb E[\epsilon \mid x_t]$ has a closed form. On the left $L_\text{simple}$: at first the noise cannot be told
# from a mode's own spread; it can where it is wider than a mode but narrower than the ring; then the modes run together
# and it cannot again; at the end $x_t$ is nothing but noise. No network is below this line, so a loss far from 0 need
# not mean that something is wrong. On the right the terms of the bound: the first are by far the largest, twenty of
# them make up six tenths of the sum, and most of the rest is in hundreds of small ones, where the modes run together.

# %%
ring = Mixture.ring(8, radius=2.0, std=0.1)


def points_of(mixture, count):
    """Points of a mixture."""
    mode = jax.random.randint(rng.stream(root, "mode"), (count,), 0, len(mixture.centres))
    return jnp.float32(mixture.centres)[mode] + mixture.std * jax.random.normal(rng.stream(root, "point"), (count, 2))


def best_predictor(centres, std, process=linear):
    """E[ε | x_t] of a mixture as a network would be called: `(x_t [B, 2], time [B]) -> [B, 2]`."""
    signal, noise = (jnp.asarray(table, jnp.float32) for table in (process.signal, process.noise))
    return lambda x_t, time: jax.vmap(lambda x, t: best_epsilon(x, signal[t], noise[t], centres, std))(x_t, time)


points, keys = points_of(ring, 2000), rng.per_example(root, jnp.arange(2000))
steps = np.unique(np.geomspace(1, 1000, 40).astype(int)) - 1
terms = diffusion.bound_terms(
    linear,
    best_predictor(ring.centres, ring.std),
    points,
    keys,
    jnp.asarray(steps),
    variance="fixed_small",
    decoder=gaussian_log_likelihood,
)
simple, bits = jnp.mean(terms["simple"], axis=0), jnp.mean(terms["vlb"], axis=0)
factor = linear.betas**2 / (2 * linear.posterior_variance.clip(1e-12) * (1 - linear.betas) * linear.noise**2)
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8))
axes[0].plot(steps, simple, label="the best predictor")
axes[0].axhline(1, color="gray", ls="--", label="a prediction of 0")
axes[0].set(title="L_simple by step", xlabel="t", ylim=(0, 1.1))
axes[1].loglog(steps[1:] + 1, bits[1:], "o", ms=4, label="L_t, KL of both steps")
axes[1].loglog(steps[1:] + 1, (factor[steps] * simple / np.log(2))[1:], "k", lw=1, label="Eq. 12 from L_simple")
axes[1].set(title="Terms of the bound (bits/dim)", xlabel="t + 1")
for axis in axes:
    axis.legend()
plt.show()

# %% [markdown]
# All terms together bound $-\log q(x_0)$ (Eq. 3 and 5). With the best predictor what is left between them is the
# price of reverse steps that are Gaussians of a fixed variance: it falls with their number (the bars are two standard
# errors, of 2,000 points with one $x_t$ a step). For points the last step's likelihood is a density, and
# $\Sigma = \beta$ at every step.

# %%
density = ring.log_density(np.asarray(points))
counts, gaps, errors = [10, 30, 100, 300], [], []
for count in counts:
    process = diffusion.make_process(diffusion.cosine_betas(count))
    predict = best_predictor(ring.centres, ring.std, process)
    options = {"chunk_size": 10, "variance": "beta", "decoder": gaussian_log_likelihood}
    whole = diffusion.variational_bound(process, predict, points, keys, **options)["total"]
    gap = 2 * np.log(2) * np.asarray(whole) + density  # Bits a dimension to nats a point.
    gaps.append(gap.mean())
    errors.append(2 * gap.std() / np.sqrt(len(gap)))
figure, axis = plt.subplots(figsize=(6, 3.6))
axis.errorbar(counts, gaps, errors, fmt="o-", capsize=3)
axis.axhline(0, color="k", ls="--")
axis.set(title="How far the bound is above −log q(x₀)", xlabel="T, steps of the process", ylabel="nats", xscale="log")
plt.show()

# %% [markdown]
# ## Sampling: ancestral steps and DDIM
#
# $$x_{t-1} = \mu_\theta(x_t) + \sigma_t z \quad \text{(DDPM, Algorithm 2)} \qquad
# x_{t-1} = \sqrt{\bar\alpha_{t-1}}\, \hat x_0 + \sqrt{1 - \bar\alpha_{t-1} - \sigma_t^2}\; \hat\epsilon + \sigma_t z
# \quad \text{(DDIM, Eq. 12)}$$
#
# "Denoising Diffusion Implicit Models" ([arXiv:2010.02502](https://arxiv.org/abs/2010.02502)) has
# $\sigma_t = \eta \sqrt{\tilde\beta_t}$: no noise at all with $\eta = 0$, so that the path is smooth and the end
# depends on the start alone. A sampler runs all steps of the process it is given; fewer steps are another process,
# `space(process, spaced_steps(...))`, with the same $\bar\alpha$ at the steps that are kept.

# %%
num_steps = 20  # @param {"type": "slider", "min": 2, "max": 200, "step": 1}

predict = best_predictor(ring.centres, ring.std)
fewer_keys = keys[:1000]
beginning = diffusion.start_noise(fewer_keys, (2,))
kinds = {"ancestral": diffusion.ancestral, "DDIM, η = 0": diffusion.ddim}


def chain(make, count):
    """The points at the start and after every step, [S + 1, B, 2]."""
    spaced = diffusion.space(linear, diffusion.spaced_steps(linear, count, "trailing"))
    kept = diffusion.run(make(spaced, predict), beginning, fewer_keys, intermediates=True)[1]
    return np.concatenate([beginning[None], kept[0]])


figure, axes = plt.subplots(1, 3, figsize=(14, 4.3))
for axis, (name, make) in zip(axes, kinds.items(), strict=False):
    xs = chain(make, num_steps)
    axis.scatter(*xs[-1].T, s=2, color="gray", alpha=0.5)
    axis.plot(*xs[:, :12].transpose(2, 0, 1), lw=1)
    axis.plot(*ring.centres.T, "k+", ms=9)
    axis.set(title=f"{name}: 12 paths of {num_steps} steps", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
counts = [2, 5, 10, 30, 100]
for name, make in kinds.items():
    ends = [chain(make, count)[-1] for count in counts]
    apart = [np.linalg.norm(x[:, None] - ring.centres, axis=-1).min(axis=1) for x in ends]
    axes[2].semilogx(counts, [np.mean(d < 3 * ring.std) for d in apart], "o-", label=name)
axes[2].axhline(1 - math.exp(-4.5), color="gray", ls="--", label="the data")
axes[2].set(title="Share of samples within 3σ of a mode", xlabel="steps", ylim=(0, 1.05))
axes[2].legend(loc="lower right")
plt.show()

# %% [markdown]
# ## Guidance
#
# To ask for a label $y$, the score is moved along the gradient of a classifier ("Diffusion Models Beat GANs",
# [arXiv:2105.05233](https://arxiv.org/abs/2105.05233), Eq. 14), or without one, by the difference that the label
# makes ("Classifier-Free Diffusion Guidance", [arXiv:2207.12598](https://arxiv.org/abs/2207.12598), Eq. 6, whose weight
# is $w = s - 1$):
#
# $$\hat\epsilon = \epsilon_u - s \sqrt{1 - \bar\alpha_t}\, \nabla \log p(y \mid x_t) \qquad \text{or} \qquad
# \hat\epsilon = \epsilon_u + s\, (\epsilon_c - \epsilon_u)$$
#
# On three Gaussians that overlap everything is exact: $\epsilon_u$ is of the whole mixture, $\epsilon_c$ of the first
# Gaussian alone, and the classifier is Bayes' rule. Then both are the same by the definition of a score, and so are
# the samples. $s = 0$ draws from the mixture, $s = 1$ from the Gaussian; above 1 the samples leave the region where the
# Gaussian overlaps the other two.

# %%
scale = 4.0  # @param {"type": "slider", "min": 0, "max": 10, "step": 0.5}

three, spread = Mixture.ring(3, radius=1.0, std=0.6).centres, 0.6
everything, first = best_predictor(three, spread), best_predictor(three[:1], spread)
few = diffusion.space(linear, diffusion.spaced_steps(linear, 50, "trailing"))


def labelled(x_t, time, label):
    """A network with labels: 0 is the first Gaussian, 1 stands for none."""
    return jnp.where(label[:, None] == 0, first(x_t, time), everything(x_t, time))


def log_classifier(x_t, time):
    """The logarithm of p(y = 0 | x_t), by Bayes' rule."""
    signal, noise = (jnp.asarray(table, jnp.float32)[time] for table in (linear.signal, linear.noise))
    squares = jnp.sum((x_t[:, None] - signal[:, None, None] * jnp.float32(three)) ** 2, axis=-1)
    return jax.nn.log_softmax(-0.5 * squares / (signal**2 * spread**2 + noise**2)[:, None], axis=-1)[:, 0]


print("combine(ε_c, ε_u, 2):", diffusion.combine(jnp.array([1.0, 0.0]), jnp.array([0.0, 0.5]), 2.0))
figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), sharey=True)
for axis, s in zip(axes, (0.0, 1.0, 2.0, scale), strict=True):
    free = diffusion.classifier_free(labelled, jnp.zeros(1000, int), 1, s)
    samples = diffusion.sample(diffusion.ddim(few, free), fewer_keys, (2,))
    guide = diffusion.shift_epsilon(log_classifier, s)
    guided = diffusion.sample(diffusion.ddim(few, everything, guide=guide), fewer_keys, (2,))
    for centre, color in zip(three, ("C0", "C1", "C2"), strict=True):
        axis.add_patch(plt.Circle(centre, 2 * spread, color=color, alpha=0.15))
    axis.scatter(*samples.T, s=2, color="k")
    axis.set(title=f"s = {s:g}", xlim=(-3, 4), ylim=(-3.2, 3.2), aspect="equal")
    print(f"s = {s:g}: the samples of both guidances differ by at most {jnp.max(jnp.abs(samples - guided)):.1e}")
plt.show()

# %% [markdown]
# ## Section 4: a run
#
# The same ring with a small network in the place of the closed form, trained for some seconds; ε is predicted, and
# the loss is $L_\text{simple}$. On a terminal: `python -m experiments.ddpm_toy`.

# %%
config = ddpm_toy.get_config().lock()
config.data.std = 0.1
config.data.num_test = 1000
config.sampler.name, config.sampler.num_steps = "ddim", 12
config.train.batch_size = 256
config.train.duration = config.train.eval_every = config.train.checkpoint_every = "1200 steps"
folder = pathlib.Path(tempfile.mkdtemp())
outcome = loop.train(ddpm_toy.build(config), config, folder)
for name in ("l_simple", "best_l_simple", "above_best_percent", "modes_covered", "high_quality"):
    print(f"{name:20} {outcome.results[name]:.4f}")

figure, axes = plt.subplots(1, 2, figsize=(14, 3.2), width_ratios=(3.4, 1), layout="constrained")
for axis, name in zip(axes, ("chain", "loss_by_step"), strict=True):
    axis.imshow(plt.imread(folder / "pictures" / f"{name}.png"))
    axis.axis("off")
plt.show()

# %% [markdown]
# The pictures are two of those that the run leaves in its workdir: how points come out of the noise by the sampler of
# its config, and the loss by step. Another sampler, or another number of steps, is a change of the config that
# `gen_jax.load` takes when it reads the run back; it refuses to change what the run was trained with.

# %%
sampler = "ddim"  # @param ["ddim", "ancestral", "dpm_solver"]
num_steps = 20  # @param {"type": "slider", "min": 2, "max": 200, "step": 1}
seed = 0  # @param {"type": "slider", "min": 0, "max": 20, "step": 1}

run = gen_jax.load(folder, {"sampler.name": sampler, "sampler.num_steps": num_steps})
samples = run.sample(seed=seed, num=1000)
figure, axis = plt.subplots(figsize=(4.6, 4.6))
axis.scatter(*samples.T, s=3, alpha=0.6)
axis.plot(*ring.centres.T, "k+", ms=9)
axis.set(title=f"{sampler}, {num_steps} steps, seed {seed}", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
plt.show()

# %% [markdown]
# ## What this leaves out
#
# - **Images.** A U-Net on Fashion-MNIST takes twenty minutes and more on a CPU: `python -m experiments.ddpm`. What a
#   network makes of 784 pixels cannot be held against a closed form; the README has the distances measured.
# - **The best predictor knows the answer.** It is made of the data's own density. That a few steps of DDIM are enough
#   here is about eight points in the plane with an exact score, not about a learned one.
# - **Guidance is exact here and nowhere else.** A learned classifier's gradient is not the difference of two scores,
#   and the two ways to guide then differ. Neither draws from $p(x)\, p(y \mid x)^s$ for $s > 1$, as often said: the
#   guided scores of different $t$ do not belong to one forward process.
# - Not explained: DPM-Solver++ of second order, which is among the run's samplers as `dpm_solver`. Not shown: learned
#   variances and L_hybrid, importance sampling of steps, v-prediction, inversion, inpainting and the density of the
#   probability-flow ODE. They are in `gen_jax.families.diffusion`.
