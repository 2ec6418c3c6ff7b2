"""gen_jax: the classic generative models in JAX and Flax, each a set of pure functions that read like the paper.

`gen_jax.load(workdir)` reads a run back; everything else is imported from its own module.
"""

from gen_jax.contracts import UserError
from gen_jax.run import load

__all__ = ["UserError", "load"]
