# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gen-jax/gen_jax/blob/main/colabs/01_autoencoder.ipynb)
#
# # Autoencoders: deep, denoising, contractive, sparse
#
# An encoder $f$ makes of an image $x$ a code $z$, a decoder $g$ makes of it an image $\hat x$ again. What keeps the
# code from being the image itself is the story of four papers: it is small (Hinton and Salakhutdinov, 2006), it has to
# undo noise (Vincent et al., 2008), it may not be sensitive (Rifai et al., 2011), or few of its numbers may differ from
# zero (Makhzani and Frey, 2013). Every section has the equation, its function in `gen_jax` called on small arrays, and
# a run of seconds.

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
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gen_jax
from experiments import autoencoder, contractive_autoencoder, denoising_autoencoder, sparse_autoencoder
from gen_jax import config as config_lib
from gen_jax import rng, runtime
from gen_jax.data import load_images
from gen_jax.eval import pca
from gen_jax.families.autoencoder import MLPAutoencoder, corruption, losses, sampling
from gen_jax.train import loop

runtime.configure()
root = rng.root(0)  # Every key below is this one, folded with a name.
train, test = (load_images("fashion_mnist_10k", split) for split in ("train", "test"))
train_images, images = (np.float32(s.images) / 255 for s in (train, test))  # [N, 28, 28, 1] in [0, 1]


def trained(module, preset, duration, **values):
    """Trains an experiment for a short while, and reads it back from its workdir; `a__b=c` sets config.a.b."""
    config = module.get_config(preset)
    config.train.duration = config.train.eval_every = config.train.checkpoint_every = duration
    config.eval.probe_examples = 0  # No linear classifier on the codes: it takes longer than the training.
    for key, value in values.items():
        config_lib.set_value(config, key.replace("__", "."), value)
    workdir = tempfile.mkdtemp()
    loop.train(module.build(config), config, workdir)
    return gen_jax.load(workdir)


def show(rows, title):
    """Draws rows of images, each with its name."""
    axes = plt.subplots(figsize=(9, 0.95 * len(rows) + 0.3), layout="constrained")[1]
    sheet = np.concatenate([np.concatenate(list(np.asarray(row)[..., 0]), axis=1) for row in rows.values()])
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1)
    axes.set(title=title, xticks=[], yticks=14 + 28 * np.arange(len(rows)), yticklabels=list(rows))
    plt.show()


# %% [markdown]
# ## 1. A small code (Hinton and Salakhutdinov, 2006)
#
# The error of a reconstruction is a sum over the pixels of an image. The paper trains on the cross-entropy, where the
# decoder gives logits $\ell$, and reports the squared error:
#
# $$\sum_i (x_i - \hat x_i)^2 \qquad\text{or}\qquad
# -\sum_i \left[x_i \log \sigma(\ell_i) + (1 - x_i) \log(1 - \sigma(\ell_i))\right]$$

# %%
x, logits = jnp.array([0.0, 1.0, 0.5]), jnp.array([-2.0, 1.0, 0.0])
print("squared error", losses.reconstruction_error(x, jax.nn.sigmoid(logits)))
print("cross-entropy", losses.reconstruction_error(x, logits, "cross_entropy"), "nats")

# %% [markdown]
# What can a linear code of $q$ numbers do? With the squared error its best is known: the projection onto the first $q$
# principal components (Pearson, 1901; Baldi and Hornik, 1989). A linear autoencoder with tied weights,
# $\hat x = W W^\top x$ and biases, has to find that subspace by gradient descent. It does, though not the components
# themselves: any basis of the subspace is as good. The cosines of the principal angles between the two subspaces are 1
# where they share a direction.

# %%
linear_run = trained(autoencoder, "linear", "6 epochs", model__latent_dim=8, optim__learning_rate=5e-3)
linear = autoencoder.build_model(linear_run.config, images.shape[1:])
best = pca.fit_pca(train_images, 8)

basis, _ = np.linalg.qr(np.asarray(linear_run.state.eval_params["encoder_0"]["kernel"], np.float64))
cosines = np.linalg.svd(best.components @ basis, compute_uv=False)
linear_images = np.asarray(sampling.reconstruct(linear_run.state.eval_params, images, model=linear))
linear_error = np.mean(np.sum((linear_images - images) ** 2, axis=(1, 2, 3)))
print(
    f"test squared error an image: linear {linear_error:.2f}, PCA {np.mean(pca.reconstruction_error(best, images)):.2f}"
)
print("cosines of the principal angles:", np.round(cosines, 4))
show({"image": images[:12], "linear": linear_images[:12], "PCA": pca.reconstruct(best, images[:12])}, "8 numbers")

# %% [markdown]
# Layers with nonlinearities between them can bend the subspace. The paper's picture: the test set in a code of two
# numbers, beside the first two principal components; colours are classes.

# %%
deep_run = trained(autoencoder, "two_d", "4 epochs", model__hidden=(128, 32), optim__learning_rate=5e-3)
deep = autoencoder.build_model(deep_run.config, images.shape[1:])
plane = pca.fit_pca(train_images, 2)
deep_images = np.asarray(sampling.reconstruct(deep_run.state.eval_params, images, model=deep))
errors = np.sum((deep_images - images) ** 2, axis=(1, 2, 3)).mean(), pca.reconstruction_error(plane, images).mean()

codes = sampling.encode(deep_run.state.eval_params, images, model=deep), pca.encode(plane, images)
figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
for axes, code, name, error in zip(panels, codes, ("two numbers", "two components"), errors, strict=True):
    axes.scatter(*np.asarray(code).T, c=test.labels, cmap="tab10", s=6)
    axes.set(title=f"{name}: squared error {error:.1f} an image", xlabel="z₁", ylabel="z₂")
plt.show()

# %% [markdown]
# ## 2. A code that undoes noise (Vincent et al., 2008)
#
# The input is corrupted, $\tilde x \sim q(\tilde x|x)$, and the clean image is wanted back (Eq. 5), so that to copy the
# input is not the best answer, even with a code larger than the image:
#
# $$\mathbb E_{\tilde x \sim q(\tilde x|x)}\left[L(x, g(f(\tilde x)))\right]$$

# %%
kind = "gaussian"  # @param ["gaussian", "masking", "salt_and_pepper"]
level = 0.5  # @param {"type": "slider", "min": 0, "max": 1, "step": 0.05}

keys = rng.per_example(rng.stream(root, "noise"), jnp.arange(12))
noisy = jax.vmap(lambda key, x: corruption.corrupt(key, x, kind, level))(keys, jnp.asarray(images[:12]))
show({"x": images[:12], "x̃": np.clip(noisy, 0, 1)}, f"{kind}, {level:g}")

# %% [markdown]
# Trained on Gaussian noise of half the grey scale, against the best linear map from $\tilde x$ to $x$, which knows the
# mean and the covariance of the images and of the noise:

# %%
denoising_run = trained(
    denoising_autoencoder, "default", "4 epochs", model__hidden=(), model__latent_dim=400, optim__learning_rate=5e-3
)
denoiser = denoising_autoencoder.build_model(denoising_run.config, images.shape[1:])
params = denoising_run.state.eval_params
keys = rng.per_example(rng.stream(root, "test noise"), jnp.arange(len(images)))
noisy = np.asarray(jax.vmap(lambda key, x: corruption.gaussian_corruption(key, x, 0.5))(keys, jnp.asarray(images)))
gain, offset, variance = corruption.conditional_moments(train_images, "gaussian", 0.5)
linear_map = pca.linear_denoiser(train_images, gain, offset, np.mean(variance, axis=0))
cleaned = {
    "x̃": noisy,
    "linear": pca.denoise(linear_map, noisy),
    "network": np.asarray(sampling.reconstruct(params, noisy, model=denoiser)),
}
for name, found in cleaned.items():
    print(f"{name:8} squared error {np.sum((found - images) ** 2, axis=(1, 2, 3)).mean():6.1f} an image")
show({"x": images[:12]} | {name: np.clip(found[:12], 0, 1) for name, found in cleaned.items()}, "Noise, undone")

# %% [markdown]
# ## 3. A code that is not sensitive (Rifai et al., 2011)
#
# The penalty is the squared Frobenius norm of the encoder's Jacobian (Eq. 1). For one sigmoid layer it has a closed
# form, for any other encoder the exact Jacobian is dear and Hutchinson's estimate is unbiased:
#
# $$\|J_f(x)\|_F^2 = \sum_{ij} \left(\frac{\partial f_j}{\partial x_i}\right)^2
# = \sum_j \left[z_j (1 - z_j)\right]^2 \sum_i W_{ij}^2
# = \mathbb E_{v \sim U\{-1, 1\}^d}\left[\|J^\top v\|^2\right]$$

# %%
kernel = 0.3 * jax.random.normal(rng.stream(root, "kernel"), (20, 12))
x = jax.random.uniform(rng.stream(root, "x"), (20,))


def layer(x):
    """One sigmoid layer of 12 units."""
    return jax.nn.sigmoid(x @ kernel)


exact = losses.contractive_penalty(layer, x)
closed = losses.sigmoid_contractive_penalty(layer(x), kernel)
print(f"by automatic differentiation {exact:.6f}, in closed form {closed:.6f}")

keys = rng.per_example(rng.stream(root, "probes"), jnp.arange(500 * 64))
single = np.asarray(jax.vmap(lambda key: losses.hutchinson_contractive_penalty(layer, key, x))(keys))
counts = [1, 2, 4, 8, 16, 32, 64]
estimates = [single.reshape(-1, count).mean(axis=1) for count in counts]
figure, axes = plt.subplots(figsize=(6.5, 3.5))
axes.errorbar(
    counts,
    [np.mean(e) for e in estimates],
    [np.std(e) for e in estimates],
    marker="o",
    label="Hutchinson: mean ± std",
)
axes.axhline(float(closed), color="black", linewidth=1, label="closed form")
axes.set(xscale="log", xlabel="probes v", ylabel="squared norm of the Jacobian", ylim=(0, None))
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# The experiment trains a plain twin beside the model, with the same initial weights and batches. Take the singular
# values of the encoder's Jacobian at one image: they say how far the code moves when the image changes a little, and
# the directions that belong to them say which change it is. With the penalty the code moves less; what it still follows
# are smooth changes of a garment, and what neither code follows is noise.

# %%
contractive_run = trained(
    contractive_autoencoder,
    "default",
    "3 epochs",
    model__latent_dim=200,
    objective__weight=1.0,
    optim__learning_rate=4e-3,
    eval__spectrum_examples=1,
)
model = MLPAutoencoder(images.shape[1:], (contractive_run.config.model.latent_dim,), code_activation=jax.nn.sigmoid)

# %%
number = 3  # @param {"type": "slider", "min": 0, "max": 999, "step": 1}

ranks, rows = [0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 40, 80], {}
figure, axes = plt.subplots(figsize=(6, 3.5))
for name, which in {"contractive": "model", "plain": "plain"}.items():
    params = contractive_run.state.eval_params[which]
    jacobian = jax.jacrev(lambda x, params=params: sampling.encode(params, x[None], model=model)[0])(images[number])
    _, values, directions = np.linalg.svd(jacobian.reshape(len(jacobian), -1), full_matrices=False)
    axes.semilogy(np.arange(1, 101), values[:100], label=name)
    shown = directions[ranks].reshape(-1, *images.shape[1:])
    rows[name] = 0.5 + 0.5 * shown / np.abs(shown).max(axis=(1, 2, 3), keepdims=True)  # Grey where nothing changes.
axes.set(title=f"The encoder's Jacobian at image {number}", xlabel="rank", ylabel="singular value")
axes.legend()
plt.show()
show(rows, "The directions of the ranks " + ", ".join(str(rank + 1) for rank in ranks))

# %% [markdown]
# ## 4. A code that is mostly zero (Makhzani and Frey, 2013; Ng, 2011)
#
# `k_sparse` keeps the $k$ largest activations of a code; the gradient goes through these alone. The older way is a
# penalty: the divergence of each unit's mean activation $\hat\rho_j$ over a batch from a wanted $\rho$,
#
# $$\sum_j \mathrm{KL}(\rho \,\|\, \hat\rho_j)
# = \sum_j \rho \log \frac{\rho}{\hat\rho_j} + (1 - \rho) \log \frac{1 - \rho}{1 - \hat\rho_j}$$

# %%
rho = 0.2  # @param {"type": "slider", "min": 0.02, "max": 0.98, "step": 0.02}

print("k_sparse, k = 2:", losses.k_sparse(jnp.array([0.3, -2.0, 1.5, 0.9]), 2))
rho_hat = jnp.linspace(0.005, 0.995, 300)
figure, axes = plt.subplots(figsize=(6, 3.2))
axes.plot(rho_hat, jax.vmap(lambda r: losses.kl_sparsity(rho, r[None]))(rho_hat))
axes.axvline(rho, color="black", linewidth=1, label=f"ρ = {rho:g}")
axes.set(xlabel="mean activation of a unit", ylabel="nats", title="What it costs to be on too often, or too seldom")
axes.legend()
plt.show()

# %%
sparse_run = trained(
    sparse_autoencoder,
    "default",
    "4 epochs",
    model__latent_dim=400,
    objective__anneal="2 epochs",
    objective__k_start=100,
)
sparse = sparse_autoencoder.build_model(sparse_run.config, images.shape[1:])

# %% [markdown]
# Training began with 100 units kept, so that more of them learn, and ended with 25. With fewer something is missing;
# with more, the decoder adds up units that it had in the end not seen together. Beside the errors stand filters: many
# units look for a whole garment, some have not learned yet.

# %%
k = 25  # @param {"type": "slider", "min": 1, "max": 400, "step": 1}

params = sparse_run.state.eval_params["model"]  # Its plain twin is beside it.
some, counts = images[:300], sorted({2, 5, 10, 25, 60, 200, k})
kept = {n: np.asarray(sampling.reconstruct(params, some, model=sparse, k=n)) for n in counts}
errors = [np.sum((found - some) ** 2, axis=(1, 2, 3)).mean() for found in kept.values()]
show({"image": some[:12]} | {f"k = {n}": np.clip(kept[n][:12], 0, 1) for n in sorted({10, 60, k})}, "Units kept")

figure, (axes, panel) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
axes.plot(list(kept), errors, "o-")
axes.set(xscale="log", xlabel="units kept", ylabel="squared error an image", title="Trained to do with 25")
filters = np.asarray(params["encoder_0"]["kernel"]).T[:60].reshape(6, 10, 28, 28)
limit = np.abs(filters).max()
panel.imshow(filters.transpose(0, 2, 1, 3).reshape(6 * 28, 280), cmap="gray", vmin=-0.5 * limit, vmax=0.5 * limit)
panel.set(xticks=[], yticks=[], title="What 60 of the units look for")
plt.show()

# %% [markdown]
# ## What this leaves out
#
# - The paper of 2006 pretrains layer by layer with restricted Boltzmann machines. Adam does without; they are not here.
# - The runs are short and the networks small: `python -m experiments.autoencoder` reaches a squared error of 7.7 with
#   30 numbers, where 30 components have 12.4, in a minute.
# - Whether a code is *good* is asked by a linear classifier on it, a probe. The experiments train one and report its
#   error on test images; it is left out here, for it takes longer than the training.
# - An autoencoder has no prior, so there is no sampling here. `run.sample` draws something for each of them, as the
#   README says; a variational autoencoder makes it a question with an answer.
# - The contractive encoder has one layer, for which the closed form serves. For deeper ones there is Hutchinson's
#   estimate, `config.objective.contraction="hutchinson"`; no run here uses it.
