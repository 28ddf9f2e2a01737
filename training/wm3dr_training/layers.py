"""Face model, pose, camera and illumination in torch; the twins of `rust/core` (CONVENTIONS.md §2–6), differentiable.

All functions are batched over faces F. Units: mm, network pixels, radians.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wm3dr.face_model import FaceModelMetadata, parse_face_model
from wm3dr_training.encoder import DEPTH_OFFSET, FOCAL, Layout

UNIT_MM = 100.0  # one unit of the raw depth
AMBIENT = 0.8  # the network's ambient term is an offset from it
_A0, _A1, _A2 = math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)
_C0, _C1, _C2 = (
    1 / math.sqrt(4 * math.pi),
    math.sqrt(3) / math.sqrt(4 * math.pi),
    3 * math.sqrt(5) / math.sqrt(12 * math.pi),
)
OPENGL_FROM_CAMERA = (1.0, -1.0, -1.0)


class FaceModel(nn.Module):
    """The 3D morphable model at its stored (coarse) resolution, with sparse read-out of points (METHOD.md, decoder).

    Buffers: `mean_shape` (N0, 3), `identity_basis` (N0, 3, K_id), `expression_basis` (N0, 3, K_exp), `mean_albedo`
    (N0, 3), `albedo_basis` (N0, 3, K_alb), `triangles` (T0, 3), `regions` (N0,), `mirror` (N0,).
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], metadata: FaceModelMetadata, sha256: str) -> None:
        super().__init__()
        self.metadata, self.sha256 = metadata, sha256
        for name in ("mean_shape", "identity_basis", "expression_basis", "mean_albedo", "albedo_basis"):
            self.register_buffer(name, torch.from_numpy(np.asarray(tensors[name], dtype=np.float32)), persistent=False)
        for name in ("triangles", "regions", "mirror"):
            self.register_buffer(name, torch.from_numpy(np.asarray(tensors[name], dtype=np.int64)), persistent=False)
        ends = _landmark_ends(
            np.asarray(tensors["landmark_vertices"]),
            np.asarray(tensors["triangles"]),
            len(tensors["mean_shape"]),
            metadata.subdivisions,
        )
        self.register_buffer(
            "landmark_ends", torch.from_numpy(ends), persistent=False
        )  # (68, 2) coarse vertices, averaged

    @classmethod
    def load(cls, path: str | Path) -> FaceModel:
        """Read a face-model file (`*.safetensors`).

        Raises
        ------
        FileNotFoundError
            There is no such file.
        wm3dr.ModelError
            The file is not a valid face model.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"'face_model' {path} does not exist")
        content = path.read_bytes()
        metadata, tensors = parse_face_model(content)
        return cls(tensors, metadata, hashlib.sha256(content).hexdigest())

    @property
    def layout(self) -> Layout:
        """Widths of the coefficient groups."""
        return Layout(self.identity_basis.shape[2], self.expression_basis.shape[2], self.albedo_basis.shape[2])

    @property
    def blendshapes(self) -> bool:
        """True when expression coefficients are blendshape weights in [0, 1]."""
        return self.metadata.expression_kind == "blendshape"

    def point_rows(self, vertex_ids: Tensor, weights: Tensor) -> PointRows:
        """Read-out of P surface points as weighted sums of vertices: vertex_ids (P, V), weights (P, V)."""

        def combine(values: Tensor) -> Tensor:
            return (values[vertex_ids] * weights[:, :, None, None]).sum(1)  # (P, 3, K)

        return PointRows(
            combine(self.mean_shape[..., None])[..., 0], combine(self.identity_basis), combine(self.expression_basis)
        )

    def landmark_rows(self) -> PointRows:
        """Read-out of the 68 landmarks."""
        return self.point_rows(
            self.landmark_ends, torch.full(self.landmark_ends.shape, 0.5, device=self.mean_shape.device)
        )

    def shapes(self, identity: Tensor, expression: Tensor) -> Tensor:
        """Vertices in the model frame, mm: (F, K_id), (F, K_exp) -> (F, N0, 3). S = S̄ + S_id δ_id + S_exp δ_exp."""
        basis = torch.cat([self.identity_basis, self.expression_basis], dim=2).flatten(0, 1)  # (3 N0, K)
        offsets = torch.cat([identity, expression], dim=1) @ basis.T
        return self.mean_shape + offsets.view(-1, *self.mean_shape.shape)

    def albedos(self, albedo: Tensor) -> Tensor:
        """Albedo per vertex, sRGB-encoded: (F, K_alb) -> (F, N0, 3). A = Ā + A_alb δ_alb."""
        return self.mean_albedo + (albedo @ self.albedo_basis.flatten(0, 1).T).view(-1, *self.mean_albedo.shape)


class PointRows(nn.Module):
    """Mean (P, 3) and bases (P, 3, K) of a few surface points."""

    def __init__(self, mean: Tensor, identity_basis: Tensor, expression_basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer(
            "basis", torch.cat([identity_basis, expression_basis], dim=2).flatten(0, 1), persistent=False
        )

    def forward(self, identity: Tensor, expression: Tensor) -> Tensor:
        """(F, K_id), (F, K_exp) -> points in the model frame, mm (F, P, 3)."""
        return self.mean + (torch.cat([identity, expression], dim=1) @ self.basis.T).view(-1, *self.mean.shape)


def _landmark_ends(landmarks: np.ndarray, triangles: np.ndarray, n_coarse: int, subdivisions: int) -> np.ndarray:
    """Coarse vertices whose mean is each landmark (CONVENTIONS.md §5, numbering of midpoints)."""
    edges = np.unique(
        np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1), axis=0
    )
    ends = np.stack([landmarks, landmarks], axis=1).astype(np.int64)
    beyond = landmarks >= n_coarse
    if beyond.any() and subdivisions != 1:
        raise ValueError("'landmark_vertices' has numbers beyond the vertices of a model without subdivision")
    ends[beyond] = edges[landmarks[beyond] - n_coarse]
    return ends


def rotations_from_vectors(vectors: Tensor) -> Tensor:
    """R = exp([ρ]×) · diag(1, −1, −1): (F, 3) rad -> (F, 3, 3), model to camera (CONVENTIONS.md §2)."""
    angle_squared = (vectors * vectors).sum(-1)[:, None, None]
    small = angle_squared < 1e-6
    safe = torch.where(small, torch.ones_like(angle_squared), angle_squared)
    angle = safe.sqrt()
    a = torch.where(small, 1 - angle_squared / 6, torch.sin(angle) / angle)
    b = torch.where(small, 0.5 - angle_squared / 24, (1 - torch.cos(angle)) / safe)
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)
    rotation = torch.eye(3, device=vectors.device, dtype=vectors.dtype) + a * cross + b * (cross @ cross)
    return rotation * rotation.new_tensor(OPENGL_FROM_CAMERA)  # scales the columns


def ray_rotations(translations: Tensor) -> Tensor:
    """Smallest rotations that take the z axis to t / |t|: (F, 3) -> (F, 3, 3) (CONVENTIONS.md §2, `ray(t)`)."""
    direction = nn.functional.normalize(translations, dim=1)
    x, y, z = direction.unbind(1)
    scale = 1 / (1 + z).clamp_min(1e-6)  # z > 0: the face is in front of the camera
    rows = [1 - scale * x * x, -scale * x * y, x, -scale * x * y, 1 - scale * y * y, y, -x, -y, z]
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def translations_from_offsets(
    offsets: Tensor, centers: Tensor, principal_point: Tensor, focal: float = FOCAL
) -> Tensor:
    """Raw offsets (F, 3) at cell centres (F, 2) px -> translations (F, 3) mm (CONVENTIONS.md §3)."""
    depth = UNIT_MM * (DEPTH_OFFSET + offsets[:, 2:])
    lateral = depth * (offsets[:, :2] + centers - principal_point) / focal
    return torch.cat([lateral, depth], dim=1)


def transform(points_model: Tensor, rotations: Tensor, translations: Tensor) -> Tensor:
    """X_camera = R X_model + t: (F, N, 3), (F, 3, 3), (F, 3) -> (F, N, 3)."""
    return points_model @ rotations.transpose(1, 2) + translations[:, None]


def project(points_camera: Tensor, principal_point: Tensor, focal: float = FOCAL, near: float = 1.0) -> Tensor:
    """u = cx + f X / Z, v = cy + f Y / Z: (F, N, 3) mm -> (F, N, 2) px; Z is clamped to `near` mm.

    principal_point: (2,) or (F, 2).
    """
    point = principal_point if principal_point.ndim == 1 else principal_point[:, None]
    return point + focal * points_camera[..., :2] / points_camera[..., 2:].clamp_min(near)


def vertex_normals(vertices: Tensor, triangles: Tensor) -> Tensor:
    """Normalised sum of the unit normals of the triangles at each vertex: (F, N, 3), (T, 3) -> (F, N, 3), frame of
    the input.
    """
    a, b, c = (vertices[:, triangles[:, k]] for k in range(3))
    normals = nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1, eps=1e-12)  # (F, T, 3)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total = total.index_add(1, triangles[:, k], normals)
    return nn.functional.normalize(total, dim=-1, eps=1e-12)


def harmonics(normals_opengl: Tensor) -> Tensor:
    """The nine second-order spherical-harmonic functions of METHOD.md: (…, 3) unit normals -> (…, 9)."""
    x, y, z = normals_opengl.unbind(-1)
    return torch.stack(
        [
            torch.full_like(x, _A0 * _C0),
            -_A1 * _C1 * y,
            _A1 * _C1 * z,
            -_A1 * _C1 * x,
            _A2 * _C2 * x * y,
            -_A2 * _C2 * y * z,
            _A2 * _C2 * (3 * z * z - 1) / (2 * math.sqrt(3)),
            -_A2 * _C2 * x * z,
            _A2 * _C2 * (x * x - y * y) / 2,
        ],
        dim=-1,
    )


def illumination_from_rows(rows: Tensor) -> Tensor:
    """Row group (F, 27) -> spherical-harmonic coefficients (F, 3, 9), ambient term included."""
    ambient = torch.zeros(9, device=rows.device, dtype=rows.dtype)
    ambient[0] = AMBIENT
    return rows.view(-1, 3, 9) + ambient


def shading(normals_opengl: Tensor, illumination: Tensor) -> Tensor:
    """shading_c = Σ_b γ[c, b] H_b(n): (F, N, 3), (F, 3, 9) -> (F, N, 3)."""
    return harmonics(normals_opengl) @ illumination.transpose(1, 2)
