"""What a reconstruction returns. Frames, axes and units are CONVENTIONS.md's.

Sparse values (boxes, landmarks, poses, coefficients) are there at once; dense ones are computed for all faces together
when the first is asked for, then kept.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from .camera import Camera, check_camera
from .dense import DenseFaces
from .face import LANDMARK_GROUPS, Coefficients, Face, Mesh, Pose
from .face_model import FaceModel
from .maps import Raster

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import supervision
    from PIL.Image import Image

    from .image import ColorOrder, ImageSource
    from .placement import Sizes
    from .texture import Texture

__all__ = ["LANDMARK_GROUPS", "Coefficients", "Face", "Mesh", "Pose", "Result"]


@dataclass(frozen=True, eq=False)
class Result:
    """All faces of one photo, best score first; `len`, iteration and indexing go to the faces."""

    faces: tuple[Face, ...]
    """The faces; empty where none was found."""
    camera: Camera
    """The camera that all faces share."""
    size: tuple[int, int]
    """(width, height) of the photo, px."""
    provider: str
    """The execution provider that ran the encoder."""
    timings: Mapping[str, float]
    """Milliseconds by stage: preprocess, encode, peaks, decode, render (with render=True), total."""
    dense: DenseFaces = field(repr=False)
    """Dense geometry of all faces of the photo, shared by them."""

    def __len__(self) -> int:
        return len(self.faces)

    def __iter__(self) -> Iterator[Face]:
        return iter(self.faces)

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Face, ...]: ...
    def __getitem__(self, index: int | slice) -> Face | tuple[Face, ...]:
        return self.faces[index]

    @property
    def face_model(self) -> FaceModel:
        """The model that the faces were decoded with."""
        return self.dense.face_model

    @property
    def metric(self) -> bool:
        """Whether every face is `metric`; false without faces."""
        return bool(self.faces) and all(face.metric for face in self.faces)

    def with_dense(self, dense: DenseFaces) -> "Result":
        """Return the result with the same faces at other values, e.g. of `result.dense.changed(...)`."""
        from .decode import faces_from_dense

        scores = np.array([face.score for face in self.faces], np.float32)
        centers = np.array([face.center for face in self.faces], np.float32).reshape(-1, 2)
        faces = faces_from_dense(dense, scores, centers)
        return replace(self, faces=faces, camera=dense.camera, dense=dense)

    def with_camera(self, camera: Camera) -> "Result":
        """Return the result in another camera of the same photo, e.g. the real one.

        Shapes stay, and so do the rotations against the viewing ray; translations are solved anew so that the
        landmarks stay on their pixels as nearly as they can (`wm3dr.placement.placed_in_camera`; docs/cameras.md
        says how nearly). `reconstruct(..., camera=camera)` does the same at once.

        Raises
        ------
        TypeError
            `camera` is no Camera.
        ValueError
            It is of another image size, or its focal length is so short that a face would reach behind it.
        """
        from .placement import in_camera

        check_camera(camera, self.size)
        return self if camera == self.camera else self.with_dense(in_camera(self.dense, camera))

    def with_scale(self, ipd_mm: "Sizes") -> "Result":
        """Return the result in real millimetres, from the distance between the eyes.

        Translations, vertices and depth scale with it, every face by its own factor about the camera; projections and
        rotations stay. Sizes are then as true as `ipd_mm`; distances also need the camera's true focal length.

        Parameters
        ----------
        ipd_mm : float, sequence of F floats, or dict
            Inter-pupillary distance in mm, of everybody, of each face, or by the number of the face. Faces that a
            dict does not name keep their scale. The mean of adults is 63 mm.

        Raises
        ------
        TypeError
            It is none of these.
        ValueError
            A distance is not between 30 and 90 mm, their number is not that of the faces, or there is no such face.
        """
        from .placement import with_scale

        return self.with_dense(with_scale(self.dense, ipd_mm))

    def with_faces(self, faces: Iterable[Face]) -> "Result":
        """Return the result with edited faces in the place of those that they were made from.

        Parameters
        ----------
        faces : Face, ...
            Made from faces of this result by `with_expression`, `with_illumination`, `neutral` or `wm3dr.retarget`.
            The faces that they do not replace stay.

        Raises
        ------
        TypeError
            One of them is no Face.
        ValueError
            One was made from another result, or two from the same face.
        """
        from .edit import with_faces

        return with_faces(self, faces)

    def composite(
        self,
        image: "ImageSource",
        faces: "Result | Face | Sequence[Face]",
        *,
        mode: Literal["photo", "model"] = "photo",
        color: "ColorOrder" = "rgb",
    ) -> "Image":
        """Put edited faces back into the photo (docs/editing.md).

        Parameters
        ----------
        image : array, path, bytes or PIL image
            The photo that was reconstructed.
        faces : Face, sequence of Face, or Result
            Edited faces, as `with_faces` takes them, or the result that it returns.
        mode : "photo" or "model"
            The photo itself, moved with the face and multiplied by new / old shading; or the model's own colours. What
            is not edited stays as it is.
        color : "rgb" or "bgr"
            Channel order of an array.

        Returns
        -------
        picture : PIL.Image.Image
            RGB, the size of the photo.

        Raises
        ------
        TypeError
            `faces` holds something else.
        ValueError
            `mode` is none of these, `image` has another size than the photo, or a face is not from this result.
        """
        from .composite import composite

        return composite(self, image, faces, mode=mode, color=color)

    def render(self) -> Raster:
        """Return the maps of the photo: face ids, depth, normals, PNCC, face parts, colour.

        One raster pass with one depth buffer for all faces serves them all; each map is computed when first asked for,
        then kept.
        """
        return Raster(self.dense)

    def save_maps(self, folder: str | os.PathLike[str]) -> None:
        """Write the maps as PNG and TIFF files into a folder, made if new; docs/maps.md has their encoding.

        face_id.png, region.png, depth.tiff, normals.png, pncc.png and, where there are faces, visibility.png;
        `wm3dr.read_map` reads them back.

        Raises
        ------
        OSError
            They cannot be written.
        """
        from .mapfiles import save_maps

        save_maps(self, folder)

    def draw(self, image: "ImageSource | None" = None, kind: str = "overlay", **options: Any) -> "Image":
        """Draw the result on its photo.

        Parameters
        ----------
        image : array, path, bytes or PIL image
            The photo that was reconstructed; views do without it.
        kind : "overlay", "attributes" or "views"
            Meshes over the photo with boxes and landmarks; the paper's figure 11 (boxes and landmarks, render, head
            pose and face parts); its figure 12 (front, right and top view of all faces in the common space).
        options
            As `wm3dr.draw.overlay`, `attributes` and `views` take them.

        Returns
        -------
        picture : PIL.Image.Image

        Raises
        ------
        ValueError
            `kind` is none of these, or `image` has another size than the photo.
        """
        from . import draw

        return draw.draw(self, image, kind, **options)

    def to_html(
        self, image: "ImageSource | None" = None, *, color: "ColorOrder" = "rgb", title: str | None = None
    ) -> str:
        """Return a page with the faces in 3D (docs/viewer.md): self-contained, for any browser, without network.

        Parameters
        ----------
        image : array, path, bytes or PIL image, optional
            The photo that was reconstructed, to stand behind the faces; a result does not keep it.
        color : "rgb" or "bgr"
            Channel order of an array.
        title : str, optional
            Title of the page; None takes the file's name, where there is one.

        Raises
        ------
        ValueError
            `image` has another size than the photo.
        """
        from .viewer import html_from_result

        return html_from_result(self, image, color=color, title=title)

    def _repr_html_(self) -> str:
        from .viewer import notebook_html

        return notebook_html(self)

    def _repr_png_(self) -> bytes:
        from .viewer import notebook_png

        return notebook_png(self)

    def save(self, path: str | os.PathLike[str], *, textures: "Sequence[Texture] | None" = None) -> None:
        """Write the result; the suffix says how. Whole or not at all; an existing file is replaced.

        .json
            Everything of `to_dict`.
        .glb
            The scene: a node per face (model frame, metres, vertex colours) and the camera.
        .obj, .ply
            All faces as one mesh file with vertex colours, OpenGL frame, mm.

        Parameters
        ----------
        path : path
        textures : sequence of F Texture, optional
            Of the faces, in their order, for .glb (inside the file) and .obj (PATH.mtl and a PNG per face beside it)
            instead of vertex colours.

        Raises
        ------
        ValueError
            The suffix is none of these, it cannot hold textures, their number is not that of the faces, or there is
            no face to write as .obj or .ply.
        OSError
            The file cannot be written.
        """
        from .export import save_result

        save_result(self, path, textures)

    def to_dict(self) -> dict[str, Any]:
        """Return everything sparse, JSON-able: size, camera, metric, provider, timings, face_model, faces."""
        return {
            "format": "wm3dr-result",
            "version": 1,
            "size": list(self.size),
            "camera": self.camera.to_dict(),
            "metric": self.metric,
            "provider": self.provider,
            "timings": {stage: round(ms, 3) for stage, ms in self.timings.items()},
            "face_model": {"name": self.face_model.name, "sha256": self.face_model.sha256},
            "faces": [face.to_dict() for face in self.faces],
        }

    def to_table(self, photo: str | None = None) -> "pa.Table":
        """Return the faces as an Arrow table, a row per face; see `wm3dr.tables.to_table`."""
        from .tables import to_table

        return to_table(self, photo)

    def to_pandas(self, photo: str | None = None) -> "pd.DataFrame":
        """Return the faces as a pandas data frame, a row per face; see `wm3dr.tables.to_pandas`."""
        from .tables import to_pandas

        return to_pandas(self, photo)

    def to_supervision(self, *, masks: bool = False) -> "supervision.Detections":
        """Return the faces as `supervision.Detections`; see `wm3dr.adapters.to_supervision`."""
        from .adapters import to_supervision

        return to_supervision(self, masks=masks)

    def to_key_points(self) -> "supervision.KeyPoints":
        """Return the landmarks as `supervision.KeyPoints`; see `wm3dr.adapters.to_key_points`."""
        from .adapters import to_key_points

        return to_key_points(self)

    def log_rerun(self, image: "ImageSource | None" = None, **options: Any) -> None:
        """Log photo, boxes, landmarks, meshes and camera to Rerun; see `wm3dr.adapters.log_rerun`."""
        from .adapters import log_rerun

        log_rerun(self, image, **options)
