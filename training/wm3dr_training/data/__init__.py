"""From photos to what the trainers read.

`sources.py`, `external.py` → `records.py` (one record per photo) → `detector.py`, `mesh_client.py` (faces, landmarks) →
`quality.py` (which labels to use) → `arrays.py` with `crops.py` and `skin.py` (crops, points, masks). `label.py` is
the command that runs all of it. `correspondence.py` places MediaPipe's points on the face mesh; `register_mediapipe.py`
with `landmark_fit.py` made its table.
"""
