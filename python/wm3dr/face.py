"""One face of a result: where it is, what the encoder said about it, and its mesh (CONVENTIONS.md §2–§6)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dense import OPENGL_FROM_CAMERA, DenseFaces
from .face_model import FaceModel
from .frames import Frame, change_frame, check_frame

if TYPE_CHECKING:
    import trimesh

    from .edit import Light
    from .image import ColorOrder, ImageSource
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
    """Coefficients of one face (CONVENTIONS.md §4); widths are the face model's.

    Identity and expression are the encoder's; albedo and illumination are fitted to the photo when first asked for
    (CONVENTIONS.md §6), or the encoder's with `Reconstructor(fit_colors=False)`.
    """

    dense: DenseFaces = field(repr=False)
    """All faces of the photo."""
    index: int
    """Which of them."""

    @property
    def identity(self) -> F32:
        """(K_id,) standard deviations."""
        return self.dense.identity[self.index]

    @property
    def expression(self) -> F32:
        """(K_exp,) full blendshapes."""
        return self.dense.expression[self.index]

    @property
    def albedo(self) -> F32:
        """(K_alb,) standard deviations."""
        return self.dense.albedo_coefficients[self.index]

    @property
    def illumination(self) -> F32:
        """(3, 9) spherical harmonics per channel R, G, B, the ambient term 0.8 included."""
        return self.dense.illumination[self.index]


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
    dense: DenseFaces = field(repr=False)
    """Dense geometry of all faces of the photo, shared by them."""

    @property
    def coefficients(self) -> Coefficients:
        """Identity, expression, albedo and illumination."""
        return Coefficients(self.dense, self.index)

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
        values = floats(self.coefficients.expression)
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
            "score": floats(self.score),
            "box": floats(self.box),
            "center": floats(self.center),
            "landmarks": floats(self.landmarks),
            "landmarks_camera": floats(self.landmarks_camera),
            "rotation": floats(self.rotation),
            "translation": floats(self.translation),
            "pose": self.pose._asdict(),
            "metric": self.metric,
            "scale": floats(self.scale),
            "coefficients": {
                "identity": floats(self.coefficients.identity),
                "expression": floats(self.coefficients.expression),
                "albedo": floats(self.coefficients.albedo),
                "illumination": floats(self.coefficients.illumination),
            },
            "blendshapes": self.blendshapes,
        }


def floats(values: Any) -> Any:
    """Return float32 values as the shortest Python floats (nested lists) that read back equal."""
    array = np.asarray(values, np.float32)
    return array.astype(str).astype(np.float64).tolist()
