"""The One-Euro filter (Casiez, Roussel, Vogel, CHI 2012) of vectors and of rotations.

A low-pass of first order whose cut-off rises with the speed of what it follows: a face at rest does not tremble, a fast
one is not late. Causal: an output depends on what came before alone. Times need not be evenly spaced.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class OneEuro:
    """Parameters of a One-Euro filter: cut-off = `min_cutoff` + `beta` · speed.

    Raises
    ------
    ValueError
        A value is not finite, a cut-off is not positive, or `beta` is negative.
    """

    min_cutoff: float
    """Cut-off at rest, Hz: less means less jitter."""
    beta: float
    """How the cut-off rises, Hz per unit of speed: more means less lag."""
    derivative_cutoff: float = 1.0
    """Cut-off of the speed itself, Hz."""

    def __post_init__(self) -> None:
        for name in ("min_cutoff", "derivative_cutoff"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"'{name}' must be positive and finite (Hz), not {value}")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"'beta' must be finite and at least 0 (Hz per unit of speed), not {self.beta}")


@dataclass(frozen=True)
class Smoothing:
    """One-Euro parameters of what changes over time; docs/video.md says how the defaults were found."""

    rotation: OneEuro = OneEuro(0.25, 4.0)
    """Of the rotation against the viewing ray; speed in rad/s."""
    place: OneEuro = OneEuro(0.5, 32.0, 3.0)
    """Of the pixel of the model origin; speed in face widths/s."""
    depth: OneEuro = OneEuro(1.5, 4.0)
    """Of the logarithm of the depth; speed in 1/s."""
    expression: OneEuro = OneEuro(1.0, 2.0, 3.0)
    """Of each expression coefficient; speed in full blendshapes/s."""
    illumination: OneEuro = OneEuro(0.5, 0.5)
    """Of each coefficient of the light; speed in 1/s."""


class OneEuroVector:
    """The filter of a vector.

    Parameters
    ----------
    parameters : OneEuro
    together : bool
        One cut-off for all components, from the length of the speed (for places, where axes mean nothing), instead of
        one for each (for coefficients, where an eye may blink while the mouth rests).
    """

    def __init__(self, parameters: OneEuro, *, together: bool = False) -> None:
        self._parameters, self._together = parameters, together
        self._value: F64 | None = None
        self._velocity: F64 | None = None

    @property
    def velocity(self) -> F64 | None:
        """(n,) low-passed speed, per second; None before the first value."""
        return self._velocity

    def __call__(self, value: ArrayLike, seconds: float, unit: float = 1.0) -> F64:
        """Take the next value and return the smoothed one.

        Parameters
        ----------
        value : (n,)
        seconds : float
            Since the value before, > 0; not looked at for the first.
        unit : float
            Speeds are counted in this many units of `value` per second.
        """
        new = np.array(value, np.float64)
        if self._value is None or self._velocity is None:
            self._value, self._velocity = new, np.zeros_like(new)
            return new.copy()
        step = (new - self._value) / seconds
        self._velocity = self._velocity + gain(self._parameters.derivative_cutoff, seconds) * (step - self._velocity)
        speed: Any = np.linalg.norm(self._velocity) if self._together else np.abs(self._velocity)
        cutoff = self._parameters.min_cutoff + self._parameters.beta * speed / unit
        self._value = self._value + gain(cutoff, seconds) * (new - self._value)
        return self._value.copy()


class OneEuroRotation:
    """The filter of a rotation, on SO(3): steps are rotation vectors in the frame of the body, speed is in rad/s."""

    def __init__(self, parameters: OneEuro) -> None:
        self._parameters = parameters
        self._value: F64 | None = None
        self._velocity = np.zeros(3)

    def __call__(self, rotation: ArrayLike, seconds: float) -> F64:
        """Take the next rotation (3, 3) and return the smoothed one; see `OneEuroVector`."""
        new = np.array(rotation, np.float64)
        if self._value is None:
            self._value = new
            return new.copy()
        turn = rotation_vector(self._value.T @ new)
        share = gain(self._parameters.derivative_cutoff, seconds)
        self._velocity = self._velocity + share * (turn / seconds - self._velocity)
        cutoff = self._parameters.min_cutoff + self._parameters.beta * float(np.linalg.norm(self._velocity))
        self._value = orthonormal(self._value @ rotation_matrix(gain(cutoff, seconds) * turn))
        return self._value.copy()


def gain(cutoff: Any, seconds: float) -> Any:
    """Share of the new value that a low-pass of first order takes: 1 / (1 + τ/Δt) with τ = 1/(2π cutoff)."""
    return 1.0 / (1.0 + 1.0 / (2.0 * math.pi * cutoff * seconds))


def rotation_matrix(vector: ArrayLike) -> F64:
    """Return exp([v]×), (3, 3), of a rotation vector (3,) in radians (Rodrigues)."""
    x, y, z = np.asarray(vector, np.float64)
    angle = math.sqrt(x * x + y * y + z * z)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if angle < 1e-6:
        return np.eye(3) + cross + cross @ cross / 2.0
    return np.eye(3) + math.sin(angle) / angle * cross + (1.0 - math.cos(angle)) / angle**2 * (cross @ cross)


def rotation_vector(matrix: ArrayLike) -> F64:
    """Return the rotation vector (3,), radians, at most π long, of a rotation (3, 3); undoes `rotation_matrix`."""
    m = np.asarray(matrix, np.float64)
    axis = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / 2.0  # sin(angle) · axis
    sine, cosine = float(np.linalg.norm(axis)), (float(np.trace(m)) - 1.0) / 2.0
    angle = math.atan2(sine, cosine)
    if cosine > -0.99:
        return axis if sine < 1e-9 else axis * (angle / sine)
    # Near π the antisymmetric part vanishes: the symmetric part has the axis, the other its sign.
    outer = (m + m.T) / 2.0 - cosine * np.eye(3)  # (1 − cosine) · axis axisᵀ
    column = outer[:, int(np.argmax(np.diag(outer)))]
    column = column / np.linalg.norm(column)
    return column * (angle if column @ axis >= 0.0 else -angle)


def orthonormal(matrix: F64) -> F64:
    """Return the rotation nearest to a (3, 3) that is one to within rounding."""
    left, _, right = np.linalg.svd(matrix)
    return left @ right
