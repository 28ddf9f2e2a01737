"""Jitter, lag and ids of the tracker through the encoder, on clips whose motion is known.

    python benches/tracker.py --london ../shared/data          the Solvay photo and nine people of the London set
    python benches/tracker.py --speed clip.mp4                 frames per second of `wm3dr video`, by stage

A camera pans, zooms and shakes over a still photo (benches/moving_clips.py). Every landmark is carried back to the
photo, where it should stand still. Jitter: rms deviation from the running mean over a second, of landmarks in % of the
width of the face, of yaw, pitch and roll in degrees, of the size in %. Lag: the shift in time at which the known path
of the nose fits the found one best. Switches: frames in which an id is on somebody else. Ids over people: 1 where
nobody was lost for longer than the tracker waits.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from moving_clips import Clip, moving_clip
from numpy.typing import NDArray
from photos import london_photo
from scipy.interpolate import CubicSpline

import wm3dr
from wm3dr.smoothing import Smoothing
from wm3dr.video_tracking import track_video

F64 = NDArray[np.float64]
SOLVAY = Path(__file__).parents[1] / "docs" / "photos" / "solvay_1927.jpg"
SIZE, FPS = (640, 360), 25
SECONDS = {True: 6.0, False: 4.0}
FACE_MM = 160.0
WAYS: dict[str, dict[str, Any]] = {
    "frame by frame": {"smoothing": None, "average": False},
    "identity averaged": {"smoothing": None},
    "and smoothed (default)": {"smoothing": Smoothing()},
}


def running_deviation(numbers: NDArray[np.intp], values: F64) -> F64:
    """Deviation from the mean over the frames within half a second; (n, ...) like `values`."""
    half = FPS // 2
    means = np.array([values[np.abs(numbers - k) <= half].mean(axis=0) for k in numbers])
    deviation: F64 = values - means
    return deviation


def lag_ms(numbers: NDArray[np.intp], path: F64, clip: Clip) -> float:
    """Milliseconds by which a path (n, 2) px of a point of the photo comes late."""
    zoom, shift = CubicSpline(clip.times, clip.zoom), CubicSpline(clip.times, clip.shift)
    inner = numbers[(numbers >= FPS // 2) & (numbers < len(clip.times) - FPS // 2)]
    found = path[np.isin(numbers, inner)]
    shifts, errors = np.arange(-0.06, 0.2, 0.002), []
    for late in shifts:
        z, s = zoom(clip.times[inner] - late)[:, None], shift(clip.times[inner] - late)
        point = ((found - s) / z).mean(axis=0)
        errors.append(np.square(z * point + s - found).mean())
    return float(1e3 * shifts[int(np.argmin(errors))])


def measure(clip: Clip, results: list[wm3dr.Result]) -> list[str]:
    """Return a row of the table for each way."""
    rows = []
    for way, options in WAYS.items():
        tracker, tracks = wm3dr.Tracker(**options), {}
        for k, (result, seconds) in enumerate(zip(results, clip.times, strict=True)):
            for face in tracker.track(result, float(seconds)):
                tracks.setdefault(face.id, []).append((k, face))
        landmarks, poses, sizes, lags, switches, places = [], [], [], [], 0, []
        for track in tracks.values():
            numbers = np.array([k for k, _ in track])
            points = np.array([face.landmarks for _, face in track], np.float64)
            still = (points - clip.shift[numbers, None]) / clip.zoom[numbers, None, None]  # (n, 68, 2) in the photo
            scale = np.array([result_size(face) for _, face in track])
            width = float(np.median(FACE_MM * scale / clip.zoom[numbers]))
            place = np.median(still[:, 30], axis=0)
            switches += int((np.abs(still[:, 30] - place).max(axis=1) > 0.5 * width).sum())
            if not any(np.abs(place - other).max() < 0.5 * width for other in places):
                places.append(place)
            if len(track) < 2 * FPS:
                continue
            landmarks.append(np.sqrt(np.square(running_deviation(numbers, still)).mean()) / width)
            angles = np.unwrap([face.pose for _, face in track], period=360.0, axis=0)
            poses.append(np.sqrt(np.square(running_deviation(numbers, angles)).mean(axis=0)))
            size = np.log(scale / clip.zoom[numbers])
            sizes.append(np.sqrt(np.square(running_deviation(numbers, size)).mean()))
            lags.append(lag_ms(numbers, points[:, 30], clip))
        yaw, pitch, roll = np.mean(poses, axis=0)
        rows.append(
            f"| {way} | {100 * np.mean(landmarks):.2f} | {yaw:.2f} / {pitch:.2f} / {roll:.2f} "
            f"| {100 * np.mean(sizes):.2f} | {np.median(lags):.0f} | {switches} | {len(tracks)} / {len(places)} |"
        )
    return rows


def result_size(face: wm3dr.Face) -> float:
    """Pixels per mm at the model origin."""
    return face.dense.camera.focal / float(face.translation[2])


def clips(london: Path | None) -> dict[str, PIL.Image.Image]:
    """The photos: a crop of the Solvay conference, and nine people of the London set."""
    photos = {"Solvay 1927": PIL.Image.open(SOLVAY).convert("RGB").crop((250, 230, 1030, 670))}
    if london is not None:
        photos["London, nine people"] = PIL.Image.fromarray(london_photo(london, 9, 600))
    return photos


def speed(path: Path) -> None:
    """Print frames per second of `wm3dr video` on a clip, and the shares of its stages."""
    with tempfile.TemporaryDirectory() as folder:
        summary = track_video(path, Path(folder) / "out.mp4", wm3dr.Tracker(wm3dr.Reconstructor()))
    total = summary.seconds["total"]
    print(f"{summary.frames} frames, {len(summary.ids)} ids, {summary.frames / total:.1f} frames/s, {summary.encoder}")
    for stage, seconds in summary.seconds.items():
        print(f"  {stage:<7} {1e3 * seconds / summary.frames:7.1f} ms a frame, {seconds / total:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--london", type=Path, help="folder with london.zip and london.npz")
    parser.add_argument("--speed", type=Path, help="measure the speed on this video instead")
    arguments = parser.parse_args()
    if arguments.speed is not None:
        speed(arguments.speed)
        return
    model = wm3dr.Reconstructor()
    for hand_held in (True, False):
        for name, photo in clips(arguments.london).items():
            clip = moving_clip(
                photo, SIZE, seconds=SECONDS[hand_held], fps=FPS, seed=5, noise=2.0, crf=23, hand_held=hand_held
            )
            results = [model.reconstruct(frame) for frame in clip.frames]
            n_faces = np.mean([len(result) for result in results])
            width = np.median([FACE_MM * result_size(face) for result in results for face in result])
            how = "hand-held" if hand_held else "slow pan"
            print(f"\n{name}, {how}: {len(results)} frames, {n_faces:.1f} faces a frame, {width:.0f} px wide")
            print("| | landmarks % | yaw / pitch / roll ° | size % | lag ms | switches | ids / people |")
            print("|---|---|---|---|---|---|---|")
            print("\n".join(measure(clip, results)), flush=True)


if __name__ == "__main__":
    main()
