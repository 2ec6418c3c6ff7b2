# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/gen-jax/gen_jax/blob/main/colabs/03_gan.ipynb)
#
# # Generative adversarial networks
#
# A generator $G$ makes examples $\tilde x = G(z)$ from noise, a discriminator $D$ tells them from real examples $x$,
# and each learns from the other. This notebook follows "Generative Adversarial Nets" (Goodfellow et al., 2014,
# [arXiv:1406.2661](https://arxiv.org/abs/1406.2661)) in the order of its sections, and then three answers to what
# goes wrong: looking ahead (Metz et al., 2017), the Wasserstein distance (Arjovsky et al., 2017) and the gradient
# penalty (Gulrajani et al., 2017). All losses are those of `gen_jax.families.gan`; each takes the logits of one real
# and one fake example.

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
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gen_jax
from experiments import gan_ring
from gen_jax import rng, runtime
from gen_jax.eval.modes import mode_coverage
from gen_jax.families import gan
from gen_jax.ops.distributions import gaussian_log_likelihood
from gen_jax.train import loop, writer

runtime.configure()  # Before JAX computes anything: its flags, and the cache of compiled programs.

# %% [markdown]
# ## Section 3: the game
#
# $$\min_G \max_D V(D, G) = \mathbb{E}_{x \sim p_\text{data}}[\log D(x)] + \mathbb{E}_{z}[\log(1 - D(G(z)))]
# \qquad \text{(Eq. 1)}$$
#
# `minimax_discriminator_loss` is $-[\log D(x) + \log(1 - D(\tilde x))]$ with $D = \sigma(\text{logit})$, so that its
# mean is $-V$. The loss of a discriminator that says ½ of everything is $2 \log 2 = 1.386$. The losses are finite,
# with finite gradients, however sure the discriminator is.

# %%
real_logit, fake_logit = jnp.array([0.0, 2.0, -2.0, 1000.0]), jnp.array([0.0, -2.0, 2.0, 1000.0])
rows = {
    "D's loss": gan.minimax_discriminator_loss(real_logit, fake_logit),
    "G's loss, saturating": gan.minimax_generator_loss(fake_logit),
    "G's loss, non-saturating": gan.non_saturating_generator_loss(fake_logit),
}
print(
    f"{'(real, fake) logits':26}", *(f"({r:g}, {f:g})".rjust(14) for r, f in zip(real_logit, fake_logit, strict=True))
)
for name, values in rows.items():
    print(f"{name:26}", *(f"{value:14.4f}" for value in values))

# %% [markdown]
# Section 3 also says why $G$ is better trained by another loss than that of the game of zero sum. Early on $D$ is sure
# of the fakes: their logits are far below 0, where $\log(1 - D(\tilde x))$ is flat. $-\log D(\tilde x)$ has the same
# fixed point and a slope there. On the right $G$ makes $\mathcal N(\mu, 1)$, the data are $\mathcal N(0, 1)$ and $D$ is
# the best one between the two. Near the data both losses pull about as hard; from a distance of 2 on the first pulls
# less and less, the further $G$ is away.


# %%
def log_gaussian(mean, std=1.0):
    """The log-density of N(mean, std²), as a function of x."""
    return lambda x: gaussian_log_likelihood(x, jnp.float32(mean), jnp.float32(2 * np.log(std)))


logits, distances = jnp.linspace(-8, 8, 201), jnp.linspace(0, 8, 41)
z = jax.random.normal(rng.stream(rng.root(0), "z"), (2000,))


def pull(loss, distance):
    """How hard a loss pulls the mean of G towards the data: |d/dμ E[loss(D(μ + z))]|, D held still."""

    def mean_loss(mean):
        return jnp.mean(
            jax.vmap(lambda x: loss(gan.optimal_discriminator(log_gaussian(0), log_gaussian(distance), x)))(mean + z)
        )

    return jnp.abs(jax.grad(mean_loss)(distance))


losses = {"saturating": gan.minimax_generator_loss, "non-saturating": gan.non_saturating_generator_loss}
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6))
for name, loss in losses.items():
    axes[0].plot(logits, jax.vmap(loss)(logits), label=name)
    axes[1].semilogy(distances[1:], jax.vmap(lambda d, loss=loss: pull(loss, d))(distances[1:]), label=name)
axes[0].set(title="G's loss of one fake", xlabel="logit of the fake", ylabel="nats")
axes[1].set(title="Gradient in G's mean, against the best D", xlabel="distance of G's mean from the data's")
for axis in axes:
    axis.legend()
plt.show()

# %% [markdown]
# ## Section 4.1: the best discriminator, and what the game is worth against it
#
# $$D^*(x) = \frac{p_\text{data}(x)}{p_\text{data}(x) + p_g(x)} \quad \text{(Prop. 1)} \qquad
# V(D^*, G) = 2\, \mathrm{JSD}(p_\text{data} \,\|\, p_g) - \log 4 \quad \text{(Eq. 6)}$$
#
# The line on the right is the divergence, integrated on a grid. The points are minus the mean of the standalone loss
# over samples: at $D^*$ they lie on the line, and with any other logit, such as $D^*$'s plus one, below it.

# %%
mean = 2.0  # @param {"type": "slider", "min": 0, "max": 6, "step": 0.25}
std = 1.0  # @param {"type": "slider", "min": 0.5, "max": 3, "step": 0.25}

grid = jnp.linspace(-14, 20, 4001)
data, model = log_gaussian(0), log_gaussian(mean, std)
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8))
x = jnp.linspace(-5, 9, 400)
axes[0].fill_between(x, jnp.exp(jax.vmap(data)(x)), alpha=0.4, label="p_data")
axes[0].fill_between(x, jnp.exp(jax.vmap(model)(x)), alpha=0.4, label="p_g")
best = jax.vmap(lambda x: gan.optimal_discriminator(data, model, x))(x)
axes[0].plot(x, jax.nn.sigmoid(best), "k", label="D*")
axes[0].set(title="The best discriminator", xlabel="x")

means = jnp.linspace(0, 6, 25)
divergence = jax.vmap(lambda m: gan.jensen_shannon_divergence(data, log_gaussian(m, std), grid))(means)


def value(mean, shift):
    """V by samples: minus the mean loss of the discriminator whose logit is the best one plus a shift."""
    logit = jax.vmap(lambda x: gan.optimal_discriminator(data, log_gaussian(mean, std), x) + shift)
    return -jnp.mean(gan.minimax_discriminator_loss(logit(z), logit(mean + std * z)))


axes[1].plot(means, 2 * divergence - np.log(4), "k", label="2 JSD − log 4")
axes[1].plot(means, jax.vmap(lambda m: value(m, 0.0))(means), "o", ms=4, label="−E[loss] at D*")
axes[1].plot(means, jax.vmap(lambda m: value(m, 1.0))(means), "x", ms=4, label="−E[loss], logit of D* + 1")
axes[1].axhline(0, color="gray", lw=0.7)
axes[1].set(title="The value of the game (nats)", xlabel="mean of p_g")
for axis in axes:
    axis.legend()
plt.show()
print(f"JSD = {gan.jensen_shannon_divergence(data, model, grid):.4f} nats; from 0 to log 2 = {np.log(2):.4f}")
print(f"V(D*, G) = {gan.value_at_optimum(data, model, grid):.4f} nats")

# %% [markdown]
# ## Looking ahead
#
# Two players who each follow their own gradient need not arrive anywhere. The smallest game has one number each: real
# examples are all at 0, fakes at $\theta$, and $D$'s logit is $\phi x$ (the Dirac-GAN of Mescheder et al., 2018,
# [arXiv:1801.04406](https://arxiv.org/abs/1801.04406)). "Unrolled Generative Adversarial Networks" (Metz et al., 2017,
# [arXiv:1611.02163](https://arxiv.org/abs/1611.02163), Section 2) lets $G$ see $K$ steps of $D$ ahead, and
# differentiates through them:
#
# $$\phi^{k+1} = \phi^k - \eta \nabla_\phi L_D(\phi^k, \theta), \qquad
# L_K(\theta) = L_G(\theta, \phi^K), \qquad
# \frac{dL_K}{d\theta} = \frac{\partial L_G}{\partial \theta} +
# \frac{\partial L_G}{\partial \phi^K} \frac{d\phi^K}{d\theta}$$
#
# Without looking ahead the players run in circles about the answer $(0, 0)$, as long as their steps are small; larger
# steps (orange), each along the circle's tangent, lead outwards. With looking ahead both fall in.

# %%
look_ahead = 5  # @param {"type": "slider", "min": 1, "max": 20, "step": 1}
eta = 0.3  # @param {"type": "slider", "min": 0.2, "max": 0.5, "step": 0.05}


def discriminator_loss(phi, theta, _):
    """What D minimises: its real example is at 0, where its logit is 0."""
    return gan.minimax_discriminator_loss(0 * phi, phi * theta)


def generator_loss(theta, phi):
    """What G minimises: the fake at θ has the logit φθ."""
    return gan.minimax_generator_loss(phi * theta)


def velocity(place, num_steps):
    """Where gradient descent moves both players: (−dL_K/dθ, −dL_D/dφ)."""
    tx = optax.sgd(eta)

    def ahead(theta):
        return gan.unrolled_generator_loss(
            generator_loss, discriminator_loss, theta, place[1], tx, tx.init(place[1]), num_steps
        )

    return -jnp.stack([jax.grad(ahead)(place[0]), jax.grad(discriminator_loss)(place[1], place[0], None)])


def descent(num_steps, size, count):
    """The places of so many steps of both players at once, [count, (theta, phi)]."""
    begin = jnp.array([1.5, 0.0])
    return jax.lax.scan(lambda place, _: (place + size * velocity(place, num_steps), place), begin, length=count)[1]


ticks = jnp.linspace(-3, 3, 25)
places = jnp.stack(jnp.meshgrid(ticks, ticks), axis=-1)  # [y, x, (theta, phi)]
figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharey=True)
for axis, num_steps in zip(axes, (0, look_ahead), strict=True):
    field = jax.vmap(jax.vmap(lambda place, k=num_steps: velocity(place, k)))(places)
    speed = jnp.linalg.norm(field, axis=-1)
    axis.streamplot(
        *(np.asarray(a) for a in (ticks, ticks, field[..., 0], field[..., 1])),
        color=np.asarray(speed),
        cmap="viridis",
        density=1.1,
        linewidth=0.8,
    )
    axis.plot(*descent(num_steps, 0.2, 100).T, "o", ms=3, color="C1", label="100 steps of 0.2")
    axis.plot(*descent(num_steps, 0.002, 30_000).T, "r", lw=1.5, label="30,000 steps of 0.002")
    axis.set(title=f"K = {num_steps}", xlabel="θ, where the fakes are", xlim=(-3, 3), ylim=(-3, 3))
axes[0].set_ylabel("φ, the slope of D")
axes[1].legend(loc="upper right", fontsize=8)
figure.suptitle("The gradient field of the game, and gradient descent in it from θ = 1.5, φ = 0")
plt.show()

# %% [markdown]
# ## A distance that goes on
#
# Where $p_g$ and $p_\text{data}$ no longer overlap, the JSD is $\log 2$ and flat. "Wasserstein GAN"
# ([arXiv:1701.07875](https://arxiv.org/abs/1701.07875)) lets the critic say any number, as long as it is 1-Lipschitz:
#
# $$W_1(p_\text{data}, p_g) = \max_{\|D\|_L \le 1} \mathbb{E}[D(x)] - \mathbb{E}[D(\tilde x)]$$
#
# Between $\mathcal N(0, 1)$ and $\mathcal N(\mu, 1)$ with $\mu > 0$ the best critic is $D(x) = -x$, and $W_1 = \mu$.
# The crosses are another way to the same number, without a critic: in one dimension the distance pairs sorted samples.

# %%
other = jax.random.normal(rng.stream(rng.root(0), "other"), z.shape)
by_critic = [-jnp.mean(gan.wasserstein_critic_loss(-z, -(m + other))) for m in means]
by_sorting = [jnp.mean(jnp.abs(jnp.sort(z) - jnp.sort(m + other))) for m in means]
divergence = jax.vmap(lambda m: gan.jensen_shannon_divergence(data, log_gaussian(m), grid))(means)
figure, axis = plt.subplots(figsize=(6, 3.8))
axis.plot(means, divergence, "k", label="JSD (nats)")
axis.plot(means, by_critic, label="−E[loss] of the critic D(x) = −x")
axis.plot(means, by_sorting, "x", ms=5, label="W₁ by sorted samples")
axis.set(title="Two distances of N(0, 1) and N(μ, 1)", xlabel="μ")
axis.legend()
plt.show()

# %% [markdown]
# "Improved Training of Wasserstein GANs" ([arXiv:1704.00028](https://arxiv.org/abs/1704.00028), Eq. 3) asks for the
# slope by a penalty instead:
#
# $$L = \mathbb{E}[D(\tilde x)] - \mathbb{E}[D(x)] +
# \lambda\, \mathbb{E}\big[(\|\nabla_{\hat x} D(\hat x)\|_2 - 1)^2\big],
# \quad \hat x = \epsilon x + (1 - \epsilon) \tilde x$$
#
# `gradient_penalty` takes the critic as a function of one example, and $\lambda$ is the caller's. A penalty is no
# constraint: for two points a distance $d$ apart the best linear critic has the slope $1 + d / 2\lambda$, a bit too
# steep. The picture shows the loss of every slope, and that minimum.

# %%
distance = 4.0  # @param {"type": "slider", "min": 0.5, "max": 8, "step": 0.5}

real, fake, key = jnp.array([0.0, 0.0]), jnp.array([distance, 0.0]), rng.root(0)
print("the penalty of ‖x‖:  ", gan.gradient_penalty(jnp.linalg.norm, key, real, fake), "  its slope is 1 everywhere")
print("the penalty of 3 x₁: ", gan.gradient_penalty(lambda x: 3 * x[0], key, real, fake), "  (3 − 1)²")


def critic_objective(slope, weight):
    """The loss of the critic D(x) = −slope · x₁ of these two points, the penalty's weight λ in it."""

    def critic(x):
        return -slope * x[0]

    penalty = gan.gradient_penalty(critic, key, real, fake)
    return gan.wasserstein_critic_loss(critic(real), critic(fake)) + weight * penalty


slopes = jnp.linspace(0, 3, 200)
figure, axis = plt.subplots(figsize=(6, 3.8))
for weight in (1.0, 3.0, 10.0):
    line = axis.plot(slopes, jax.vmap(lambda s, w=weight: critic_objective(s, w))(slopes), label=f"λ = {weight:g}")[0]
    minimum = 1 + distance / (2 * weight)
    if minimum <= 3:
        axis.plot(minimum, critic_objective(minimum, weight), "o", color=line.get_color())
axis.axvline(1, color="gray", lw=0.7)
axis.set(title="The critic's loss; dots at 1 + d / 2λ", xlabel="slope of the critic", ylim=(-3 * distance, 10))
axis.legend()
plt.show()

# %% [markdown]
# ## Section 5: two runs
#
# Eight Gaussians on a ring, and two games of a few seconds with the same networks, optimiser and batches. `minimax` is
# that of the first paper without help; `r1` has the non-saturating loss and a penalty on $D$'s slope at real examples
# (R₁, Mescheder et al., 2018). The modes are wider than the experiment's own, and the learning rate is three times as
# high, so that a few hundred rounds show the difference. On a terminal: `python -m experiments.gan_ring`.

# %%
folder = pathlib.Path(tempfile.mkdtemp())
for game, loss, penalty in (("minimax", "minimax", "none"), ("r1", "non_saturating", "r1")):
    config = gan_ring.get_config().lock()
    config.objective.loss, config.objective.penalty, config.objective.penalty_weight = loss, penalty, 1.0
    config.data.std = 0.1
    config.optim.learning_rate, config.optim.schedule = 3e-3, "constant"
    config.train.batch_size = 128
    config.train.duration = "600 steps"
    config.train.eval_every = config.train.checkpoint_every = "200 steps"
    results = loop.train(gan_ring.build(config), config, folder / game).results
    print(f"{game}: {results['modes_covered']:.0f} of 8 modes, the game's value on test points {results['value']:.3f}")
print(f"-log 4 = {-np.log(4):.3f}")

# %% [markdown]
# A workdir is a run: its config, checkpoints, metrics and pictures. `gen_jax.load` reads it back, and sample $i$ of a
# seed is always the same point. A mode counts as covered where 20 of the samples or more are within three standard
# deviations of it.

# %%
game = "r1"  # @param ["r1", "minimax"]
seed = 0  # @param {"type": "slider", "min": 0, "max": 20, "step": 1}
num_samples = 2000  # @param {"type": "slider", "min": 1000, "max": 5000, "step": 500}

run = gen_jax.load(folder / game)
samples = run.sample(seed=seed, num=num_samples)
centres = run.experiment.train_source.mixture.centres
found = mode_coverage(samples, centres, 3 * run.config.data.std)
figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
axes[0].scatter(*samples.T, s=3, alpha=0.5, label="samples")
axes[0].plot(*centres.T, "k+", ms=10, label="modes of the data")
axes[0].set(title=f"{game}, after {run.step} rounds", xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
axes[0].legend(loc="upper right", fontsize=8)
axes[1].bar(range(8), found.counts)
axes[1].set(
    title=f"{found.covered} of 8 modes; {found.high_quality:.0%} of the samples in one", xlabel="mode", ylabel="samples"
)
plt.show()

# %% [markdown]
# Each run draws itself while it trains: its samples over what $D$ says of every place. Below, the value of the game
# on test points. Near $-\log 4$ this $D$ cannot tell real from fake. That may be because $G$ is good or because $D$ has
# fallen behind, so that the value does not say which of the runs has the modes.

# %%
steps = (0, 200, 400, 600)
figure, axes = plt.subplots(2, 4, figsize=(14, 6.6))
for row, name in zip(axes, ("minimax", "r1"), strict=True):
    for axis, step in zip(row, steps, strict=True):
        axis.imshow(plt.imread(folder / name / "frames" / f"{step:08d}.png"))
        axis.set_title(f"{name}, round {step}")
        axis.axis("off")
figure.tight_layout()
plt.show()

figure, axis = plt.subplots(figsize=(6, 3.4))
for name in ("minimax", "r1"):
    rows = [row for row in writer.read_metrics(folder / name / "metrics.jsonl") if "value" in row]
    axis.plot([row["step"] for row in rows], [row["value"] for row in rows], "o-", label=name)
axis.axhline(-np.log(4), color="gray", ls="--", label="−log 4: D cannot tell")
axis.set(title="The value of the game on test points", xlabel="round", ylabel="nats")
axis.legend()
plt.show()

# %% [markdown]
# ## What this leaves out
#
# - **Proofs assume what training does not have.** $D^*$ and the JSD hold for a discriminator that is the best of all
#   functions, at every step. A small network after one update is not that, and the curves of a real game do not
#   measure a divergence.
# - **The game of two numbers is a caricature.** That looking ahead damps it says nothing about how many steps a large
#   network needs; each costs a gradient step of $D$, and memory for all of them.
# - **Points in the plane are easy.** One can count the modes of a ring. For images there are only estimates; see
#   `gen_jax.eval` and the README's tables of `experiments.dcgan` and `experiments.wgan_gp`, whose runs take minutes.
# - **Two runs are one seed each.** That one game covers the ring here and the other does not is what these settings do,
#   not a law about their losses: at a third of the learning rate the first one covers it as well.
# - Not shown: hinge and least-squares losses, spectral normalisation, clipped weights, label smoothing and
#   conditional networks. They are in `gen_jax.families.gan` and are used the same way.
