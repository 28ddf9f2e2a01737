"""The perspective camera that all faces of a photo share."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Camera:
    """Pinhole camera without distortion: `u = cx + f X/Z`, `v = cy + f Y/Z` (CONVENTIONS.md §3).

    Raises
    ------
    TypeError
        A value is not a number.
    ValueError
        The focal length or a side is not positive, or a value is not finite.
    """

    focal: float
    """Focal length, pixels of the image."""
    principal_point: tuple[float, float]
    """(cx, cy), pixels of the image; (0, 0) is the outer corner of the top-left pixel."""
    size: tuple[int, int]
    """(width, height) of the image, pixels."""

    def __post_init__(self) -> None:
        for name, pair in (("principal_point", self.principal_point), ("size", self.size)):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise TypeError(f"camera '{name}' must be a pair of numbers, not {pair!r}")
        try:
            focal = float(self.focal)
            point = (float(self.principal_point[0]), float(self.principal_point[1]))
            size = (int(self.size[0]), int(self.size[1]))
        except (TypeError, ValueError) as error:
            raise TypeError(f"camera values must be numbers: {error}") from None
        if not (math.isfinite(focal) and focal > 0):
            raise ValueError(f"camera 'focal' must be positive and finite (pixels), not {focal}")
        if not all(map(math.isfinite, point)):
            raise ValueError(f"camera 'principal_point' must be finite (pixels), not {point}")
        if min(size) < 1 or size != tuple(self.size):
            raise ValueError(f"camera 'size' must be whole pixels, at least 1 x 1, not {self.size!r}")
        object.__setattr__(self, "focal", focal)
        object.__setattr__(self, "principal_point", point)
        object.__setattr__(self, "size", size)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(3, 3) intrinsic matrix K, pixels."""
        (cx, cy), f = self.principal_point, self.focal
        return np.array([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]])

    @property
    def vertical_field_of_view(self) -> float:
        """Angle between upper and lower edge along the middle column, degrees (principal point in the centre)."""
        return math.degrees(2.0 * math.atan(self.size[1] / (2.0 * self.focal)))

    @property
    def horizontal_field_of_view(self) -> float:
        """Angle between left and right edge along the middle row, degrees (principal point in the centre)."""
        return math.degrees(2.0 * math.atan(self.size[0] / (2.0 * self.focal)))

    def scaled(self, factor: float) -> "Camera":
        """Return the camera of the same photo resized by `factor`; sides are rounded."""
        size = (max(1, round(self.size[0] * factor)), max(1, round(self.size[1] * factor)))
        point = (self.principal_point[0] * factor, self.principal_point[1] * factor)
        return Camera(self.focal * factor, point, size)

    def project(self, points: ArrayLike) -> NDArray[np.float64]:
        """Project points to pixels.

        Parameters
        ----------
        points : (..., 3)
            Camera frame, mm, Z > 0.

        Returns
        -------
        pixels : (..., 2) float64

        Raises
        ------
        ValueError
            The last axis is not 3, or some Z <= 0.
        """
        array = np.asarray(points, np.float64)
        if array.shape[-1:] != (3,):
            raise ValueError(f"'points' has shape {array.shape}, not (..., 3)")
        if not (array[..., 2] > 0).all():
            raise ValueError("'points' holds points that are not in front of the camera (Z <= 0)")
        return array[..., :2] / array[..., 2:] * self.focal + np.array(self.principal_point)

    def unproject(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return the points of pixels at a depth, the inverse of `project`.

        Parameters
        ----------
        points : (..., 3)
            x and y in pixels and camera z in mm, Z > 0: the "image" frame.

        Returns
        -------
        points : (..., 3) float64
            Camera frame, mm.

        Raises
        ------
        ValueError
            The last axis is not 3, or some Z <= 0.
        """
        array = np.asarray(points, np.float64)
        if array.shape[-1:] != (3,):
            raise ValueError(f"'points' has shape {array.shape}, not (..., 3)")
        z = array[..., 2:]
        if not (z > 0).all():
            raise ValueError("'points' holds points that are not in front of the camera (Z <= 0)")
        return np.concatenate([(array[..., :2] - np.array(self.principal_point)) * z / self.focal, z], axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-able."""
        return {"focal": self.focal, "principal_point": list(self.principal_point), "size": list(self.size)}


def check_camera(camera: object, size: tuple[int, int] | None = None) -> None:
    """Raise TypeError where `camera` is no Camera, ValueError where its size is not that of the image."""
    if not isinstance(camera, Camera):
        raise TypeError(f"'camera' must be a wm3dr.Camera or None, not {type(camera).__name__}")
    if size is not None and camera.size != size:
        raise ValueError(f"'camera' has size {camera.size}, but the image is {size} (width, height)")
