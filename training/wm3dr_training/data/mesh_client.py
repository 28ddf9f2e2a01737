"""MediaPipe FaceMesh in a process of its own environment (`mesh_worker.py`)."""

import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from .landmarks import N_MEDIAPIPE

WORKER = Path(__file__).with_name("mesh_worker.py")
ENVIRONMENT_HELP = """The landmarks come from mediapipe 0.10.9, whose pins do not fit this environment. Make one for it:
  python3.11 -m venv mediapipe-env
  mediapipe-env/bin/pip install "mediapipe==0.10.9" "numpy<2" "protobuf<4"
and pass --python mediapipe-env/bin/python."""
_REPLY_BYTES = N_MEDIAPIPE * 3 * 4


class MeshError(RuntimeError):
    """The landmark process did not start or ended."""


class MeshClient:
    """Landmarks of face crops by a MediaPipe process; a context manager.

    Parameters
    ----------
    python : str
        Interpreter that has mediapipe 0.10.9.
    command : list of str, optional
        Program and arguments instead of `python` and the worker.
    """

    def __init__(self, python: str = sys.executable, command: list[str] | None = None) -> None:
        self._command = command or [python, str(WORKER)]
        self._printed = tempfile.TemporaryFile()  # a pipe that nobody reads would fill up and block
        try:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._printed
            )
        except OSError as error:
            self._printed.close()
            raise MeshError(f"{self._command[0]} cannot be run: {error}\n{ENVIRONMENT_HELP}") from error

    def landmarks(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(478, 3) float32 pixels of a square RGB crop, z growing away from the camera; NaN without a face.

        Raises
        ------
        ValueError
            The crop is not (S, S, 3) uint8.
        MeshError
            The process has ended; the message has the end of what it printed.
        """
        if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[0] != crop.shape[1] or crop.shape[2] != 3:
            raise ValueError(f"crop has shape {crop.shape} and dtype {crop.dtype}, wanted (S, S, 3) uint8")
        try:
            self._process.stdin.write(struct.pack("<I", crop.shape[0]) + crop.tobytes())
            self._process.stdin.flush()
            reply = self._process.stdout.read(_REPLY_BYTES)
        except OSError:
            reply = b""
        if len(reply) != _REPLY_BYTES:
            self._process.kill()
            self._process.wait()
            self._printed.seek(0)
            printed = self._printed.read().decode(errors="replace").strip().splitlines()[-3:]
            raise MeshError("the landmark process ended: " + " / ".join(printed) + "\n" + ENVIRONMENT_HELP)
        return np.frombuffer(reply, "<f4").reshape(N_MEDIAPIPE, 3).astype(np.float32)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout, self._printed):
            try:
                pipe.close()
            except OSError:
                pass
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
