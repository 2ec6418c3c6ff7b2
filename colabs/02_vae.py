# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gen-jax/gen_jax/blob/main/colabs/02_vae.ipynb)
#
# # The variational autoencoder
#
# The story of ["Auto-Encoding Variational Bayes"](https://arxiv.org/abs/1312.6114), Kingma and Welling, 2014, in the
# order of its sections, and then of the bound of ["Importance Weighted
# Autoencoders"](https://arxiv.org/abs/1509.00519), Burda et al., 2016. Every equation is called as the function of
# `gen_jax` that implements it, where the answer is known; a model with a code of two numbers is trained, read back and
# explored.

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
import functools
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gen_jax
from experiments import vae
from gen_jax import rng, runtime
from gen_jax.data import load_images
from gen_jax.families.vae import elbo, elbo_monte_carlo, iwae_bound, log_importance_weight, objectives, sampling
from gen_jax.families.vae.models import reparameterize
from gen_jax.ops.distributions import gaussian_kl, gaussian_log_likelihood
from gen_jax.train import loop

runtime.configure()
root = rng.root(0)  # Every key below is this one, folded with a name: nothing is drawn twice from one key.

# %% [markdown]
# ## 2.2 The variational bound
#
# A code $z \sim p(z)$ and an image $x \sim p(x|z)$: the likelihood $\log p(x) = \log \int p(x|z)\,p(z)\,dz$ has no
# closed form where $p(x|z)$ is a network. For any $q(z|x)$,
#
# $$\log p(x) = \mathcal L(q; x) + \mathrm{KL}(q(z|x) \,\|\, p(z|x)), \qquad
# \mathcal L = \mathbb E_q[\log p(x|z)] - \mathrm{KL}(q(z|x) \,\|\, p(z)) \tag{Eq. 1, 3}$$
#
# so $\mathcal L$, the ELBO, is never above $\log p(x)$, and equal to it where $q$ is the true posterior. `elbo` takes
# the log-likelihoods of $x$ under sampled codes, here two, and the mean and the log-variance of $q$:

# %%
bound, terms = elbo(jnp.array([-3.0, -5.0]), jnp.array([0.8, -0.5]), jnp.array([-1.0, 0.4]))
print(f"mean log p(x|z) {terms['log_likelihood']:.4f} - KL {terms['kl']:.4f} = {bound:.4f} nats")

# %% [markdown]
# In one case all of it is known: $p(z) = \mathcal N(0, 1)$, $p(x|z) = \mathcal N(wz, s^2)$. Then
#
# $$p(x) = \mathcal N(0, w^2 + s^2), \qquad
# p(z|x) = \mathcal N\!\left(\frac{wx}{w^2 + s^2}, \frac{s^2}{w^2 + s^2}\right), \qquad
# \mathbb E_q[\log p(x|z)] = \log p(x|z = \mu) - \frac{w^2 \sigma^2}{2 s^2}$$
#
# for $q = \mathcal N(\mu, \sigma^2)$. Below, the bound of one $x$ for many $q$, with that expectation in the place of
# sampled codes:

# %%
w, s, x = 1.5, 0.7, jnp.array([2.0])
log_px = float(gaussian_log_likelihood(x, jnp.zeros(1), jnp.log(jnp.full(1, w**2 + s**2))))
true_mean, true_log_var = w * 2.0 / (w**2 + s**2), np.log(s**2 / (w**2 + s**2))


def log_px_z(z):
    """The log-likelihood of x in the linear model, nats."""
    return gaussian_log_likelihood(x, w * z, jnp.full(1, 2 * jnp.log(s)))


def bound_of(mean, log_var):
    """The ELBO of x for q = N(mean, exp(log_var))."""
    expected = log_px_z(mean[None]) - 0.5 * w**2 * jnp.exp(log_var) / s**2
    return elbo(expected[None], mean[None], log_var[None])[0]


means, log_vars = jnp.linspace(-0.5, 3.0, 60), jnp.linspace(-4.5, 1.0, 60)
over_grid = jax.jit(jax.vmap(jax.vmap(bound_of, in_axes=(0, None)), in_axes=(None, 0)))
bounds = np.asarray(over_grid(means, log_vars))

figure, axes = plt.subplots(figsize=(6.5, 4.2))
levels = [-20, -10, -5, -2, -1, -0.5, -0.2, -0.05, 0]
colors = plt.colormaps["viridis"](np.linspace(0, 1, len(levels)))
contours = axes.contourf(means, log_vars, bounds - log_px, levels, colors=colors, extend="min")
figure.colorbar(contours, label="ELBO − log p(x), nats")
axes.plot(true_mean, true_log_var, "r*", markersize=14, label="the true posterior")
axes.set(xlabel="mean of q", ylabel="log-variance of q", title=f"log p(x) = {log_px:.3f} nats bounds them all")
axes.legend(loc="lower left")
plt.show()
print(f"largest ELBO on the grid: {bounds.max():.3f}, log p(x): {log_px:.3f}")

# %% [markdown]
# ## 2.3 Two estimators of the bound
#
# With every term sampled (Eq. 6), or with the divergence in closed form (Eq. 7; Appendix B):
#
# $$\mathrm{KL}(\mathcal N(\mu, \mathrm{diag}\,\sigma^2) \,\|\, \mathcal N(0, I))
# = \tfrac12 \sum_j \left(\mu_j^2 + \sigma_j^2 - 1 - \log \sigma_j^2\right)$$
#
# `gaussian_kl` is the closed form. Its Monte-Carlo estimate, the mean of $\log q(z) - \log p(z)$ over samples of $q$,
# comes to it with more samples, as it should:

# %%
mean, log_var = jnp.array([0.8, -0.5]), jnp.array([-1.0, 0.4])
exact = float(gaussian_kl(mean, log_var))

keys = rng.per_example(rng.stream(root, "kl"), jnp.arange(20_000))
z = jax.vmap(reparameterize, in_axes=(0, None, None))(keys, mean, log_var)
log_qz = jax.vmap(gaussian_log_likelihood, in_axes=(0, None, None))(z, mean, log_var)
log_pz = jax.vmap(gaussian_log_likelihood, in_axes=(0, None, None))(z, jnp.zeros(2), jnp.zeros(2))

count = np.arange(1, len(keys) + 1)
terms = np.asarray(log_qz - log_pz, np.float64)
running = np.cumsum(terms) / count
error = terms.std() / np.sqrt(count)
figure, axes = plt.subplots(figsize=(6.5, 3.5))
axes.plot(count, running, label="Monte-Carlo estimate")
axes.fill_between(count, exact - 2 * error, exact + 2 * error, alpha=0.2, label="closed form ± 2 standard errors")
axes.axhline(exact, color="black", linewidth=1)
axes.set(xscale="log", xlim=(10, None), ylim=(exact - 0.7, exact + 0.7), xlabel="samples", ylabel="KL, nats")
axes.legend()
plt.show()
print(f"closed form {exact:.4f}, {len(keys)} samples {running[-1]:.4f} ± {error[-1]:.4f} nats")

# %% [markdown]
# The same two as bounds, `elbo` and `elbo_monte_carlo`, on the same samples of a log-likelihood. Both are unbiased;
# where $q$ comes near the posterior the second may even vary less, since what it samples is then almost constant.

# %%
q_mean, q_log_var = jnp.array([true_mean + 0.1]), jnp.array([true_log_var + 0.2])
keys = rng.per_example(rng.stream(root, "estimators"), jnp.arange(5000))
z = jax.vmap(reparameterize, in_axes=(0, None, None))(keys, q_mean, q_log_var)
likelihoods = jax.vmap(log_px_z)(z)[:, None]  # [5000, L = 1]
log_qz = jax.vmap(gaussian_log_likelihood, in_axes=(0, None, None))(z, q_mean, q_log_var)[:, None]
log_pz = jax.vmap(gaussian_log_likelihood, in_axes=(0, None, None))(z, jnp.zeros(1), jnp.zeros(1))[:, None]

closed = jax.vmap(elbo, in_axes=(0, None, None))(likelihoods, q_mean, q_log_var)[0]
sampled = jax.vmap(elbo_monte_carlo)(likelihoods, log_pz, log_qz)[0]
for name, values in (("elbo", closed), ("elbo_monte_carlo", sampled)):
    print(f"{name:17} mean {jnp.mean(values):.3f}  standard deviation {jnp.std(values):.3f}  (log p(x) {log_px:.3f})")

# %% [markdown]
# ## 2.4 The reparameterisation trick
#
# The bound is an expectation under $q_\phi$, and its gradient in $\phi$ is wanted. The score-function estimator needs
# only $\log q_\phi$, the reparameterised one moves the samples themselves, $z = \mu + \sigma \epsilon$ with
# $\epsilon \sim \mathcal N(0, I)$:
#
# $$\nabla_\phi\, \mathbb E_{q_\phi}[f(z)] = \mathbb E_{q_\phi}[f(z)\, \nabla_\phi \log q_\phi(z)]
# = \mathbb E_{\epsilon}[\nabla_\phi f(\mu + \sigma \epsilon)]$$
#
# Both are right on average. One sample of each, 4,000 times, for $f(z) = \log p(x|z)$ and the derivative in $\mu$,
# which is known here:

# %%
mean, log_var = jnp.array([0.5]), jnp.array([-1.0])
keys = rng.per_example(rng.stream(root, "gradients"), jnp.arange(4000))


def moved(mean, key):
    """One value of f, at a sample that moves with the mean of q."""
    return log_px_z(reparameterize(key, mean, log_var))


def scored(mean, key):
    """One value of f, at a sample that stands still, times the log-density whose gradient is the score."""
    z = jax.lax.stop_gradient(reparameterize(key, mean, log_var))
    return log_px_z(z) * gaussian_log_likelihood(z, mean, log_var)


pathwise = np.asarray(jax.vmap(jax.grad(moved), in_axes=(None, 0))(mean, keys))[:, 0]
score = np.asarray(jax.vmap(jax.grad(scored), in_axes=(None, 0))(mean, keys))[:, 0]
known = w * (2.0 - w * 0.5) / s**2  # d/dμ E[−(x − w z)² / 2 s²] = w (x − w μ) / s²

figure, axes = plt.subplots(figsize=(6.5, 3.5))
bins = np.linspace(-10, 30, 81)  # The score's estimates reach further on both sides.
axes.hist(score, bins, alpha=0.6, label=f"score function: {score.mean():.2f} ± {score.std():.1f}")
axes.hist(pathwise, bins, alpha=0.6, label=f"reparameterised: {pathwise.mean():.2f} ± {pathwise.std():.1f}")
axes.axvline(known, color="black", linewidth=1, label=f"the derivative: {known:.2f}")
axes.set(
    xlabel="one sample's estimate of the derivative in μ", ylabel="how often", title="Mean ± standard deviation of each"
)
axes.legend()
plt.show()

# %% [markdown]
# ## 3 and 5. A variational autoencoder
#
# $q(z|x)$ and $p(x|z)$ are networks, the pixels are binary, and the code has two numbers so that it can be seen.
# `--preset=two_d` is the paper's network, one hidden layer of 500 tanh units, trained for 80 epochs on the images of
# Fashion-MNIST that come with the package, and reaches −264.7 nats. Here are two smaller layers of another kind and
# five epochs; what they reach is printed.

# %%
config = vae.get_config("two_d").lock()
config.model.hidden, config.model.activation = (256, 64), "gelu"
config.optim.learning_rate = 6e-3
config.train.duration = config.train.eval_every = config.train.checkpoint_every = "5 epochs"
workdir = tempfile.mkdtemp()
outcome = loop.train(vae.build(config), config, workdir)
print({name: round(value, 2) for name, value in outcome.results.items()})

# %%
run = gen_jax.load(workdir)
params, test = run.state.eval_params, load_images("fashion_mnist_10k", "test")
model = vae.build_model(run.config, run.experiment.test_source.example_shape)
images = jnp.asarray(test.images / 255.0, jnp.float32)

encode = jax.jit(lambda x: model.apply({"params": params}, x, method="encode"))
mean, log_var = encode(images)
figure, axes = plt.subplots(figsize=(6.5, 5.5))
points = axes.scatter(*mean.T, c=test.labels, cmap="tab10", s=8)
figure.colorbar(points, label="class")
ring = np.linspace(0, 2 * np.pi, 100)
axes.plot(2 * np.cos(ring), 2 * np.sin(ring), "k--", linewidth=1, label="2 standard deviations of p(z)")
for i in range(12):  # The posteriors of some images, at two standard deviations.
    spread = 2 * np.exp(0.5 * np.asarray(log_var[i]))
    axes.plot(
        mean[i, 0] + spread[0] * np.cos(ring), mean[i, 1] + spread[1] * np.sin(ring), color="black", linewidth=0.7
    )
axes.set(xlabel="z₁", ylabel="z₂", title="Means of q(z|x), and some q(z|x)", aspect="equal")
axes.legend(loc="lower left", fontsize=8)
plt.show()

# %% [markdown]
# ## The latent manifold (Appendix A of the paper)
#
# A grid of codes, at equally spaced quantiles of the prior in both directions. In the place of each stands the mean of
# $p(x|z)$, the image that the decoder makes of it.

# %%
side = 15  # @param {"type": "slider", "min": 5, "max": 25, "step": 1}

codes = jnp.asarray(sampling.manifold_codes(side), jnp.float32)
decoded = np.asarray(sampling.decode_mean(params, codes, model=model)).reshape(side, side, 28, 28)
figure, axes = plt.subplots(figsize=(7, 7))
axes.imshow(decoded.transpose(0, 2, 1, 3).reshape(side * 28, side * 28), cmap="gray", vmin=0, vmax=1)
axes.set(xticks=[], yticks=[], xlabel="z₁ grows →", ylabel="z₂ grows ↑")
plt.show()

# %% [markdown]
# ## The importance-weighted bound
#
# Burda et al. average the weights before the logarithm (their Eq. 8):
#
# $$\mathcal L_k = \mathbb E\left[\log \frac1k \sum_{i=1}^k \frac{p(x, z_i)}{q(z_i|x)}\right], \qquad
# \mathcal L_1 = \mathcal L \;\le\; \mathcal L_k \;\le\; \mathcal L_{k+1} \;\le\; \log p(x)$$
#
# For a poor $q$ in the linear model, where $\log p(x)$ is known:

# %%
q_mean, q_log_var = jnp.array([0.6]), jnp.array([-0.6])


def log_weight(key):
    """The log-weight of one code of the poor q."""
    z = reparameterize(key, q_mean, q_log_var)
    log_pz = gaussian_log_likelihood(z, jnp.zeros(1), jnp.zeros(1))
    return log_importance_weight(log_px_z(z), log_pz, gaussian_log_likelihood(z, q_mean, q_log_var))


@functools.partial(jax.jit, static_argnums=1)
def estimates_of(log_w, ks):
    """For every k as many estimates of L_k as these log-weights make, each from k of them."""
    return [jax.vmap(iwae_bound)(log_w.reshape(-1, k)) for k in ks]


log_w = jax.jit(jax.vmap(log_weight))(rng.per_example(rng.stream(root, "weights"), jnp.arange(2**16)))
ks = tuple(2**i for i in range(11))
estimates = estimates_of(log_w, ks)

figure, axes = plt.subplots(figsize=(6.5, 3.5))
errors = [2 * float(jnp.std(e)) / len(e) ** 0.5 for e in estimates]
axes.errorbar(ks, [float(jnp.mean(e)) for e in estimates], errors, marker="o", label="L_k ± 2 standard errors")
axes.axhline(log_px, color="black", linewidth=1, label="log p(x)")
axes.set(xscale="log", xlabel="k", ylabel="nats", title="More samples, a tighter bound")
axes.legend()
plt.show()

# %% [markdown]
# ## One image, one code, one bound
#
# Choose a test image and a place in the plane. Beside the image stand its reconstruction and what that place decodes
# to; to the right is $\mathcal L_k$ of the image, by the trained networks. It begins at the ELBO and comes near
# $\log p(x)$, so that it rises by about $\mathrm{KL}(q(z|x) \,\|\, p(z|x))$, the gap of Section 2.2.

# %%
number = 3  # @param {"type": "slider", "min": 0, "max": 999, "step": 1}
z1 = 1.0  # @param {"type": "slider", "min": -3, "max": 3, "step": 0.1}
z2 = 0.5  # @param {"type": "slider", "min": -3, "max": 3, "step": 0.1}

infer = jax.jit(functools.partial(objectives.infer, model=model, num_samples=4096, dropout=False))
key = rng.stream(root, "explore")
binary = objectives.observe(rng.stream(key, "observe"), jnp.asarray(test.images[number]), "bernoulli", "dynamic")[None]
scores = infer(params, key, binary, jnp.arange(1))[2:]  # log p(x|z), log p(z) and log q(z|x).
ks = tuple(4**i for i in range(7))
bounds = [np.mean(estimates) for estimates in estimates_of(log_importance_weight(*scores)[0], ks)]

place = sampling.decode_mean(params, jnp.array([[z1, z2]]), model=model)
shown = {
    "test image": images[number],
    "seen, binary": binary[0],
    "reconstruction": sampling.reconstruct(params, binary, model=model)[0],
    f"z = ({z1:g}, {z2:g})": place[0],
}
figure, axes = plt.subplots(1, 5, figsize=(13, 2.8), width_ratios=(1, 1, 1, 1, 1.8), layout="constrained")
for panel, (title, image) in zip(axes, shown.items(), strict=False):
    panel.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    panel.set(title=title, xticks=[], yticks=[])
axes[4].plot(ks, bounds, "o-")
axes[4].set(xscale="log", xlabel="k", title="L_k of this image, nats")
plt.show()

# %% [markdown]
# ## What this leaves out
#
# - Five epochs and two numbers: the default run has a code of 20 and reaches −241.8 nats; `conv` is the convolutional
#   model.
# - The images are made binary anew at every step, so the numbers are nats of binary pixels and compare with no one's
#   nats of grey levels. Gaussian and discretised logistic likelihoods are there: `config.model.likelihood`.
# - The full variational treatment of the paper's Appendix F, with a posterior over the weights as well, is not
#   implemented; nor are the paper's other data, Frey faces, and its comparison with wake-sleep and Monte-Carlo EM.
# - Training on the importance-weighted bound: `config.objective.bound="iwae"`. Here it only judges.
# - A 2-D code shows a manifold, not what a good model's samples look like, and the samples of a VAE of this kind are
#   smooth: the pictures are means of $p(x|z)$, not draws.
