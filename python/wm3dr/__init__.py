"""Every face in a photo, in 3D, in one forward pass.

>>> import wm3dr
>>> result = wm3dr.reconstruct("photo.jpg")     # also a uint8 RGB array, bytes or a PIL image
>>> for face in result:
...     face.score, face.box, face.landmarks, face.pose

Frames, axes and units are those of CONVENTIONS.md. Importing wm3dr loads neither onnxruntime nor Pillow.
"""

from importlib.metadata import version as _version

from ._native import ModelError
from .animation import Clip
from .api import Reconstructor, reconstruct
from .camera import Camera
from .edit import retarget
from .encoder import Encoder
from .face_model import FaceModel
from .mapfiles import MapFile, read_map
from .maps import Raster
from .result import LANDMARK_GROUPS, Coefficients, Face, Mesh, Pose, Result
from .smoothing import OneEuro, Smoothing
from .texture import Texture
from .tracker import TrackedFace, TrackedResult, Tracker
from .video import read_video

__version__: str = _version("wm3dr")

__all__ = [
    "LANDMARK_GROUPS",
    "Camera",
    "Clip",
    "Coefficients",
    "Encoder",
    "Face",
    "FaceModel",
    "MapFile",
    "Mesh",
    "ModelError",
    "OneEuro",
    "Pose",
    "Raster",
    "Reconstructor",
    "Result",
    "Smoothing",
    "Texture",
    "TrackedFace",
    "TrackedResult",
    "Tracker",
    "__version__",
    "read_map",
    "read_video",
    "reconstruct",
    "retarget",
]
