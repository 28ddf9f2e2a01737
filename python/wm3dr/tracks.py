"""One face over time: its state, how far a face of the next frame is from it, and its filters.

A state needs no focal length: the pixel of the model origin, the logarithm of the face's size in pixels per mm (in a
camera, `f/t_z`), and the rotation against the viewing ray (CONVENTIONS.md §2). Frames that were seen with different
cameras (a large face in the reduced photo) can therefore be compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import _native
from .decode import FACE_MM
from .dense import OPENGL_FROM_CAMERA
from .result import Result
from .smoothing import OneEuroRotation, OneEuroVector, Smoothing, gain, orthonormal

F64 = NDArray[np.float64]

REACH = (0.6, 1.0, 1.0)
"""How far from its predicted place a face is still the same: face widths at once, more per second unseen, at most."""
DEPTH_REACH = (0.3, 0.5, 0.6)
"""The same for the logarithm of its size: a factor of 1.35 at once."""
DEPTH_WEIGHT = 2.0
"""A face width to the side weighs as much as a factor of e^½ in depth: the size of a face is well known."""
VELOCITY_CUTOFF = 2.0
"""Hz, of the velocity that predictions use."""
COASTING = 0.5
"""Seconds in which the velocity of an unseen face dies away."""
RESTART = 0.25
"""A face unseen for more seconds than this starts its filters anew: where it was says little about where it is."""


@dataclass(frozen=True, eq=False)
class State:
    """A face at a moment, float64."""

    pixel: F64
    """(2,) px of the model origin."""
    log_size: float
    """Logarithm of the pixels per mm of the face model at the model origin."""
    turn: F64
    """(3, 3) rotation against the viewing ray, exp([ρ]×)."""
    identity: F64
    """(K_id,)"""
    albedo: F64
    """(K_alb,)"""
    expression: F64
    """(K_exp,)"""
    illumination: F64
    """(27,)"""
    score: float
    """In [0, 1]."""

    @property
    def width(self) -> float:
        """Width of a face of this size, px."""
        return FACE_MM * math.exp(self.log_size)


def measured(result: Result) -> list[State]:
    """Return the states of the faces of a result, in order."""
    if not len(result):
        return []
    translations = np.array([face.translation for face in result], np.float32)
    # Zero vectors leave the viewing ray alone: R = ray(t) · diag(1, −1, −1).
    rays = _native.rotations_from_vectors(np.zeros_like(translations), translations).astype(np.float64)
    pixels = result.camera.project(translations)
    log_sizes = np.log(result.camera.focal * result.dense.scales / translations[:, 2])
    return [
        State(
            pixel=pixel,
            log_size=float(log_size),
            turn=orthonormal((ray * OPENGL_FROM_CAMERA).T @ (face.rotation.astype(np.float64) * OPENGL_FROM_CAMERA)),
            identity=face.coefficients.identity.astype(np.float64),
            albedo=face.coefficients.albedo.astype(np.float64),
            expression=face.coefficients.expression.astype(np.float64),
            illumination=face.coefficients.illumination.astype(np.float64).reshape(-1),
            score=face.score,
        )
        for face, pixel, log_size, ray in zip(result, pixels, log_sizes, rays, strict=True)
    ]


class _Filters:
    """The One-Euro filters of one track."""

    def __init__(self, smoothing: Smoothing) -> None:
        self._pixel = OneEuroVector(smoothing.place, together=True)
        self._depth = OneEuroVector(smoothing.depth)
        self._turn = OneEuroRotation(smoothing.rotation)
        self._expression = OneEuroVector(smoothing.expression)
        self._illumination = OneEuroVector(smoothing.illumination)

    def __call__(self, state: State, seconds: float) -> State:
        return replace(
            state,
            pixel=self._pixel(state.pixel, seconds, unit=state.width),
            log_size=float(self._depth([state.log_size], seconds)[0]),
            turn=self._turn(state.turn, seconds),
            expression=self._expression(state.expression, seconds),
            illumination=self._illumination(state.illumination, seconds),
        )


class Track:
    """One face over time."""

    def __init__(self, number: int, state: State, now: float, smoothing: Smoothing | None, average: bool) -> None:
        self.id, self.first, self.seen = number, now, 0
        self.last = now
        """When the face was seen last, seconds."""
        self.state = state
        """Smoothed and averaged, as of `last`."""
        self._average, self._smoothing = average, smoothing
        self._filters = None if smoothing is None else _Filters(smoothing)
        self.measured = state
        """As the network saw it, as of `last`."""
        self._expected = (state.pixel, state.log_size)
        self._carried = False  # by the motion of the camera, instead of its own velocity
        self._velocity = np.zeros(3)  # px/s along x and y, 1/s of the logarithm of the size
        self._weight = 0.0
        self.take(state, now, missed=False)

    def distance(self, state: State, now: float) -> float:
        """Return how far a face is from where this one is expected, at most 1; infinite beyond reach."""
        unseen = now - self.last
        coasted = self._velocity * COASTING * (1.0 - math.exp(-unseen / COASTING))
        pixel, log_size = self._expected
        if not self._carried:
            pixel, log_size = pixel + coasted[:2], log_size + float(coasted[2])
        width = FACE_MM * math.exp((log_size + state.log_size) / 2.0)
        lateral = float(np.linalg.norm(state.pixel - pixel)) / width
        depth = abs(state.log_size - log_size)
        if lateral > _reach(REACH, unseen) or depth > _reach(DEPTH_REACH, unseen):
            return math.inf
        return math.hypot(lateral, DEPTH_WEIGHT * depth) / math.hypot(REACH[2], DEPTH_WEIGHT * DEPTH_REACH[2])

    def carry(self, motion: "Motion") -> None:
        """Move the place where a face that is not seen is expected with the camera."""
        pixel, log_size = self._expected
        self._expected = (motion.zoom * pixel + motion.shift, log_size + math.log(motion.zoom))
        self._carried = True

    def take(self, state: State, now: float, *, missed: bool) -> None:
        """Go on with the face of a frame; `missed`: it was not found in the frame before."""
        unseen = now - self.last
        if self.seen:
            step = np.append(state.pixel - self.measured.pixel, state.log_size - self.measured.log_size) / unseen
            self._velocity = self._velocity + gain(VELOCITY_CUTOFF, unseen) * (step - self._velocity)
        if missed and unseen > RESTART and self._smoothing is not None:
            self._filters = _Filters(self._smoothing)
        smooth = state if self._filters is None else self._filters(state, unseen)
        self._weight += state.score
        if self._average and self._weight > 0.0:
            share = state.score / self._weight
            before = self.state
            smooth = replace(
                smooth,
                identity=before.identity + share * (state.identity - before.identity),
                albedo=before.albedo + share * (state.albedo - before.albedo),
            )
        self.state, self.measured, self.last = smooth, state, now
        self._expected, self._carried = (state.pixel, state.log_size), False
        self.seen += 1


@dataclass(frozen=True, eq=False)
class Motion:
    """What a frame did to the picture as a whole: a pixel p of the frame before is at `zoom` · p + `shift`."""

    zoom: float
    shift: F64
    """(2,) px"""


def common_motion(before: F64, after: F64) -> Motion | None:
    """Return the motion that the faces found in both frames share, that of the camera; None for less than three.

    Zoom by least squares, shift as the median of what is left, so that a few who walk do not count.

    Parameters
    ----------
    before, after : (n, 2) px
    """
    if len(before) < 3:
        return None
    centered = before - before.mean(axis=0)
    spread = float((centered**2).sum())
    zoom = float((centered * (after - after.mean(axis=0))).sum()) / spread if spread > 0.0 else 1.0
    zoom = float(np.clip(zoom, 0.8, 1.25))
    return Motion(zoom, np.median(after - zoom * before, axis=0))


def _reach(reach: Sequence[float], unseen: float) -> float:
    return min(reach[0] + reach[1] * unseen, reach[2])
