"""Maps of the whole photo, all from one raster pass (CONVENTIONS.md §7): who, where, how far, which way, which part.

The pass gives triangle, face, depth and barycentric weights of every pixel; each map follows from them when asked for.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .dense import DenseFaces, RasterBuffers, interpolate
from .face_model import FaceModel

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Raster:
    """What is seen at each pixel of the caller's image; one depth buffer for all faces.

    Every map is computed when first asked for, then kept; arrays are read-only.
    """

    dense: DenseFaces = field(repr=False)
    """Dense geometry of all faces of the photo."""

    @property
    def _buffers(self) -> RasterBuffers:
        return self.dense.raster

    @property
    def face_id(self) -> NDArray[np.int32]:
        """(H, W) number of the face in `result.faces`; -1 where there is nothing."""
        return self._buffers.face_id

    @property
    def triangle_id(self) -> NDArray[np.int32]:
        """(H, W) number of the triangle in `face_model.triangles`; -1 where there is nothing."""
        return self._buffers.triangle_id

    @property
    def barycentric(self) -> F32:
        """(H, W, 3) weights of the triangle's corners in space (perspective-correct); 0 where there is nothing."""
        return self._buffers.barycentric

    @property
    def depth(self) -> F32:
        """(H, W) camera z, mm; 0 where there is nothing."""
        return self._buffers.depth

    @property
    def color(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB of the rendered faces, 0 where there is nothing."""
        return self.dense.raster_color

    @property
    def alpha(self) -> NDArray[np.uint8]:
        """(H, W) 255 on a face, 0 where there is nothing."""
        return self.dense.once("raster_alpha", lambda: (self.triangle_id >= 0).astype(np.uint8) * np.uint8(255))

    @property
    def region(self) -> NDArray[np.int16]:
        """(H, W) face-part label of the nearest corner, an index of `face_model.region_names`; -1: nothing."""

        def compute() -> NDArray[np.int16]:
            hit = self.triangle_id >= 0
            a, b, c = self.barycentric[hit].T
            nearest = np.where(c > np.maximum(a, b), 2, b > a)
            face_model = self.dense.face_model
            labels = face_model.regions[face_model.triangles].reshape(-1)
            region = np.full(hit.shape, -1, np.int16)
            region[hit] = labels[3 * self.triangle_id[hit] + nearest]
            return region

        return self.dense.once("raster_region", compute)

    @property
    def normals(self) -> F32:
        """(H, W, 3) unit vectors out of the face, camera frame; 0 where there is nothing."""

        def compute() -> F32:
            normals = self.interpolated(self.dense.normals)
            length = np.sqrt(np.einsum("hwc,hwc->hw", normals, normals))[:, :, None]
            np.divide(normals, length, out=normals, where=length > 0)
            return normals

        return self.dense.once("raster_normals", compute)

    @property
    def pncc(self) -> F32:
        """(H, W, 3) projected normalised coordinate code in [0, 1]; 0 where there is nothing.

        The place on the mean face that a pixel shows, as a colour, whoever's face it is: `ncc_from_face_model` carried
        to the pixels (Zhu, Lei, Liu, Shi, Li: Face Alignment Across Large Poses: A 3D Solution, CVPR 2016).
        """

        def compute() -> F32:
            code = ncc_from_face_model(self.dense.face_model)[None]
            first = np.where(self.face_id >= 0, np.int32(0), np.int32(-1))  # the code is the same for all faces
            buffers = RasterBuffers(self.triangle_id, first, self.depth, self.barycentric)
            return interpolate(buffers, self.dense.face_model.triangles, code, self.dense.threads)

        return self.dense.once("raster_pncc", compute)

    def interpolated(self, attributes: F32) -> F32:
        """Carry (F, N, C) float32 vertex attributes to the pixels, (H, W, C), 0 where there is nothing."""
        return interpolate(self._buffers, self.dense.face_model.triangles, attributes, self.dense.threads)


def ncc_from_face_model(face_model: FaceModel) -> F32:
    """Return the (N, 3) normalised coordinate code: the mean shape, each axis scaled to [0, 1].

    ``NCC_d = (S̄_d − min S̄_d) / (max S̄_d − min S̄_d)``, d = x, y, z of the model frame, as red, green and blue: red
    grows to the subject's left, green upwards, blue out of the face.
    """
    low, high = ncc_bounds(face_model)
    return ((face_model.mean_shape - low) / (high - low)).astype(np.float32)


def ncc_bounds(face_model: FaceModel) -> tuple[F32, F32]:
    """Return the corners (3,), (3,) of the mean shape's box, model frame, mm: ``S̄ = low + NCC (high − low)``."""
    shape = face_model.mean_shape
    return shape.min(axis=0), shape.max(axis=0)
