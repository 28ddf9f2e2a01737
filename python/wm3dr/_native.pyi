from typing import final

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

class ModelError(ValueError): ...

@final
class FaceModel:
    def __init__(
        self,
        *,
        mean_shape: F32,  # (N0, 3)
        identity_basis: NDArray[np.float16],  # (N0, 3, K_id)
        expression_basis: NDArray[np.float16],  # (N0, 3, K_exp)
        mean_albedo: F32,  # (N0, 3)
        albedo_basis: NDArray[np.float16],  # (N0, 3, K_alb)
        triangles: I32,  # (T0, 3)
        landmark_vertices: I32,  # (68,), refined numbers
        uv: F32,  # (T0, 3, 2)
        regions: U8,  # (N0,)
        mirror: I32,  # (N0,)
        subdivisions: int,
    ) -> None: ...
    @property
    def n_vertices(self) -> int: ...
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
    def mean_shape(self) -> F32: ...  # (N, 3)
    @property
    def mean_albedo(self) -> F32: ...  # (N, 3)
    @property
    def triangles(self) -> I32: ...  # (T, 3)
    @property
    def landmark_vertices(self) -> I32: ...  # (68,)
    @property
    def uv(self) -> F32: ...  # (T, 3, 2)
    @property
    def regions(self) -> U8: ...  # (N,)
    @property
    def mirror(self) -> I32: ...  # (N,)
    def shapes(self, identity: F32, expression: F32, threads: int) -> F32: ...  # (F, N, 3)
    def albedos(self, albedo: F32, threads: int) -> F32: ...  # (F, N, 3)
    def landmarks(self, identity: F32, expression: F32) -> F32: ...  # (F, 68, 3)
    def vertices_camera(  # (F, N, 3): transform(shapes(...)) to within rounding, at a third of the work
        self,
        identity: F32,
        expression: F32,
        rotations: F32,
        translations: F32,
        threads: int,
    ) -> F32: ...
    def normals(
        self, vertices: F32, threads: int
    ) -> F32: ...  # vertex_normals of decoded vertices, a quarter of the work
    def boxes(  # (F, 4): exact box of the projected mesh, from the stored vertices
        self,
        identity: F32,
        expression: F32,
        rotations: F32,
        translations: F32,
        focal: float,
        principal_point: tuple[float, float],
        threads: int,
    ) -> F32: ...

def find_peaks(heatmap: F32, threshold: float, window: int) -> tuple[I32, F32]: ...  # (P, 2) row, column; (P,)
def gather_coefficients(coefficients: F32, peaks: I32) -> F32: ...  # (C, h, w) -> (P, C)
def rotations_from_vectors(
    vectors: F32,  # (F, 3)
    translations: F32 | None = None,  # (F, 3): the vectors are relative to the viewing ray; None: to the optical axis
) -> F32: ...  # (F, 3, 3)
def translations_from_offsets(
    offsets: F32,  # (F, 3)
    centers: F32,  # (F, 2), network pixels
    focal: float,
    principal_point: tuple[float, float],
) -> F32: ...  # (F, 3), mm
def pose_from_rotations(rotations: F32) -> F32: ...  # (F, 3): yaw, pitch, roll in degrees
def transform(vertices_model: F32, rotations: F32, translations: F32, threads: int) -> F32: ...  # (F, N, 3)
def project(
    points_camera: F32, focal: float, principal_point: tuple[float, float]
) -> F32: ...  # (F, N, 3) -> (F, N, 2)
def vertex_normals(vertices: F32, triangles: I32, threads: int) -> F32: ...  # (F, N, 3), frame of the input
def shading(normals_viewer: F32, illumination: F32, threads: int) -> F32: ...  # (F, N, 3), (F, 3, 9) -> (F, N, 3)
def colors(  # albedo * shading clipped to [0, 1]; normals in the camera frame
    albedo: F32, normals_camera: F32, illumination: F32, threads: int
) -> F32: ...  # (F, N, 3), (F, N, 3), (F, 3, 9) -> (F, N, 3)
def rasterize(
    vertices_camera: F32,  # (F, N, 3)
    triangles: I32,  # (T, 3), the same for all faces
    focal: float,
    principal_point: tuple[float, float],
    size: tuple[int, int],  # width, height
    threads: int,
) -> tuple[I32, I32, F32, F32]: ...  # triangle_id (H, W), face_id (H, W), depth (H, W), barycentric (H, W, 3)
def interpolate(
    triangle_id: I32,  # (H, W)
    face_id: I32,  # (H, W)
    barycentric: F32,  # (H, W, 3)
    triangles: I32,  # (T, 3)
    attributes: F32,  # (F, N, C)
    threads: int,
) -> F32: ...  # (H, W, C), 0 where there is nothing
