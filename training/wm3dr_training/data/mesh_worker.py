"""MediaPipe FaceMesh as a filter: face crops on standard input, landmarks on standard output.

Run as a file by an interpreter that has mediapipe 0.10.9 and numpy; imports nothing of this package, because
mediapipe's pins (numpy < 2, protobuf < 4) do not go together with the rest.

Request: uint32 side, then side·side·3 bytes RGB. Reply: 478·3 float32 (x, y, z in pixels of the crop; all NaN when
there is no face). Both little-endian. End of input ends the worker.
"""

import os
import struct
import sys

N_LANDMARKS = 478


def main() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # mediapipe's native code may print; keep it out of the replies
    os.environ.setdefault("GLOG_minloglevel", "2")
    import mediapipe
    import numpy as np

    mesh = mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, refine_landmarks=True, max_num_faces=1, min_detection_confidence=0.3
    )
    while len(header := sys.stdin.buffer.read(4)) == 4:
        (side,) = struct.unpack("<I", header)
        crop = np.frombuffer(sys.stdin.buffer.read(side * side * 3), np.uint8).reshape(side, side, 3)
        found = mesh.process(crop).multi_face_landmarks
        points = np.full((N_LANDMARKS, 3), np.nan, "<f4")
        if found:
            # MediaPipe normalises x and z by the width, y by the height; the crop is square.
            points = np.array([[p.x, p.y, p.z] for p in found[0].landmark], "<f4") * np.float32(side)
        replies.write(points.tobytes())
        replies.flush()


if __name__ == "__main__":
    main()
