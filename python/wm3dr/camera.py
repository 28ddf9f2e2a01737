"""The perspective camera that all faces of a photo share."""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

SQUARE_TOLERANCE = 0.01
"""f_x and f_y of a matrix may differ by this share; the camera takes their geometric mean."""
SKEW_TOLERANCE = 1e-3
"""Skew of a matrix, shares of the focal length, that is taken for none."""


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

    @classmethod
    def from_fov(
        cls,
        size: tuple[int, int],
        *,
        horizontal: float | None = None,
        vertical: float | None = None,
        diagonal: float | None = None,
        principal_point: tuple[float, float] | None = None,
    ) -> "Camera":
        """Return the camera of a field of view: ``f = extent / (2 tan(angle / 2))``.

        Parameters
        ----------
        size : (int, int)
            (width, height) of the photo, px.
        horizontal, vertical, diagonal : float
            Exactly one of them: the angle between opposite edges or corners, degrees, between 0 and 180.
        principal_point : (float, float), optional
            px; None is the centre of the photo.

        Raises
        ------
        TypeError, ValueError
            Not exactly one angle, or one out of range; a size that is none.
        """
        angles = {"horizontal": horizontal, "vertical": vertical, "diagonal": diagonal}
        given = {name: angle for name, angle in angles.items() if angle is not None}
        if len(given) != 1:
            raise TypeError(f"one of 'horizontal', 'vertical', 'diagonal' must be given, not {len(given)}")
        [(name, angle)] = given.items()
        if isinstance(angle, bool) or not isinstance(angle, int | float | np.integer | np.floating):
            raise TypeError(f"'{name}' must be a number (degrees), not {type(angle).__name__}")
        if not 0.0 < angle < 180.0:
            raise ValueError(f"'{name}' must be between 0 and 180 degrees, not {angle}")
        blank = cls(1.0, (0.0, 0.0), size)  # checks the size
        width, height = blank.size
        extent = {"horizontal": width, "vertical": height, "diagonal": math.hypot(width, height)}[name]
        focal = extent / (2.0 * math.tan(math.radians(angle) / 2.0))
        return cls(focal, principal_point or (width / 2.0, height / 2.0), blank.size)

    @classmethod
    def from_matrix(
        cls, matrix: ArrayLike, size: tuple[int, int], *, pixel_origin: Literal["corner", "center"] = "corner"
    ) -> "Camera":
        """Return the camera of an intrinsic matrix K = [[f_x, 0, c_x], [0, f_y, c_y], [0, 0, 1]].

        Parameters
        ----------
        matrix : (3, 3)
            Pixels. f_x and f_y may differ by 1 %; the camera takes their geometric mean.
        size : (int, int)
            (width, height) of the photo, px.
        pixel_origin : "corner" or "center"
            What (0, 0) is in K: the outer corner of the top-left pixel, as here, or its centre, as for OpenCV's
            calibration; then half a pixel is added to the principal point.

        Raises
        ------
        ValueError
            K is not of this form, has skew, or its pixels are not square.
        """
        k = np.asarray(matrix, np.float64)
        if k.shape != (3, 3) or not np.isfinite(k).all():
            raise ValueError(f"'matrix' must be (3, 3) and finite, not of shape {k.shape}: {k.tolist()}")
        if pixel_origin not in ("corner", "center"):
            raise ValueError(f"'pixel_origin' must be 'corner' or 'center', not {pixel_origin!r}")
        fx, fy, skew = k[0, 0], k[1, 1], k[0, 1]
        if not (fx > 0 and fy > 0 and k[1, 0] == 0 and k[2].tolist() == [0.0, 0.0, 1.0]):
            raise ValueError(f"'matrix' must be [[f_x, 0, c_x], [0, f_y, c_y], [0, 0, 1]] with f > 0, not {k.tolist()}")
        if abs(skew) > SKEW_TOLERANCE * fx:
            raise ValueError(f"'matrix' has skew {skew:g}; this camera has none")
        if abs(fx - fy) > SQUARE_TOLERANCE * max(fx, fy):
            raise ValueError(f"'matrix' has f_x = {fx:g} and f_y = {fy:g}: resize the photo to square pixels first")
        shift = 0.5 if pixel_origin == "center" else 0.0
        return cls(math.sqrt(fx * fy), (float(k[0, 2]) + shift, float(k[1, 2]) + shift), size)

    @classmethod
    def from_exif(cls, image: "str | os.PathLike[str] | bytes | bytearray | memoryview | Image") -> "Camera":
        """Return the camera that the EXIF data of a photo tell of, its principal point in the middle.

        From the 35-mm equivalent focal length, ``f = f_35 · diagonal / 43.27 mm`` (CIPA DCG-001: equal diagonal angle);
        where that is missing, from focal length and focal-plane resolution. The size is that after orientation for
        files, that of the image for PIL images, as in `wm3dr.reconstruct`. Digital zoom and lens corrections are as
        right as the EXIF data are.

        Parameters
        ----------
        image : path, bytes or PIL image

        Raises
        ------
        TypeError, FileNotFoundError
            `image` is none of these, or there is no such file.
        ValueError
            The file is no image, its EXIF data have no focal length, or it was cropped after it was taken (other sides
            than the EXIF data say): its principal point is not known then.
        """
        from .exif import focal_from_exif

        focal, size = focal_from_exif(image)
        return cls(focal, (size[0] / 2.0, size[1] / 2.0), size)

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
