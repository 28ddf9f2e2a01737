"""The pipeline that one pass replaces: detect, then crop, encode and decode every face (METHOD.md, equation 1).

`T = T_detect + n (T_crop + T_encode + T_decode)` with the same network as ours: one pass over the photo finds the
faces and their sizes, then each is cut out at 224 x 224 and goes through the network again, one by one or as one batch.

    python benches/conventional.py PHOTO
"""

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from wm3dr import _native
from wm3dr.decode import Peaks, decode
from wm3dr.encoder import Encoder
from wm3dr.face_model import FaceModel
from wm3dr.image import network_input, read_rgb
from wm3dr.threads import check_threads

F32 = NDArray[np.float32]

CROP = 224
"""Side of a crop, network pixels."""
MARGIN = 1.3
"""Side of a crop over the height of its face."""
CENTRE_CELL = np.array([[CROP // 16, CROP // 16]], np.int32)


@dataclass(frozen=True)
class Found:
    """Landmarks (F, 68, 2) in pixels of the photo, one row per detected face."""

    landmarks: F32

    def __len__(self) -> int:
        return len(self.landmarks)


class Conventional:
    """Equation 1 with an encoder file, on the CPU.

    Parameters
    ----------
    detector : Encoder
        Finds the faces on the whole photo.
    encoder : Encoder
        Runs on the crops.
    max_side : int
        As `wm3dr.Reconstructor`.
    """

    def __init__(self, detector: Encoder, encoder: Encoder, face_model: FaceModel, threads: int, max_side: int) -> None:
        self.detector, self.encoder, self.face_model = detector, encoder, face_model
        self.threads, self.max_side = threads, max_side
        self.height_mm = float(np.ptp(face_model.mean_shape[:, 1]))

    def detect(self, photo: NDArray[np.uint8]) -> tuple[F32, F32]:
        """Return centres (F, 2) and heights (F,) of the faces, pixels of the photo."""
        contract = self.detector.contract
        given = network_input(photo, self.max_side)
        heatmap, maps = self.detector.predict(given.pixels)
        cells, _ = _native.find_peaks(heatmap[0, 0], contract.peak_threshold, contract.peak_window)
        rows = self.detector.rows(maps[0], cells)
        depth_mm = 100.0 * (10.0 + rows[:, contract.slices()["translation"]][:, 2])
        centers = (cells[:, ::-1].astype(np.float32) + np.float32(0.5)) * np.float32(contract.stride)
        heights = contract.focal * self.height_mm / depth_mm
        return centers / np.float32(given.scale), heights / np.float32(given.scale)

    def __call__(self, photo: NDArray[np.uint8], batched: bool) -> Found:
        """Detect, then run the network once per face, or (batched) once on all crops."""
        centers, heights = self.detect(photo)
        return self.after_detection(photo, centers, heights, batched)

    def after_detection(self, photo: NDArray[np.uint8], centers: F32, heights: F32, batched: bool) -> Found:
        """Crop, encode and decode the faces: `n (T_crop + T_encode + T_decode)`."""
        if not len(centers):
            return Found(np.zeros((0, 68, 2), np.float32))
        image = PIL.Image.fromarray(photo)
        sides = MARGIN * heights
        corners = centers - sides[:, None] / 2
        if batched:
            rows = self._encode(np.concatenate([_crop(image, *crop) for crop in zip(corners, sides, strict=True)]))
            found = self._decode(rows)
        else:
            each = [self._decode(self._encode(_crop(image, *crop))) for crop in zip(corners, sides, strict=True)]
            found = np.concatenate(each)
        return Found(found * (sides / CROP)[:, None, None].astype(np.float32) + corners[:, None].astype(np.float32))

    def _encode(self, crops: NDArray[np.uint8]) -> F32:
        """(F, 224, 224, 3) -> rows (F, C) at the cell in the middle."""
        _, maps = self.encoder.predict(crops)
        if self.encoder.contract.version == "3":  # channels last: the maps of all crops are one high map
            rows = CENTRE_CELL + [[k * maps.shape[1], 0] for k in range(len(maps))]
            return self.encoder.rows(maps.reshape(-1, *maps.shape[2:]), rows.astype(np.int32))
        return np.concatenate([self.encoder.rows(features, CENTRE_CELL) for features in maps])

    def _decode(self, rows: F32) -> F32:
        """Rows (F, C) -> landmarks (F, 68, 2) in pixels of the crops, which all have the same camera."""
        contract = self.encoder.contract
        centers = np.full((len(rows), 2), CROP / 2 + contract.stride / 2, np.float32)
        _, faces = decode(
            [Peaks(rows, np.ones(len(rows), np.float32), centers, 1.0)],
            size=(CROP, CROP),
            contract=contract,
            face_model=self.face_model,
            camera=None,
            threads=self.threads,
        )
        return np.stack([face.landmarks for face in faces])


def _crop(image: PIL.Image.Image, corner: F32, side: float) -> NDArray[np.uint8]:
    """Cut a square out of the photo, 0 outside it: (1, 224, 224, 3)."""
    scale = CROP / float(side)
    matrix = (1 / scale, 0, float(corner[0]), 0, 1 / scale, float(corner[1]))
    if scale < 1:
        box = [max(0.0, float(corner[0])), max(0.0, float(corner[1]))]
        box += [min(float(image.width), float(corner[0] + side)), min(float(image.height), float(corner[1] + side))]
        size = [max(1, round((box[k + 2] - box[k]) * scale)) for k in (0, 1)]
        part = image.resize((size[0], size[1]), PIL.Image.Resampling.BILINEAR, box=(box[0], box[1], box[2], box[3]))
        cut = PIL.Image.new("RGB", (CROP, CROP))
        cut.paste(part, (round((box[0] - float(corner[0])) * scale), round((box[1] - float(corner[1])) * scale)))
    else:
        cut = image.transform((CROP, CROP), PIL.Image.Transform.AFFINE, matrix, PIL.Image.Resampling.BILINEAR)
    return np.asarray(cut)[None]


@click.command()
@click.argument("photo", type=click.Path(path_type=Path, exists=True))
@click.option("--encoder", type=click.Path(path_type=Path), help="Another encoder (ONNX).")
@click.option("--face-model", type=click.Path(path_type=Path), help="Another face model (safetensors).")
@click.option("--max-side", default=640, show_default=True)
def main(photo: Path, encoder: Path | None, face_model: Path | None, max_side: int) -> None:
    """How far the faces of both ways lie apart on a photo, in per cent of their size."""
    import wm3dr

    model, image, threads = FaceModel.load(face_model), read_rgb(photo), check_threads(None)
    opened = Encoder(encoder, providers=["CPUExecutionProvider"], threads=threads)
    pipeline = Conventional(opened, opened, model, threads, max_side)
    ours = wm3dr.Reconstructor(opened, model, max_side=max_side).reconstruct(image)
    other = pipeline(image, batched=True)
    click.echo(f"{len(ours)} faces in one pass, {len(other)} by crops")
    for face, landmarks in zip(ours, other.landmarks, strict=True):
        distance = np.linalg.norm(face.landmarks - landmarks, axis=1).mean()
        click.echo(f"  face {face.index}: {100 * distance / np.ptp(face.landmarks[:, 1]):.1f} %")


if __name__ == "__main__":
    main()
