"""ICT-FaceKit Light → the coarse mesh of the default face model and its two geometry bases.

Input: ``ict_facekit_light.npz`` (cm; 26,719 vertices, quads). The face part with ears and some neck is cropped to
y > −12 cm and z > −1 cm, triangulated so that the mirror of an edge is an edge, symmetrised, moved to the frame of
CONVENTIONS.md §2 (mm, origin at the centroid of the refined vertices) and given orthogonal identity modes.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

MM_PER_CM = 10.0
N_FACE_VERTICES = 9409
"""ICT vertices 0 … 9408 are the face with ears and some neck."""
CROP_Y_CM, CROP_Z_CM = -12.0, -1.0
N_IDENTITY = 80
MIRROR_TOLERANCE_CM = 0.01
MIRRORED_NAMES = {"jawLeft": "jawRight", "mouthLeft": "mouthRight"}


@dataclass(frozen=True)
class Geometry:
    """Coarse geometry of a face model; N0 vertices, T0 triangles, K_id and K_exp modes (CONVENTIONS.md §5)."""

    mean_shape: NDArray[np.float32]
    """(N0, 3) mm, model frame; the centroid of the refined vertices is the origin."""
    identity_basis: NDArray[np.float32]
    """(N0, 3, K_id) mm per standard deviation."""
    identity_mirror_sign: NDArray[np.float32]
    """(K_id,) +1 for a mode that is left-right symmetric, −1 for an antisymmetric one."""
    identity_energy: NDArray[np.float64]
    """(K,) share of the variance of every mode before truncation to K_id."""
    expression_basis: NDArray[np.float32]
    """(N0, 3, K_exp) mm per full blendshape."""
    expression_names: tuple[str, ...]
    triangles: NDArray[np.int32]
    """(T0, 3) counter-clockwise seen from outside."""
    landmark_vertices: NDArray[np.int32]
    """(68,) refined numbers; ICT's landmarks are coarse vertices, whose numbers refinement keeps."""
    mirror: NDArray[np.int32]
    """(N0,) the vertex on the other side; itself on the midline."""
    uv: NDArray[np.float32]
    """(T0, 3, 2) per corner, v up."""


def edges_from_triangles(triangles: NDArray[np.int32]) -> NDArray[np.int32]:
    """Edges (min, max) of a triangle mesh in ascending lexicographic order, (E, 2)."""
    pairs = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    return np.unique(pairs, axis=0).astype(np.int32)


def refined_triangles(triangles: NDArray[np.int32], n_vertices: int) -> NDArray[np.int32]:
    """Midpoint subdivision of (T0, 3) triangles over `n_vertices` vertices, (4 T0, 3), ordered as CONVENTIONS.md §5."""
    edges = edges_from_triangles(triangles)
    keys = edges[:, 0].astype(np.int64) * n_vertices + edges[:, 1]

    def midpoint(i: int, j: int) -> NDArray[np.int64]:
        low, high = np.minimum(triangles[:, i], triangles[:, j]), np.maximum(triangles[:, i], triangles[:, j])
        return n_vertices + np.searchsorted(keys, low.astype(np.int64) * n_vertices + high)

    a, b, c = triangles.T
    ab, bc, ca = midpoint(0, 1), midpoint(1, 2), midpoint(2, 0)
    quadruple = np.stack([a, ab, ca, b, bc, ab, c, ca, bc, ab, bc, ca], axis=1)
    return quadruple.reshape(-1, 3).astype(np.int32)


def refine_matrix(triangles: NDArray[np.int32], n_vertices: int) -> csr_matrix:
    """(N, N0) sparse matrix that takes vertex data to the once refined mesh: coarse rows first, then edge midpoints."""
    edges = edges_from_triangles(triangles)
    n_edges = len(edges)
    rows = np.concatenate([np.arange(n_vertices), np.repeat(n_vertices + np.arange(n_edges), 2)])
    columns = np.concatenate([np.arange(n_vertices), edges.reshape(-1)])
    weights = np.concatenate([np.ones(n_vertices), np.full(2 * n_edges, 0.5)])
    return csr_matrix((weights, (rows, columns)), shape=(n_vertices + n_edges, n_vertices))


def mirror_from_vertices(vertices: NDArray[np.float64], tolerance: float) -> NDArray[np.int32]:
    """Number of the vertex at (−x, y, z) for every vertex of a symmetric shape.

    Raises
    ------
    ValueError
        A vertex has no partner within `tolerance`, or the map is no involution.
    """
    distance, mirror = cKDTree(vertices).query(vertices * [-1.0, 1.0, 1.0])
    if distance.max() > tolerance:
        raise ValueError(
            f"vertices: largest distance to a mirrored vertex is {distance.max():.4g}, wanted ≤ {tolerance}"
        )
    if not np.array_equal(mirror[mirror], np.arange(len(vertices))):
        raise ValueError("vertices: the nearest mirrored vertices do not pair up one to one")
    return mirror.astype(np.int32)


def triangulate_quads(
    vertices: NDArray[np.float64], quads: NDArray[np.int32], mirror: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Corners (0 … 3) of the two triangles of every quad, (Q, 2, 3): the shorter diagonal, the same on both sides.

    Of a quad and its mirror image the one with the smaller number chooses, so that the mirror of an edge is an edge.

    Raises
    ------
    ValueError
        A quad has no mirror image, or is its own (its diagonal would not be symmetric).
    """
    number = {tuple(sorted(quad)): k for k, quad in enumerate(quads.tolist())}
    corners = vertices[quads]  # (Q, 4, 3)
    lengths = np.linalg.norm(corners[:, [0, 1]] - corners[:, [2, 3]], axis=2)  # (Q, 2): diagonals 0-2 and 1-3
    split = np.empty((len(quads), 2, 3), np.int32)
    for k, quad in enumerate(quads):
        partner = number.get(tuple(sorted(mirror[quad].tolist())))
        if partner is None or partner == k:
            raise ValueError(f"quads: quad {k} has no mirror image other than itself")
        if k < partner:
            first = int(lengths[k, 1] < lengths[k, 0])
        else:
            chosen = int(split[partner, 0, 0])
            ends = {int(mirror[quads[partner, chosen]]), int(mirror[quads[partner, chosen + 2]])}
            first = 0 if {int(quad[0]), int(quad[2])} == ends else 1
        i = [first, first + 1, first + 2, (first + 3) % 4]
        split[k] = [[i[0], i[1], i[2]], [i[0], i[2], i[3]]]
    return split


def without_rigid_motion(basis: NDArray[np.float64], vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Modes (K, N, 3) less their least-squares translation and infinitesimal rotation of `vertices` (N, 3)."""
    n = len(vertices)
    x, y, z = (vertices - vertices.mean(axis=0)).T
    zero, one = np.zeros(n), np.ones(n)
    motions = np.stack(
        [
            np.stack([one, zero, zero], 1),
            np.stack([zero, one, zero], 1),
            np.stack([zero, zero, one], 1),
            np.stack([zero, -z, y], 1),
            np.stack([z, zero, -x], 1),
            np.stack([-y, x, zero], 1),
        ]
    ).reshape(6, -1)
    q, _ = np.linalg.qr(motions.T)
    flat = basis.reshape(len(basis), -1)
    return (flat - (flat @ q) @ q.T).reshape(basis.shape)


def identity_modes(
    shapes: NDArray[np.float64], mean_shape: NDArray[np.float64], refine: csr_matrix, mirror: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Orthogonal modes of the Gaussian `Σ_k c_k shapes_k`, c ~ N(0, 1), on the refined mesh.

    Rigid motion is removed first, since pose covers it; scale stays, since sizes differ between people. The symmetric
    and the antisymmetric part of every shape are uncorrelated, so every mode is one or the other.

    Parameters
    ----------
    shapes : (K, N0, 3) float64
    mean_shape : (N0, 3) float64

    Returns
    -------
    basis : (N0, 3, K') float64
        Largest first; a coefficient of 1 is one standard deviation.
    sign : (K',) float64
        +1 symmetric, −1 antisymmetric.
    variance : (K',) float64
    """
    refined_mean = refine @ mean_shape
    refined = np.stack([refine @ shape for shape in shapes])
    motionless = without_rigid_motion(refined, refined_mean)[:, : len(mean_shape)]
    mirrored = motionless[:, mirror] * [-1.0, 1.0, 1.0]
    modes, signs, variances = [], [], []
    for sign in (1.0, -1.0):
        part = (motionless + sign * mirrored) / 2
        fine = np.stack([refine @ shape for shape in part]).reshape(len(part), -1)
        variance, vectors = np.linalg.eigh(fine @ fine.T)  # of D Dᵀ, D = U S Vᵀ; modes U S = D V
        keep = variance > 1e-6 * variance.max()
        modes.append(vectors.T[keep] @ part.reshape(len(part), -1))
        variances.append(variance[keep])
        signs.append(np.full(keep.sum(), sign))
    order = np.argsort(-np.concatenate(variances), kind="stable")
    basis = np.concatenate(modes)[order]
    basis *= np.sign(basis[np.arange(len(basis)), np.abs(basis).argmax(axis=1)])[:, None]
    basis = basis.reshape(len(basis), -1, 3).transpose(1, 2, 0)
    return basis, np.concatenate(signs)[order], np.concatenate(variances)[order]


def mirrored_expression(name: str) -> str:
    """Name of the blendshape on the other side (`eyeBlink_L` → `eyeBlink_R`, `jawLeft` → `jawRight`)."""
    if name.endswith(("_L", "_R")):
        return name[:-1] + ("R" if name.endswith("L") else "L")
    return {**MIRRORED_NAMES, **{right: left for left, right in MIRRORED_NAMES.items()}}.get(name, name)


def load_geometry(path: Path) -> Geometry:
    """Build the coarse geometry from ``ict_facekit_light.npz``.

    Raises
    ------
    FileNotFoundError
        `path` does not exist.
    ValueError
        The mesh is not symmetric or its triangles are not consistently oriented.
    """
    with np.load(path, allow_pickle=False) as pack:
        ict = {key: pack[key] for key in pack.files}
    neutral = ict["neutral_cm"].astype(np.float64)
    inside = np.zeros(len(neutral), bool)
    face = neutral[:N_FACE_VERTICES]
    inside[:N_FACE_VERTICES] = (face[:, 1] > CROP_Y_CM) & (face[:, 2] > CROP_Z_CM)
    all_quads = ict["quads"]
    kept = (all_quads >= 0).all(axis=1) & inside[all_quads].all(axis=1)
    used = np.unique(all_quads[kept])
    number = np.full(len(neutral), -1, np.int32)
    number[used] = np.arange(len(used), dtype=np.int32)
    quads = number[all_quads[kept]]

    mirror = mirror_from_vertices(neutral[used], MIRROR_TOLERANCE_CM)
    flip = np.array([-1.0, 1.0, 1.0])
    mean = (neutral[used] + neutral[used][mirror] * flip) / 2 * MM_PER_CM
    split = triangulate_quads(mean, quads, mirror)
    triangles = np.take_along_axis(quads[:, None, :], split, axis=2).reshape(-1, 3)
    uv_index = np.take_along_axis(ict["quad_uv_index"][kept][:, None, :], split, axis=2).reshape(-1, 3)
    check_orientation(triangles)

    refine = refine_matrix(triangles, len(used))
    mean -= (refine @ mean).mean(axis=0)
    identity = ict["identity_delta_cm"][:, used].astype(np.float64) * MM_PER_CM
    basis, sign, variance = identity_modes(identity, mean, refine, mirror)

    names = tuple(str(name) for name in ict["expression_names"])
    expression = ict["expression_delta_cm"][:, used].astype(np.float64) * MM_PER_CM
    partner = [names.index(mirrored_expression(name)) for name in names]
    expression = (expression + expression[partner][:, mirror] * flip) / 2

    landmarks = number[ict["landmarks68"]]
    if (landmarks < 0).any():
        raise ValueError(f"{path}: landmarks68 {np.flatnonzero(landmarks < 0).tolist()} lie outside the crop")
    return Geometry(
        mean_shape=mean.astype(np.float32),
        identity_basis=basis[..., :N_IDENTITY].astype(np.float32),
        identity_mirror_sign=sign[:N_IDENTITY].astype(np.float32),
        identity_energy=variance / variance.sum(),
        expression_basis=np.ascontiguousarray(expression.transpose(1, 2, 0)).astype(np.float32),
        expression_names=names,
        triangles=triangles.astype(np.int32),
        landmark_vertices=landmarks,
        mirror=mirror,
        uv=ict["uv"][uv_index].astype(np.float32),
    )


def annotated_landmarks() -> NDArray[np.int32]:
    """The 68 refined vertices that a model file names as its landmarks: where 300-W's annotators put the points.

    ICT-FaceKit's own (`Geometry.landmark_vertices`) serve registration; they lie 2.6 % of the inter-ocular distance
    from the annotators' practice on average (brows 4–7 %). `landmark_vertices.json` says how these were found.
    """
    content = json.loads((files("wm3dr_training.face_model") / "landmark_vertices.json").read_text())
    return np.array(content["landmark_vertices"], np.int32)


def check_orientation(triangles: NDArray[np.int32]) -> None:
    """Raise ValueError unless every directed edge occurs once, i.e. all triangles turn the same way."""
    directed = triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    _, counts = np.unique(directed, axis=0, return_counts=True)
    if counts.max() > 1:
        raise ValueError(f"triangles: {int((counts > 1).sum())} directed edges occur more than once")
