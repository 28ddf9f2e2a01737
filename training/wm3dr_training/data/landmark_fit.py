"""Fit shape and pose of the face model to 2D landmarks of one photo, by Gauss–Newton.

Minimises Σ w_j ρ(‖π(R (M_j + B_j a) + t) − q_j‖ / σ) + Σ (a_id / σ_id)² + Σ (a_exp / σ_exp)² with Huber's ρ, expression
bounded to [0, 1] by an active set, perspective camera. The rotation is updated by a left increment exp([ω]×).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOCAL_PX = 1015.0 * 192 / 224
"""The focal length of CONVENTIONS.md §3 at 192-px crops."""
POINT_SIGMA_PX = 0.8
IDENTITY_SIGMA = 1.0
EXPRESSION_SIGMA = 0.3
HUBER = 2.0
"""In units of POINT_SIGMA_PX."""
ITERATIONS = 12
DAMPING = 1e-4


@dataclass(frozen=True)
class PointModel:
    """Points on the face mesh as linear functions of the coefficients, model frame, mm."""

    mean: NDArray[np.float64]
    """(P, 3)."""
    basis: NDArray[np.float64]
    """(P, 3, K): identity modes, then expressions."""
    n_identity: int

    def points(self, coefficients: NDArray) -> NDArray[np.float64]:
        """(P, 3) points for (K,) coefficients."""
        return self.mean + self.basis @ coefficients

    def joined(self, other: "PointModel") -> "PointModel":
        """The points of both, in order."""
        return PointModel(
            np.concatenate([self.mean, other.mean]), np.concatenate([self.basis, other.basis]), self.n_identity
        )


@dataclass(frozen=True)
class LandmarkFit:
    """Result of `fit_landmarks`."""

    coefficients: NDArray[np.float64]
    """(K,) identity, then expression."""
    rotation: NDArray[np.float64]
    """(3, 3) model → camera."""
    translation: NDArray[np.float64]
    """(3,) mm, camera frame."""
    residual: NDArray[np.float64]
    """(P, 2) projection minus landmark, pixels."""


def rotation_from_vector(vector: NDArray) -> NDArray[np.float64]:
    """exp([v]×) by Rodrigues' formula; the identity for v = 0."""
    angle = np.linalg.norm(vector)
    if angle < 1e-12:
        return np.eye(3)
    cross = _cross_matrices(np.asarray(vector, np.float64)[None] / angle)[0]
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def project_with_jacobian(points_camera: NDArray, center: float) -> tuple[NDArray, NDArray]:
    """Perspective projection and its derivative.

    Parameters
    ----------
    points_camera : (P, 3) float
        Camera frame, Z > 0.
    center : float
        Principal point, the same in x and y, pixels.

    Returns
    -------
    pixels : (P, 2)
    jacobian : (P, 2, 3)
        Pixels per mm.
    """
    x, y, z = points_camera.T
    jacobian = np.zeros((len(x), 2, 3))
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = FOCAL_PX / z
    jacobian[:, 0, 2], jacobian[:, 1, 2] = -FOCAL_PX * x / z**2, -FOCAL_PX * y / z**2
    return FOCAL_PX * points_camera[:, :2] / z[:, None] + center, jacobian


def fit_landmarks(
    model: PointModel, landmarks: NDArray, weights: NDArray, center: float, iterations: int = ITERATIONS
) -> LandmarkFit:
    """Fit all coefficients and the pose.

    Parameters
    ----------
    model : PointModel
    landmarks : (P, 2) float
        Pixels of a 192-px crop.
    weights : (P,) float
        ≥ 0; at least six positive.
    center : float
        Principal point in x and y, pixels.
    iterations : int

    Raises
    ------
    ValueError
        A shape differs from the above, or fewer than six weights are positive.
    """
    count = len(model.mean)
    if np.shape(landmarks) != (count, 2) or np.shape(weights) != (count,):
        raise ValueError(f"landmarks {np.shape(landmarks)} and weights {np.shape(weights)} do not fit {count} points")
    used = weights > 0
    if used.sum() < 6:
        raise ValueError(f"only {used.sum()} weights are positive, wanted at least 6")
    size, identity = model.basis.shape[2], slice(0, model.n_identity)
    bounded = np.arange(model.n_identity, size)
    landmarks = np.where(used[:, None], landmarks, 0.0)
    rotation, translation = _start(model.mean[used], landmarks[used], weights[used], center)
    coefficients = np.zeros(size)
    prior = np.full(size, EXPRESSION_SIGMA**-2)
    prior[identity] = IDENTITY_SIGMA**-2
    for _ in range(iterations):
        rotated = model.points(coefficients) @ rotation.T
        pixels, jacobian = project_with_jacobian(rotated + translation, center)
        residual = (pixels - landmarks) / POINT_SIGMA_PX
        distance = np.linalg.norm(residual, axis=1)
        root = np.sqrt(weights * np.where(distance < HUBER, 1, HUBER / np.maximum(distance, 1e-9)))
        eye = np.broadcast_to(np.eye(3), (count, 3, 3))
        moves = np.concatenate([rotation @ model.basis, -_cross_matrices(rotated), eye], axis=2)  # (P, 3, K + 6)
        rows = (root[:, None, None] / POINT_SIGMA_PX * (jacobian @ moves)).reshape(2 * count, -1)
        hessian, gradient = rows.T @ rows, rows.T @ (root[:, None] * residual).ravel()
        hessian[np.arange(size), np.arange(size)] += prior
        gradient[:size] += prior * coefficients
        free = np.ones(size + 6, bool)
        value, slope = coefficients[bounded], gradient[bounded]
        free[bounded] = ~((value <= 0) & (slope > 0) | (value >= 1) & (slope < 0))
        system = hessian[np.ix_(free, free)]
        step = np.zeros(size + 6)
        step[free] = -np.linalg.solve(system + DAMPING * np.diag(np.diag(system)), gradient[free])
        coefficients = coefficients + step[:size]
        coefficients[bounded] = np.clip(coefficients[bounded], 0, 1)
        rotation = rotation_from_vector(step[size : size + 3]) @ rotation
        translation = translation + step[size + 3 :]
    return _result(model, coefficients, rotation, translation, landmarks, center)


def fit_pose(
    model: PointModel, fit: LandmarkFit, coefficients: NDArray, landmarks: NDArray, weights: NDArray, center: float
) -> LandmarkFit:
    """The pose alone, for given coefficients, starting from a fit; three Gauss–Newton steps without robust weights."""
    points = model.points(coefficients)
    rotation, translation = fit.rotation, fit.translation
    landmarks = np.where(weights[:, None] > 0, landmarks, 0.0)
    root = np.sqrt(weights)[:, None]
    for _ in range(3):
        rotated = points @ rotation.T
        pixels, jacobian = project_with_jacobian(rotated + translation, center)
        moves = np.concatenate([-_cross_matrices(rotated), np.broadcast_to(np.eye(3), (len(points), 3, 3))], axis=2)
        rows = (root[:, :, None] * (jacobian @ moves)).reshape(-1, 6)
        step = -np.linalg.lstsq(rows, (root * (pixels - landmarks)).ravel(), rcond=None)[0]
        rotation = rotation_from_vector(step[:3]) @ rotation
        translation = translation + step[3:]
    return _result(model, coefficients, rotation, translation, landmarks, center)


def _result(
    model: PointModel, coefficients: NDArray, rotation: NDArray, translation: NDArray, landmarks: NDArray, center: float
) -> LandmarkFit:
    pixels, _ = project_with_jacobian(model.points(coefficients) @ rotation.T + translation, center)
    return LandmarkFit(coefficients, rotation, translation, pixels - landmarks)


def _start(mean: NDArray, landmarks: NDArray, weights: NDArray, center: float) -> tuple[NDArray, NDArray]:
    """Pose by weak perspective: an affine camera by least squares, its rows made orthogonal."""
    root = np.sqrt(weights)[:, None]
    affine = np.linalg.lstsq(np.column_stack([mean, np.ones(len(mean))]) * root, landmarks * root, rcond=None)[0]
    scale = (np.linalg.norm(affine[:3, 0]) + np.linalg.norm(affine[:3, 1])) / 2
    first = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    second = affine[:3, 1] - (affine[:3, 1] @ first) * first
    second /= np.linalg.norm(second)
    rotation = np.stack([first, second, np.cross(first, second)])
    return rotation, np.array([*((affine[3] - center) / scale), FOCAL_PX / scale])


def _cross_matrices(vectors: NDArray) -> NDArray[np.float64]:
    """(P, 3, 3) matrices [v]×: [v]× u = v × u."""
    out = np.zeros((len(vectors), 3, 3))
    x, y, z = np.asarray(vectors).T
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -z, y, -x
    return out - out.transpose(0, 2, 1)
