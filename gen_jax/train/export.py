"""What a trained scene is looked at with elsewhere: a flight as a video and images, its surface as a mesh."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import tqdm
from PIL import Image

from gen_jax.contracts import Mesh, Shot
from gen_jax.files import replace_bytes, save_array
from gen_jax.train.film import write_video
from gen_jax.train.writer import save_png

_FPS = 24.0


def write_shots(shots: Iterable[Shot], count: int, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes views as they are made, with a progress bar: images, depths as images and arrays, and videos of both.

    Args:
      shots: all of one size.
      count: how many there are.
      folder: where to; the videos lie beside it, under its name. It is made where it is not there.

    Returns:
      The videos and the folder.

    Raises:
      UserError: where a video cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i, shot in enumerate(tqdm.tqdm(shots, total=count, unit="view")):
        save_png(_image(shot.color), folder / f"{i:04d}.png")
        save_png(_image(shot.depth_image), folder / f"{i:04d}_depth.png")
        save_array(folder / f"{i:04d}_depth.npy", shot.depth)

    def frames(ending: str) -> Iterator[Image.Image]:
        for i in range(count):
            with Image.open(folder / f"{i:04d}{ending}.png") as image:
                yield image.convert("RGB")

    videos = [folder.with_name(f"{folder.name}{ending}.mp4") for ending in ("", "_depth")]
    return [write_video(frames(ending), path, _FPS) for ending, path in zip(("", "_depth"), videos, strict=True)] + [
        folder
    ]


def write_mesh(mesh: Mesh, path: pathlib.Path) -> list[pathlib.Path]:
    """Writes a mesh with its colours as PLY and as OBJ.

    Args:
      mesh: at least one triangle.
      path: without an ending.

    Returns:
      Both files.
    """
    import trimesh  # Only who writes a mesh needs it, and it takes half a second.
    from trimesh.exchange.obj import export_obj
    from trimesh.exchange.ply import export_ply

    colors = None if mesh.colors is None else np.rint(255.0 * np.clip(mesh.colors, 0.0, 1.0)).astype(np.uint8)
    whole = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, vertex_colors=colors, process=False)
    ply, obj = export_ply(whole), export_obj(whole).encode()
    return [replace_bytes(path.with_name(f"{path.name}.{kind}"), it) for kind, it in (("ply", ply), ("obj", obj))]


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(255.0 * np.clip(values, 0.0, 1.0)).astype(np.uint8))
