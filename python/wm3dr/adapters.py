"""Results in the types of other packages: supervision and Rerun. Each is imported when asked for (docs/adapters.md).

Meshes go to trimesh with `Face.to_trimesh`, faces to Arrow and pandas with `wm3dr.tables`, scenes to Blender with
`wm3dr.blender`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from .image import ImageSource, read_rgb
from .optional import require
from .result import Result

if TYPE_CHECKING:
    import rerun
    import supervision

_BEHIND_MM = 300.0
"""How far behind the farthest head's origin the photo stands in Rerun's 3D view."""
_GREEN = (60, 220, 120)


def to_supervision(result: Result, *, masks: bool = False) -> "supervision.Detections":
    """Return the faces as `supervision.Detections`.

    Boxes, scores and class 0, "face"; `data` holds `class_name`, `yaw`, `pitch`, `roll` (degrees), `landmarks`
    (F, 68, 2) px and `translation` (F, 3) mm, so that they follow when detections are filtered.

    Parameters
    ----------
    result : Result
        What `reconstruct` returned.
    masks : bool
        Add the mask of each face: the pixels where it is seen, hidden parts left out.

    Raises
    ------
    ImportError
        supervision is not installed.
    """
    sv = require("supervision", "supervision")
    n = len(result)
    width, height = result.size
    poses = np.array([face.pose for face in result], np.float32).reshape(n, 3)
    mask = None
    if masks:
        seen = result.render().face_id
        mask = np.stack([seen == k for k in range(n)]) if n else np.zeros((0, height, width), bool)
    return sv.Detections(
        xyxy=_stacked([face.box for face in result], (4,)),
        mask=mask,
        confidence=np.array([face.score for face in result], np.float32),
        class_id=np.zeros(n, int),
        data={
            "class_name": np.array(["face"] * n, dtype=str),
            "yaw": poses[:, 0],
            "pitch": poses[:, 1],
            "roll": poses[:, 2],
            "landmarks": _stacked([face.landmarks for face in result], (68, 2)),
            "translation": _stacked([face.translation for face in result], (3,)),
        },
    )


def to_key_points(result: Result) -> "supervision.KeyPoints":
    """Return the 68 landmarks of every face as `supervision.KeyPoints`; `data` holds the faces' `score`.

    Landmarks have no confidence of their own.

    Raises
    ------
    ImportError
        supervision is not installed.
    """
    sv = require("supervision", "supervision")
    return sv.KeyPoints(
        xy=_stacked([face.landmarks for face in result], (68, 2)),
        class_id=np.zeros(len(result), int),
        data={"score": np.array([face.score for face in result], np.float32)},
    )


def log_rerun(
    result: Result,
    image: "ImageSource | None" = None,
    *,
    entity: str = "photo",
    recording: "rerun.RecordingStream | None" = None,
) -> None:
    """Log a result to Rerun: photo, boxes and landmarks in the pinhole camera, meshes in the camera's space.

    ENTITY is the camera frame in mm (x right, y down, z forward; CONVENTIONS.md §2); below it stand `camera` (the
    pinhole, at the origin), `camera/image`, `camera/boxes`, `camera/landmarks` and `faces/0`, `faces/1`, … . Meshes
    carry the light of the photo and are therefore logged without normals, which Rerun draws unlit. On a timeline
    (`rerun.set_time`) a result replaces the one before.

    Parameters
    ----------
    result : Result
        What `reconstruct` returned.
    image : array, path, bytes or PIL image, optional
        The photo (an array in RGB), to stand behind the faces.
    entity : str
        Entity path to log under.
    recording : rerun.RecordingStream, optional
        Where to; None takes the current recording (`rerun.init`).

    Raises
    ------
    ImportError
        rerun-sdk is not installed.
    ValueError
        `image` has another size than the photo, or `entity` is empty.
    RuntimeError
        There is no recording to log to.
    """
    rr = require("rerun", "rerun")
    if not entity.strip("/"):
        raise ValueError(f"'entity' must be the path of an entity like 'photo', not {entity!r}")
    if recording is None and rr.get_global_data_recording() is None and rr.get_thread_local_data_recording() is None:
        raise RuntimeError("there is no recording: call rerun.init(...), or pass 'recording'")
    width, height = result.size
    pixels = None if image is None else read_rgb(image)
    if pixels is not None and pixels.shape[:2] != (height, width):
        raise ValueError(
            f"'image' is {pixels.shape[1]} x {pixels.shape[0]} pixels, but the result belongs to {width} x {height}"
        )
    entity = entity.strip("/")

    def log(path: str, what: Any, **options: Any) -> None:
        rr.log(f"{entity}/{path}" if path else entity, what, recording=recording, **options)

    log("", rr.ViewCoordinates.RDF, static=True)
    depths = [float(face.translation[2]) for face in result]
    log(
        "camera",
        rr.Pinhole(
            focal_length=result.camera.focal,
            principal_point=result.camera.principal_point,
            resolution=result.size,
            camera_xyz=rr.ViewCoordinates.RDF,
            image_plane_distance=max(depths, default=1000.0) + _BEHIND_MM,
        ),
    )
    log("camera/image", rr.Clear(recursive=False) if pixels is None else rr.Image(pixels))
    boxes = _stacked([face.box for face in result], (4,))
    names = [f"face {face.index}, {face.score:.2f}" for face in result]
    log("camera/boxes", rr.Boxes2D(array=boxes, array_format=rr.Box2DFormat.XYXY, labels=names, colors=_GREEN))
    landmarks = _stacked([face.landmarks for face in result], (68, 2)).reshape(-1, 2)
    log("camera/landmarks", rr.Points2D(landmarks, colors=_GREEN, radii=max(1.0, width / 1000)))
    log("faces", rr.Clear(recursive=True))
    for face in result:
        mesh = face.mesh("camera")
        log(
            f"faces/{face.index}",
            rr.Mesh3D(
                vertex_positions=mesh.vertices,
                triangle_indices=mesh.triangles,
                vertex_colors=np.rint(mesh.colors * 255.0).astype(np.uint8),
            ),
        )


def _stacked(arrays: "list[np.typing.NDArray[np.float32]]", shape: tuple[int, ...]) -> "np.typing.NDArray[np.float32]":
    """Stack F arrays of `shape`; also none of them."""
    return np.array(arrays, np.float32).reshape(len(arrays), *shape)
