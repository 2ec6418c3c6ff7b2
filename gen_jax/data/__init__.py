"""Bytes to batches, with numpy alone: a batch is a function of (seed, step).

* `readers`: one function a file format; each gives arrays or one clear `UserError`.
* `local`: which files in a folder make up a set, and how a folder of images is split.
* `prepared`: the sets of TensorFlow Datasets, read without TensorFlow.
* `sources`: `load_images(name, split, data_dir)` looks for a set in all places and gives an `ImageSet`.
* `batches`: `ImageBatches` turns an `ImageSet` into the batches of a run.
* `embedded`: 10,000 + 1,000 images of Fashion-MNIST that come with the package, `fashion_mnist_10k`.
* `scenes`: photographs and cameras as one record, whatever the files; `scene_formats`, `scene_json`, `scene_images`
  and `colmap` read those of Blender, LLFF, instant-ngp, nerfstudio and COLMAP, `load_scene(folder)` any of them.
* `analytic_scene`: a scene that is traced exactly, without any files.
* `rays`: `RayBatches` draws the rays of a run from a scene.
* `points`: mixtures of Gaussians in the plane, of which `PointBatches` draws the batches of a run without any files.
* `shared`: what these three kinds of batches have in common.

Example:
  train = load_images("fashion_mnist_10k", "train")
  source = ImageBatches.of(train, batch_size=128, evaluation_batch_size=500, seed=0)
  source.batch(0)["image"]  # [128, 28, 28, 1] uint8
"""

from gen_jax.data.batches import ImageBatches, epoch_order, image_sources
from gen_jax.data.points import Mixture, PointBatches, point_sources
from gen_jax.data.rays import RayBatches, ray_sources
from gen_jax.data.readers import read_cifar10, read_folder, read_idx, read_npz
from gen_jax.data.scene_formats import load_scene
from gen_jax.data.scenes import Reading, Scene, Views
from gen_jax.data.sources import ImageSet, load_images

__all__ = [
    "ImageBatches",
    "ImageSet",
    "Mixture",
    "PointBatches",
    "RayBatches",
    "Reading",
    "Scene",
    "Views",
    "epoch_order",
    "image_sources",
    "load_images",
    "load_scene",
    "point_sources",
    "ray_sources",
    "read_cifar10",
    "read_folder",
    "read_idx",
    "read_npz",
]
