# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gen-jax/gen_jax/blob/main/colabs/00_start_here.ipynb)
#
# # Start here
#
# What a run of `gen_jax` is: an experiment is trained into a folder, the *workdir*; the folder is read back, by anyone
# and at any later time; and from the same seed come the same samples, to the last bit. Here a tiny variational
# autoencoder does all of it on a CPU in less than two minutes. The other notebooks tell what the models are.

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
import dataclasses
import json
import pathlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gen_jax
from experiments import vae
from gen_jax import runtime
from gen_jax.contracts import Grid
from gen_jax.families.vae import elbo
from gen_jax.ops.distributions import bernoulli_log_likelihood
from gen_jax.train import drawing, loop

runtime.configure()  # Before JAX computes anything: its flags, and the cache of compiled programs.

# %% [markdown]
# ## 1. A config, and the experiment that it builds
#
# An experiment is one module: `get_config(preset)` gives all its numbers, `build(config)` a record of pure functions.
# On the command line the cell is `python -m experiments.vae --preset=tiny --config.train.duration="600 steps"`, with a
# flag for every other key that it sets. The images, 11,000 of Fashion-MNIST, come with the package.

# %%
config = vae.get_config("tiny").lock()  # So that it takes no key that it does not have.
config.train.duration, config.train.steps_per_call = "600 steps", 10
config.train.eval_every = config.train.checkpoint_every = "200 steps"
config.model.hidden, config.model.activation, config.model.dropout = (128, 32), "gelu", 0.0
experiment = vae.build(config)

print(config.model.to_dict())
print(f"{experiment.train_source.num_examples} training images of shape {experiment.train_source.example_shape}")

# %% [markdown]
# ## 2. Train
#
# The model is a variational autoencoder: an encoder gives for an image $x$ a Gaussian $q(z|x)$ over codes of two
# numbers, a decoder gives for a code the probability of every pixel, and training raises a lower bound of
# $\log p(x)$, the ELBO, in nats:
#
# $$\log p(x) \;\ge\; \mathbb{E}_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x)\,\|\,\mathcal N(0, I))$$
#
# A workdir is a run: it holds the config, the checkpoints, every number that was logged, and the pictures.

# %%
workdir = pathlib.Path(tempfile.mkdtemp())  # Another one whenever this cell is run.
outcome = loop.train(experiment, config, workdir)

print(f"step {outcome.step}, finished: {outcome.finished}")
print({name: round(value, 2) for name, value in outcome.results.items()})
for path in sorted(workdir.iterdir()):
    print(" ", path.name)

# %%
rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
figure, axes = plt.subplots(figsize=(6, 3.5))
train = [row for row in rows if row["split"] == "train"]
test = [row for row in rows if row["split"] == "test"]
axes.plot([row["step"] for row in train], [row["bound"] for row in train], label="mean of ten training batches")
axes.plot([row["step"] for row in test], [row["elbo_nats"] for row in test], "o-", label="all test images")
axes.set(xlabel="step", ylabel="ELBO, nats", title="The bound rises")
axes.legend()
plt.show()

# %% [markdown]
# ## 3. Interrupted, continued: the same bits
#
# A checkpoint was written every 200 steps. Take a copy of the workdir without the last one, so that the newest is that
# of step 400, as after a power cut; the report and the pictures of the finished run are still in it, and are not asked.
# Call the same function with the same config. It continues, and every array of the final state is that of the run
# which nothing disturbed: parameters, optimiser and average alike.

# %%
broken = pathlib.Path(tempfile.mkdtemp())
shutil.copytree(workdir, broken, dirs_exist_ok=True)
shutil.rmtree(broken / "checkpoints" / "600")
loop.train(experiment, config, broken)


def same_bits(one, other):
    """Whether two states agree in every bit of every array."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


whole, continued = gen_jax.load(workdir), gen_jax.load(broken)
arrays = [dataclasses.replace(run.state, key=jax.random.key_data(run.state.key)) for run in (whole, continued)]
print(f"{len(jax.tree.leaves(arrays[0]))} arrays at step {whole.step}, the same to the bit: {same_bits(*arrays)}")
assert same_bits(*arrays)

# %% [markdown]
# ## 4. Read back, sample
#
# `gen_jax.load(workdir)` is all that it takes, in another process and from any directory. Sample $i$ of a seed depends
# on $(\text{seed}, i)$ alone: however many are drawn, and in batches of whatever size.

# %%
seed = 0  # @param {"type": "slider", "min": 0, "max": 100, "step": 1}

run = gen_jax.load(workdir)
samples = run.sample(seed=seed, num=40)
again = gen_jax.load(broken).sample(seed=seed, num=20, batch_size=16)
assert samples[:20].tobytes() == again.tobytes()

sheet = drawing.draw(
    Grid(f"Samples of seed {seed}: means of p(x|z), z from the prior", samples.reshape(4, 10, 28, 28, 1))
)
plt.figure(figsize=(9, 4))
plt.imshow(sheet)
plt.axis("off")
plt.show()

# %% [markdown]
# ## 5. Take one function out
#
# Every loss stands alone: arrays in, a number out, no config and no network. The bound above takes one image, here of
# four binary pixels; the logits that a decoder gives for them; and the mean and the log-variance of $q(z|x)$, here over
# codes of two numbers:

# %%
x = jnp.array([1.0, 0.0, 1.0, 1.0])
logits = jnp.array([2.0, -1.0, 0.5, 3.0])
mean, log_var = jnp.array([0.3, -0.8]), jnp.array([-1.0, -0.2])

bound, terms = elbo(bernoulli_log_likelihood(x, logits)[None], mean, log_var)
print(f"log p(x|z) {terms['log_likelihood']:.4f} - KL {terms['kl']:.4f} = {bound:.4f} nats")

# %% [markdown]
# ## What this leaves out
#
# - The model is far too small and trained for seconds: its samples are blurs of garments. `python -m experiments.vae`
#   trains for a minute and reaches −241.8 nats.
# - That the same bits come back holds on one kind of machine with one version of JAX: another processor may round
#   another way. A run's `provenance.json` says what it was made with.
# - A real interruption is a signal in the middle of a step or a file half written; the tests of the package have them.
# - Nothing here says why the bound is one, or what else there is: see the notebooks of the families.
