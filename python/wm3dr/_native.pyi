from typing import Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ColorFitter",
    "FaceModel",
    "ModelError",
    "averaged_rows",
    "cell_centers",
    "colors",
    "find_peaks",
    "gather_coefficients",
    "gather_features",
    "has_quantized_kernels",
    "interpolate",
    "neighbourhoods",
    "pose_from_rotations",
    "project",
    "rasterize",
    "rotations_from_vectors",
    "shading",
    "transform",
    "translations_from_offsets",
    "vertex_normals",
]

_F32: TypeAlias = NDArray[np.float32]
_I32: TypeAlias = NDArray[np.int32]
_U8: TypeAlias = NDArray[np.uint8]

class ModelError(ValueError): ...

@final
class FaceModel:
    def __new__(
        cls,
        *,
        mean_shape: _F32,  # (N0, 3)
        identity_basis: NDArray[np.float16],  # (N0, 3, K_id)
        expression_basis: NDArray[np.float16],  # (N0, 3, K_exp)
        mean_albedo: _F32,  # (N0, 3)
        albedo_basis: NDArray[np.float16],  # (N0, 3, K_alb)
        triangles: _I32,  # (T0, 3)
        landmark_vertices: _I32,  # (68,), refined numbers
        uv: _F32,  # (T0, 3, 2)
        regions: _U8,  # (N0,)
        mirror: _I32,  # (N0,)
        subdivisions: int,
    ) -> Self: ...
    @property
    def n_vertices(self) -> int: ...
    @property
    def n_stored(self) -> int: ...  # vertices before refinement: the first of the refined mesh
    @property
    def n_triangles(self) -> int: ...
    @property
    def n_identity(self) -> int: ...
    @property
    def n_expression(self) -> int: ...
    @property
    def n_albedo(self) -> int: ...
    # the refined mesh, read-only arrays made once
    @property
    def mean_shape(self) -> _F32: ...  # (N, 3)
    @property
    def mean_albedo(self) -> _F32: ...  # (N, 3)
    @property
    def triangles(self) -> _I32: ...  # (T, 3)
    @property
    def landmark_vertices(self) -> _I32: ...  # (68,)
    @property
    def uv(self) -> _F32: ...  # (T, 3, 2)
    @property
    def regions(self) -> _U8: ...  # (N,)
    @property
    def mirror(self) -> _I32: ...  # (N,)
    def shapes(self, identity: _F32, expression: _F32, threads: int) -> _F32: ...  # (F, N, 3)
    def albedos(self, albedo: _F32, threads: int) -> _F32: ...  # (F, N, 3)
    def landmarks(self, identity: _F32, expression: _F32) -> _F32: ...  # (F, 68, 3)
    def vertices_camera(  # (F, N, 3): transform(shapes(...)) to within rounding, at a third of the work
        self,
        identity: _F32,
        expression: _F32,
        rotations: _F32,
        translations: _F32,
        threads: int,
    ) -> _F32: ...
    def normals(
        self, vertices: _F32, threads: int
    ) -> _F32: ...  # vertex_normals of decoded vertices, a quarter of the work
    def stored_vertices(  # (F, N0, 3): those of vertices_camera that are stored
        self,
        identity: _F32,
        expression: _F32,
        rotations: _F32,
        translations: _F32,
        threads: int,
    ) -> _F32: ...
    def refine(self, stored: _F32, threads: int) -> _F32: ...  # (F, N0, 3) -> (F, N, 3)
    def stored_normals(self, vertices: _F32, threads: int) -> _F32: ...  # (F, N0, 3), as normals
    def render(  # rasterize the stored mesh and shade what is seen: the maps of rasterize, RGB (H, W, 3)
        self,
        vertices: _F32,  # (F, N0, 3), camera frame
        normals: _F32,  # (F, N0, 3)
        albedo: _F32,  # (F, K_alb)
        illumination: _F32,  # (F, 3, 9)
        focal: float,
        principal_point: tuple[float, float],
        size: tuple[int, int],  # width, height
        threads: int,
    ) -> tuple[tuple[_I32, _I32, _F32, _F32], _U8]: ...
    def boxes(  # (F, 4): exact box of the projected mesh, from the stored vertices
        self,
        identity: _F32,
        expression: _F32,
        rotations: _F32,
        translations: _F32,
        focal: float,
        principal_point: tuple[float, float],
        threads: int,
    ) -> _F32: ...

@final
class ColorFitter:
    def __new__(cls, face_model: FaceModel, weights: _F32) -> Self: ...  # (N0,): what a stored vertex counts, 0 nothing
    @property
    def n_areas(self) -> int: ...
    def fit(  # (F, K_alb), (F, 3, 9)
        self,
        image: _U8,  # (H, W, 3)
        focal: float,
        principal_point: tuple[float, float],
        vertices_camera: _F32,  # (F, N0, 3)
        normals_camera: _F32,  # (F, N0, 3)
        albedo: _F32,  # (F, K_alb): expected, and kept where too little is seen
        illumination: _F32,  # (F, 3, 9): kept where too little is seen
        threads: int,
    ) -> tuple[_F32, _F32]: ...

def find_peaks(heatmap: _F32, threshold: float, window: int) -> tuple[_I32, _F32]: ...  # (P, 2) row, column; (P,)
def gather_coefficients(coefficients: _F32, peaks: _I32) -> _F32: ...  # (C, h, w) -> (P, C)
def gather_features(features: _U8, cells: _I32) -> _U8: ...  # (h, w, F), (M, 2) -> (M, F)
def cell_centers(cells: _I32, stride: float) -> _F32: ...  # (P, 2) row, column -> (P, 2) x, y, network pixels
def neighbourhoods(
    cells: _I32,  # (P, 2) row, column
    size: tuple[int, int],  # rows, columns of the map
    window: int,
) -> tuple[_I32, _I32]: ...  # (M, 2), each cell's window in turn; (M,), the cell that each belongs to
def averaged_rows(
    rows: _F32,  # (M, C)
    cells: _I32,  # (P, 2)
    around: _I32,  # (M, 2)
    owner: _I32,  # (M,)
    stride: float,  # network pixels
    offsets: int,  # column of the lateral offset in x
) -> _F32: ...  # (P, C)
def rotations_from_vectors(
    vectors: _F32,  # (F, 3)
    translations: _F32 | None = None,  # (F, 3): the vectors are relative to the viewing ray; None: to the optical axis
) -> _F32: ...  # (F, 3, 3)
def translations_from_offsets(
    offsets: _F32,  # (F, 3)
    centers: _F32,  # (F, 2), network pixels
    focal: float,
    principal_point: tuple[float, float],
) -> _F32: ...  # (F, 3), mm
def pose_from_rotations(rotations: _F32) -> _F32: ...  # (F, 3): yaw, pitch, roll in degrees
def transform(vertices_model: _F32, rotations: _F32, translations: _F32, threads: int) -> _F32: ...  # (F, N, 3)
def project(
    points_camera: _F32, focal: float, principal_point: tuple[float, float]
) -> _F32: ...  # (F, N, 3) -> (F, N, 2)
def vertex_normals(vertices: _F32, triangles: _I32, threads: int) -> _F32: ...  # (F, N, 3), frame of the input
def shading(normals_opengl: _F32, illumination: _F32, threads: int) -> _F32: ...  # (F, N, 3), (F, 3, 9) -> (F, N, 3)
def colors(  # albedo * shading clipped to [0, 1]; normals in the camera frame
    albedo: _F32, normals_camera: _F32, illumination: _F32, threads: int
) -> _F32: ...  # (F, N, 3), (F, N, 3), (F, 3, 9) -> (F, N, 3)
def rasterize(
    vertices_camera: _F32,  # (F, N, 3)
    triangles: _I32,  # (T, 3), the same for all faces
    focal: float,
    principal_point: tuple[float, float],
    size: tuple[int, int],  # width, height
    threads: int,
    split: bool = False,  # triangle_id and barycentric of the mesh refined once from this one (CONVENTIONS.md §5)
) -> tuple[_I32, _I32, _F32, _F32]: ...  # triangle_id (H, W), face_id (H, W), depth (H, W), barycentric (H, W, 3)
def interpolate(
    triangle_id: _I32,  # (H, W)
    face_id: _I32,  # (H, W)
    barycentric: _F32,  # (H, W, 3)
    triangles: _I32,  # (T, 3)
    attributes: _F32,  # (F, N, C)
    threads: int,
) -> _F32: ...  # (H, W, C), 0 where there is nothing
def has_quantized_kernels() -> bool: ...
