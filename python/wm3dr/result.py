"""What a reconstruction returns. Frames, axes and units are CONVENTIONS.md's.

Sparse values (boxes, landmarks, poses, coefficients) are there at once; dense ones are computed for all faces together
when the first is asked for, then kept.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .camera import Camera, check_camera
from .dense import OPENGL_FROM_CAMERA, DenseFaces
from .face_model import FaceModel
from .frames import Frame, change_frame, check_frame
from .maps import Raster

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import supervision
    import trimesh
    from PIL.Image import Image

    from .edit import Light
    from .image import ColorOrder, ImageSource
    from .placement import Sizes
    from .texture import Texture

F32 = NDArray[np.float32]

LANDMARK_GROUPS: dict[str, slice] = {
    "jaw": slice(0, 17),
    "right_brow": slice(17, 22),
    "left_brow": slice(22, 27),
    "nose_bridge": slice(27, 31),
    "nose_base": slice(31, 36),
    "right_eye": slice(36, 42),
    "left_eye": slice(42, 48),
    "outer_lips": slice(48, 60),
    "inner_lips": slice(60, 68),
}
"""Parts of the 68 landmarks; left and right are the subject's."""


class Pose(NamedTuple):
    """Head pose in degrees (CONVENTIONS.md §2); all zero for a frontal, upright face."""

    yaw: float
    """In [-90, 90]; positive: the nose points to the image's right."""
    pitch: float
    """In (-180, 180]; positive: the nose points up."""
    roll: float
    """In (-180, 180]; positive: counter-clockwise as seen in the image."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Coefficients of one face (CONVENTIONS.md §4); widths are the face model's."""

    identity: F32
    """(K_id,) standard deviations."""
    expression: F32
    """(K_exp,) full blendshapes."""
    albedo: F32
    """(K_alb,) standard deviations."""
    illumination: F32
    """(3, 9) spherical harmonics per channel R, G, B, the ambient term 0.8 included."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh with vertex colours."""

    vertices: F32
    """(N, 3) mm, in `frame`."""
    normals: F32
    """(N, 3) unit vectors out of the face, in `frame`."""
    colors: F32
    """(N, 3) sRGB-encoded, in [0, 1]."""
    triangles: NDArray[np.int32]
    """(T, 3) vertex numbers, counter-clockwise seen from outside."""
    frame: Frame
    """"opengl", "camera" or "model" (CONVENTIONS.md §2)."""

    def to_trimesh(self) -> "trimesh.Trimesh":
        """Return a `trimesh.Trimesh` with the same vertices in the same order."""
        import trimesh

        return trimesh.Trimesh(
            vertices=self.vertices,
            faces=self.triangles,
            vertex_normals=self.normals,
            vertex_colors=np.rint(self.colors * 255.0).astype(np.uint8),
            process=False,
        )


@dataclass(frozen=True, eq=False)
class Face:
    """One face. Pixels are the caller's; millimetres have the scale of the face model unless it is `metric`."""

    index: int
    """Position in `result.faces`; also its `face_id` in rasters."""
    score: float
    """Heatmap value of its peak, in [0, 1]."""
    box: F32
    """(4,) x0, y0, x1, y1 px of the projected mesh; it may reach beyond the image."""
    center: F32
    """(2,) px, centre of the peak's heatmap cell."""
    landmarks: F32
    """(68, 2) px, 300-W order."""
    landmarks_camera: F32
    """(68, 3) mm, camera frame."""
    rotation: F32
    """(3, 3) model to camera."""
    translation: F32
    """(3,) mm, model origin in the camera frame."""
    pose: Pose
    """Yaw, pitch, roll in degrees."""
    coefficients: Coefficients
    """What the encoder said about the face."""
    dense: DenseFaces = field(repr=False)
    """Dense geometry of all faces of the photo, shared by them."""

    @property
    def face_model(self) -> FaceModel:
        """The model that the coefficients belong to."""
        return self.dense.face_model

    @property
    def metric(self) -> bool:
        """Whether millimetres are real ones, from a known size (`Result.with_scale`), or the face model's."""
        return bool(self.dense.metric[self.index])

    @property
    def scale(self) -> float:
        """Millimetres per millimetre of the face model: 1 unless a size was given."""
        return float(self.dense.scales[self.index])

    @property
    def ipd_mm(self) -> float:
        """Distance between the eyes (midpoints of their corners) in the neutral expression, mm."""
        from .placement import interpupillary_mm

        return self.scale * float(interpupillary_mm(self.face_model, self.coefficients.identity[None])[0])

    @property
    def blendshapes(self) -> dict[str, float]:
        """Expression coefficients by name."""
        values = _floats(self.coefficients.expression)
        return dict(zip(self.face_model.expression_names, values, strict=True))

    @property
    def vertices(self) -> F32:
        """(N, 3) mm, camera frame."""
        return self.dense.vertices[self.index]

    @property
    def vertices_px(self) -> F32:
        """(N, 2) px."""
        return self.dense.vertices_px[self.index]

    @property
    def normals(self) -> F32:
        """(N, 3) unit vectors out of the face, camera frame, as `vertices`."""
        return self.dense.normals[self.index]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N,) whether the vertex is inside the image, faces the camera and is hidden by no face."""
        return self.dense.visible[self.index]

    @property
    def landmarks_visible(self) -> NDArray[np.bool_]:
        """(68,) whether the landmark is seen: a corner of a triangle around it is `visible`."""
        return self.dense.landmarks_visible[self.index]

    @property
    def albedo(self) -> F32:
        """(N, 3) sRGB-encoded reflectance; mostly in [0, 1], not clipped."""
        return self.dense.albedo[self.index]

    @property
    def colors(self) -> F32:
        """(N, 3) albedo times shading, sRGB-encoded, in [0, 1]."""
        return self.dense.colors[self.index]

    def vertices_in(self, frame: Frame) -> F32:
        """Return the (N, 3) vertices in a frame (CONVENTIONS.md §2).

        Parameters
        ----------
        frame : "model", "camera", "opengl" or "image"
            mm; "image" is x and y in pixels of the photo and camera z in mm, what `Camera.unproject` takes.

        Raises
        ------
        ValueError
            `frame` is none of these.
        """
        check_frame(frame)
        if frame == "model":
            return self.dense.vertices_model[self.index]
        if frame == "opengl":
            return self.vertices * OPENGL_FROM_CAMERA
        if frame == "image":
            return np.concatenate([self.vertices_px, self.vertices[:, 2:]], axis=1)
        return self.vertices

    def change_frame(self, points: ArrayLike, source: Frame, target: Frame) -> NDArray[np.float64]:
        """Carry (..., 3) points from one frame to another: glasses of the model frame into the photo, say.

        Frames are those of `vertices_in`; see `wm3dr.frames.change_frame`, also for what it raises.
        """
        return change_frame(
            points,
            source,
            target,
            rotation=self.rotation,
            translation=self.translation,
            camera=self.dense.camera,
        )

    def mesh(self, frame: Frame = "opengl") -> Mesh:
        """Return the coloured mesh.

        Parameters
        ----------
        frame : "opengl", "camera" or "model"
            OpenGL (x right, y up, z towards the camera) is what 3D software expects.

        Raises
        ------
        ValueError
            `frame` is none of these.
        """
        check_frame(frame, frames=("opengl", "camera", "model"))
        if frame == "model":
            normals = self.normals @ self.rotation
        else:
            normals = self.normals * OPENGL_FROM_CAMERA if frame == "opengl" else self.normals
        return Mesh(self.vertices_in(frame), normals, self.colors, self.face_model.triangles, frame)

    def to_trimesh(self) -> "trimesh.Trimesh":
        """Return the mesh as a `trimesh.Trimesh`, OpenGL frame, mm."""
        return self.mesh().to_trimesh()

    def texture(self, image: "ImageSource", size: int = 1024, *, color: "ColorOrder" = "rgb") -> "Texture":
        """Take the face's UV texture from its photo (docs/texture.md).

        Where the photo does not show the face (outside it, turned away, hidden by itself or by another face), the
        mirror side gives the colour, and where that is not seen either, the albedo model.

        Parameters
        ----------
        image : array, path, bytes or PIL image
            The photo that was reconstructed.
        size : int
            Side of the atlas, texels, 16 to 8192.
        color : "rgb" or "bgr"
            Channel order of an array.

        Raises
        ------
        TypeError
            `size` is no int, or `image` no photo.
        ValueError
            `size` is out of range, `image` has another size than the photo, or the face's light is nowhere positive.
        """
        from .texture import texture_from_photo

        return texture_from_photo(self, image, size, color=color)

    def with_expression(self, weights: Mapping[str, float] | ArrayLike) -> "Face":
        """Return the face with another expression, in the same place and light (docs/editing.md).

        Parameters
        ----------
        weights : mapping or (K_exp,)
            New weights of the blendshapes that it names, the others stay; or of all. Names are the face model's
            (`mouthSmile_L`) or ARKit's (`mouthSmileLeft`; `browInnerUp` sets both sides). 1 is the full blendshape.

        Raises
        ------
        TypeError
            Weights are not numbers.
        ValueError
            A name is not known, the shape is not (K_exp,), or a weight is not finite.
        """
        from .edit import with_expression

        return with_expression(self, weights)

    def neutral(self) -> "Face":
        """Return the face without expression: all weights zero."""
        return self.with_expression(np.zeros(len(self.coefficients.expression), np.float32))

    def with_illumination(self, light: "Light") -> "Face":
        """Return the face in another light (docs/editing.md).

        Parameters
        ----------
        light : str, Face or (3, 9)
            "ambient", "front", "left", "right", "top" or "bottom": where in the image the light comes from, as bright
            and as tinted on average as the face's own; another face, whose light to take; or spherical harmonics
            (CONVENTIONS.md §6), the ambient term included.

        Raises
        ------
        TypeError
            `light` is none of these.
        ValueError
            There is no such preset, the shape is not (3, 9), or a value is not finite.
        """
        from .edit import with_illumination

        return with_illumination(self, light)

    def save(self, path: str | os.PathLike[str], *, texture: "Texture | None" = None) -> None:
        """Write this face alone as .glb, .obj or .ply, with a `texture` as .glb or .obj; see `Result.save`."""
        from .export import save_faces

        save_faces([self], self.dense.camera, path, None if texture is None else [texture])

    def to_dict(self) -> dict[str, Any]:
        """Return everything sparse, JSON-able."""
        return {
            "score": _floats(self.score),
            "box": _floats(self.box),
            "center": _floats(self.center),
            "landmarks": _floats(self.landmarks),
            "landmarks_camera": _floats(self.landmarks_camera),
            "rotation": _floats(self.rotation),
            "translation": _floats(self.translation),
            "pose": self.pose._asdict(),
            "metric": self.metric,
            "scale": _floats(self.scale),
            "coefficients": {
                "identity": _floats(self.coefficients.identity),
                "expression": _floats(self.coefficients.expression),
                "albedo": _floats(self.coefficients.albedo),
                "illumination": _floats(self.coefficients.illumination),
            },
            "blendshapes": self.blendshapes,
        }


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


def _floats(values: Any) -> Any:
    """Return float32 values as the shortest Python floats (nested lists) that read back equal."""
    array = np.asarray(values, np.float32)
    return array.astype(str).astype(np.float64).tolist()
