"""A small classifier of images, by whose hidden layer the samples of other families can be judged.

Papers:
  * "Gradient-Based Learning Applied to Document Recognition", LeCun et al., 1998 (Proceedings of the IEEE): convolution
    and subsampling, then fully connected layers.
  * "Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps", Simonyan et al.,
    2014 (arXiv:1312.6034): the images that a class's score is greatest for.

The network has no `models.py` here: it is `gen_jax.nn.small_classifier`, since `gen_jax.eval.features` runs it as well.

Symbols:
  x       an image, [H, W, C] in [0, 1]
  c       a class, from 0 to K − 1
  S_c     the logit of class c
  logits  S, [K], of which the softmax is p(c|x)
  λ       the weight of an image's squared norm

Differences from the papers:
  * Strided convolutions with GELU instead of subsampling layers, dropout, and AdamW.
  * The ascent to an image starts from noise of its own key and not from the mean image, has steps of one length, and
    stays in [0, 1]; so every key has its own picture.
"""

from gen_jax.families.classifier.losses import cross_entropy
from gen_jax.families.classifier.objectives import objective
from gen_jax.families.classifier.sampling import class_images

__all__ = ["class_images", "cross_entropy", "objective"]
