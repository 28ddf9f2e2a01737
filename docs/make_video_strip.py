"""Draw docs/pictures/video_strip.jpg anew: frames of a camera that moves over the Solvay photo, with the tracker's ids.

python docs/make_video_strip.py
"""

import sys
from pathlib import Path

import PIL.Image

import wm3dr
from wm3dr.video_overlay import draw_frame

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "benches"))
SIZE, SHOWN = (640, 360), (2, 26, 50, 74)


def main() -> None:
    from moving_clips import moving_clip

    photo = PIL.Image.open(DOCS / "photos" / "solvay_1927.jpg").convert("RGB").crop((250, 230, 1030, 670))
    clip = moving_clip(photo, SIZE, seconds=3.0, fps=25, seed=5, noise=2.0, crf=23)
    tracker = wm3dr.Tracker()
    sheet = PIL.Image.new("RGB", (2 * SIZE[0] + 8, 2 * SIZE[1] + 8), (250, 250, 248))
    for k, (frame, seconds) in enumerate(zip(clip.frames, clip.times, strict=True)):
        result = tracker.update(frame, float(seconds))
        if k in SHOWN:
            row, column = divmod(SHOWN.index(k), 2)
            sheet.paste(PIL.Image.fromarray(draw_frame(result, frame)), (column * (SIZE[0] + 8), row * (SIZE[1] + 8)))
    sheet.save(DOCS / "pictures" / "video_strip.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
