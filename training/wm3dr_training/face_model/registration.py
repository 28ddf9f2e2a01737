"""Fit the mesh to one photo: perspective camera, rotation, translation, identity and expression by Gauss–Newton.

`u = cx + f X/Z`, `v = cy + f Y/Z`, `X = R (mean + B_id a + B_exp e) + t` (CONVENTIONS.md §2–5), with Gaussian priors on
a and e and `0 ≤ e ≤ 1`. Two kinds of observation: points of the mesh with a known pixel, and points of the jaw contour,
which are pulled to the projected silhouette along its normal only.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from .geometry import Geometry, edges_from_triangles, refine_matrix

FRONTAL = np.diag([1.0, -1.0, -1.0])
FOCAL_PER_SIDE = 3.5
"""Focal length over image side: a portrait lens about 1.5 m from the face, as studio photos are taken."""
EXPRESSION_SIGMA = {"neutral": 0.08, "smiling": 0.4}
CONTOUR_SIGMA_PX = 3.0
POSE_PARAMETERS = 6


@dataclass(frozen=True)
class Shapes:
    """The refined shape space in float64, flattened for the fitter: N vertices, K = K_id + K_exp modes."""

    mean: NDArray[np.float64]
    """(N, 3) mm."""
    basis: NDArray[np.float64]
    """(N, 3, K) identity modes, then blendshapes."""
    n_identity: int
    triangles: NDArray[np.int32]
    """(T, 3) refined."""
    mirror: NDArray[np.int32]
    """(N,) refined."""
    refine: csr_matrix
    """(N, N0)."""

    def at(self, observations: "Observations") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (M, 3) and basis (M, 3, K) of the observed points of the mesh."""
        mean = np.einsum("mc,mcd->md", observations.weights, self.mean[observations.corners])
        return mean, np.einsum("mc,mcdk->mdk", observations.weights, self.basis[observations.corners])


@dataclass(frozen=True)
class Fit:
    """One fitted photo; `vertices_camera = R (mean + basis · coefficients) + t`, mm."""

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]
    coefficients: NDArray[np.float64]
    focal: float
    principal_point: NDArray[np.float64]

    def camera_points(self, mean: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
        """(M, 3) camera frame of mesh points with mean (M, 3) and basis (M, 3, K)."""
        return (mean + basis @ self.coefficients) @ self.rotation.T + self.translation

    def project(self, points_camera: NDArray[np.float64]) -> NDArray[np.float64]:
        """(M, 2) pixels of (M, 3) camera points."""
        return self.principal_point + self.focal * points_camera[:, :2] / points_camera[:, 2:]


@dataclass(frozen=True)
class Observations:
    """What a photo says about the mesh."""

    corners: NDArray[np.int64]
    """(M, 3) vertices of the triangle that the point lies in."""
    weights: NDArray[np.float64]
    """(M, 3) barycentric weights."""
    points_px: NDArray[np.float64]
    """(M, 2) where they are."""
    sigma_px: NDArray[np.float64]
    """(M,) how well that is known."""
    contour_px: NDArray[np.float64]
    """(C, 2) points of the jaw's contour, which vertex is not known."""


def rotation_from_vector(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp([v]×), Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew


def refined_mirror(geometry: Geometry) -> NDArray[np.int32]:
    """(N,) the refined vertex on the other side: the midpoint of the mirrored edge."""
    n = len(geometry.mean_shape)
    edges = edges_from_triangles(geometry.triangles).astype(np.int64)
    mirrored = np.sort(geometry.mirror[edges], axis=1).astype(np.int64)
    keys = edges[:, 0] * n + edges[:, 1]
    midpoints = n + np.searchsorted(keys, mirrored[:, 0] * n + mirrored[:, 1])
    return np.concatenate([geometry.mirror, midpoints]).astype(np.int32)


def shapes_from_geometry(geometry: Geometry, triangles: NDArray[np.int32]) -> Shapes:
    """Refined shape space of a coarse geometry; `triangles` are the refined ones."""
    refine = refine_matrix(geometry.triangles, len(geometry.mean_shape))
    basis = np.concatenate([geometry.identity_basis, geometry.expression_basis], axis=2).astype(np.float64)
    refined = (refine @ basis.reshape(len(basis), -1)).reshape(refine.shape[0], 3, -1)
    return Shapes(
        mean=refine @ geometry.mean_shape.astype(np.float64),
        basis=refined,
        n_identity=geometry.identity_basis.shape[2],
        triangles=triangles,
        mirror=refined_mirror(geometry),
        refine=refine,
    )


def initial_fit(shapes: Shapes, observations: Observations, size: tuple[int, int]) -> Fit:
    """Frontal pose whose spread and centre agree with the observed points; mean face; `size` is (width, height)."""
    focal = FOCAL_PER_SIDE * max(size)
    centre = np.array(size) / 2.0
    model, _ = shapes.at(observations)
    spread = np.linalg.norm(observations.points_px.std(axis=0)) / np.linalg.norm(model[:, :2].std(axis=0))
    depth = focal / spread
    middle = (observations.points_px.mean(axis=0) - centre) / spread
    translation = np.array([*middle, depth]) - FRONTAL @ model.mean(axis=0)
    return Fit(FRONTAL.copy(), translation, np.zeros(shapes.basis.shape[2]), focal, centre)


def fit_photo(
    shapes: Shapes,
    observations: Observations,
    silhouette_edges: NDArray[np.int64],
    size: tuple[int, int],
    expression: str,
    start: Fit | None = None,
    iterations: int = 12,
) -> Fit:
    """Fit pose, identity and expression to one photo.

    Parameters
    ----------
    silhouette_edges : (S, 4) int64
        Two vertices and the two adjacent triangles of every edge that may be the jaw's silhouette.
    size : (width, height), px
    expression : "neutral" or "smiling"
        Chooses the prior of the blendshape coefficients.
    """
    fit = start if start is not None else initial_fit(shapes, observations, size)
    n_coefficients = shapes.basis.shape[2]
    sigma = np.full(n_coefficients, EXPRESSION_SIGMA[expression])
    sigma[: shapes.n_identity] = 1.0
    bounded = np.arange(n_coefficients) >= shapes.n_identity
    mean, basis = shapes.at(observations)
    for step in range(iterations):
        jacobian, predicted = point_jacobian(fit, mean, basis)
        weight = 1 / observations.sigma_px
        rows = [(jacobian * weight[:, None, None]).reshape(-1, jacobian.shape[2])]
        values = [((observations.points_px - predicted) * weight[:, None]).reshape(-1)]
        if len(observations.contour_px) and step >= 3:
            contour_rows, contour_values = contour_equations(shapes, fit, observations.contour_px, silhouette_edges)
            rows.append(contour_rows)
            values.append(contour_values)
        matrix, residual = np.concatenate(rows), np.concatenate(values)
        normal = matrix.T @ matrix
        gradient = matrix.T @ residual
        prior = np.concatenate([np.zeros(POSE_PARAMETERS), 1 / sigma**2])
        gradient[POSE_PARAMETERS:] -= fit.coefficients / sigma**2
        fit = step_within_bounds(fit, normal + np.diag(prior), gradient, bounded)
    return fit


def point_jacobian(
    fit: Fit, mean: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """d(u, v)/d(rotation 3, translation 3, coefficients K), (M, 2, 6 + K), and the projections (M, 2)."""
    turned = (mean + basis @ fit.coefficients) @ fit.rotation.T
    x, y, z = (turned + fit.translation).T
    zero = np.zeros_like(x)
    by_u = np.stack([fit.focal / z, zero, -fit.focal * x / z**2], axis=1)
    by_v = np.stack([zero, fit.focal / z, -fit.focal * y / z**2], axis=1)
    by_point = np.stack([by_u, by_v], axis=1)  # (M, 2, 3)
    a, b, c = turned.T
    by_rotation = np.stack(
        [np.stack([zero, c, -b], 1), np.stack([-c, zero, a], 1), np.stack([b, -a, zero], 1)], 1
    )  # −[turned]×
    by_parameter = np.concatenate(
        [by_rotation, np.broadcast_to(np.eye(3), (len(x), 3, 3)), np.einsum("ij,mjk->mik", fit.rotation, basis)], axis=2
    )
    return by_point @ by_parameter, fit.project(turned + fit.translation)


def contour_equations(
    shapes: Shapes, fit: Fit, contour_px: NDArray[np.float64], silhouette_edges: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows and residuals that pull the nearest silhouette vertex to each contour point along the contour's normal."""
    used, inverse = np.unique(
        np.concatenate([silhouette_edges[:, :2].reshape(-1), shapes.triangles[silhouette_edges[:, 2:]].reshape(-1)]),
        return_inverse=True,
    )
    projected = fit.project(fit.camera_points(shapes.mean[used], shapes.basis[used]))
    n_edges = len(silhouette_edges)
    corners = inverse[2 * n_edges :].reshape(n_edges, 2, 3)
    p = projected[corners]
    ab, ac = p[..., 1, :] - p[..., 0, :], p[..., 2, :] - p[..., 0, :]
    facing = ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]
    on_silhouette = facing[:, 0] * facing[:, 1] <= 0
    empty = np.zeros((0, POSE_PARAMETERS + shapes.basis.shape[2])), np.zeros(0)
    if not on_silhouette.any():
        return empty
    candidates = used[np.unique(inverse[: 2 * n_edges].reshape(n_edges, 2)[on_silhouette])]
    places = fit.project(fit.camera_points(shapes.mean[candidates], shapes.basis[candidates]))
    distance, nearest = cKDTree(places).query(contour_px)
    near = distance < 0.06 * np.linalg.norm(np.ptp(places, axis=0))
    if not near.any():
        return empty
    chosen = candidates[nearest[near]]
    _, around = cKDTree(places).query(places[nearest[near]], k=min(5, len(places)))
    spread = places[around] - places[around].mean(axis=1, keepdims=True)
    normal = np.linalg.eigh(np.einsum("mki,mkj->mij", spread, spread))[1][:, :, 0]
    jacobian, predicted = point_jacobian(fit, shapes.mean[chosen], shapes.basis[chosen])
    rows = np.einsum("mi,mik->mk", normal, jacobian) / CONTOUR_SIGMA_PX
    return rows, ((contour_px[near] - predicted) * normal).sum(axis=1) / CONTOUR_SIGMA_PX


def step_within_bounds(
    fit: Fit, hessian: NDArray[np.float64], gradient: NDArray[np.float64], bounded: NDArray[np.bool_]
) -> Fit:
    """One Newton step; coefficients that would leave [0, 1] are put on the bound and the others solved again."""
    fixed = np.zeros(len(gradient), bool)
    step = np.zeros(len(gradient))
    for _ in range(6):
        free = ~fixed
        right = gradient[free] - hessian[np.ix_(free, fixed)] @ step[fixed]
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)] + 1e-9 * np.eye(free.sum()), right)
        target = fit.coefficients + step[POSE_PARAMETERS:]
        outside = bounded & ~fixed[POSE_PARAMETERS:] & ((target < 0) | (target > 1))
        if not outside.any():
            break
        index = np.flatnonzero(outside)
        fixed[POSE_PARAMETERS + index] = True
        step[POSE_PARAMETERS + index] = np.clip(target[index], 0, 1) - fit.coefficients[index]
    coefficients = fit.coefficients + step[POSE_PARAMETERS:]
    coefficients[bounded] = np.clip(coefficients[bounded], 0, 1)
    return replace(
        fit,
        rotation=rotation_from_vector(step[:3]) @ fit.rotation,
        translation=fit.translation + step[3:POSE_PARAMETERS],
        coefficients=coefficients,
    )


def interior_edges(triangles: NDArray[np.int32], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(S, 4) vertices and triangles of the edges shared by two triangles whose both ends are `allowed` (N,)."""
    pairs = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    owner = np.repeat(np.arange(len(triangles)), 3)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, owner = pairs[order], owner[order]
    same = np.flatnonzero((pairs[1:] == pairs[:-1]).all(axis=1))
    found = np.concatenate([pairs[same], owner[same, None], owner[same + 1, None]], axis=1)
    return found[allowed[found[:, :2]].all(axis=1)].astype(np.int64)
