"""Neural radiance fields: a scene as a function that is rendered, learned from posed photographs.

Papers:
  * "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", Mildenhall et al., 2020
    (arXiv:2003.08934): the field, the quadrature, coarse and fine samples, normalised device coordinates.
  * "Local Light Field Fusion: Practical View Synthesis with Prescriptive Sampling Guidelines", Mildenhall et al., 2019
    (arXiv:1905.00889): forward-facing scenes and their spirals.

Read `rendering.render_ray` first: what one ray sees. What it stands on has no parameters and is in `gen_jax.ops`:
`cameras` and `camera_paths`, `volume_rendering`, `encodings`. Instead of samples a field has `views`, and a `surface`.

Symbols:
  o, d     origin and direction of a ray r(t) = o + t d; t is the depth along the optical axis
  t_n, t_f near and far: the depths between which the field is asked
  F        the field: from a place x and a direction of view to a colour c and a density σ
  N_c, N_f how many coarse samples a ray has, and how many more for the fine field
  Ĉ, C     the colour that is rendered, and that of the photograph

Differences from the paper:
  * A pixel's ray goes through its centre; the paper's code has it through the upper left corner.
  * `RaySampling.convention="code"` gives the code's samples at both ends, "paper" those of Eq. 2.
  * Weights begin as Flax has them (LeCun), the code's by Glorot's uniform distribution.
  * Transmittance is exp of a sum, not a product of (1 − α + 1e-10) as in the code.
"""

from gen_jax.families.nerf.losses import photometric
from gen_jax.families.nerf.models import RadianceField
from gen_jax.families.nerf.objectives import NeRF, init_params, objective
from gen_jax.families.nerf.rendering import RaySampling, render_ray
from gen_jax.families.nerf.views import View, render_pixels, render_view

__all__ = [
    "NeRF",
    "RadianceField",
    "RaySampling",
    "View",
    "init_params",
    "objective",
    "photometric",
    "render_pixels",
    "render_ray",
    "render_view",
]
