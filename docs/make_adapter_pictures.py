"""Draw the pictures of docs/adapters.md anew: `python docs/make_adapter_pictures.py`.

supervision.jpg needs `pip install 'wm3dr[supervision]'`, blender.jpg Blender's Python module, `pip install bpy`, which
seldom fits the Python of the other: what is not installed is named and its picture left as it is.
"""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import wm3dr
from wm3dr import blender_scene
from wm3dr.marks import PAPER

DOCS = Path(__file__).parent
PHOTO = DOCS / "photos" / "solvay_1927.jpg"
PART = (120, 250, 1190, 790)
"""Of the photo, that is shown."""
WIDTH, GAP, MARGIN = 900, 8, 16
TURN, SAMPLES = np.radians(25.0), 4
"""Blender's second camera: to the right, about the middle of the faces."""


def main() -> None:
    result = wm3dr.reconstruct(PHOTO)
    for package, draw in (("supervision", supervision_picture), ("bpy", blender_picture)):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: its picture stays as it is")
            continue
        name = "blender.jpg" if package == "bpy" else f"{package}.jpg"
        draw(result).save(DOCS / "pictures" / name, quality=84, optimize=True)


def supervision_picture(result: wm3dr.Result) -> Image.Image:
    """Above: masks and landmarks; below: boxes and yaw of the faces within 20° of frontal."""
    import supervision as sv

    photo = np.array(Image.open(PHOTO).convert("RGB"))
    detections = result.to_supervision(masks=True)
    by_face = sv.ColorLookup.INDEX
    above = sv.MaskAnnotator(opacity=0.55, color_lookup=by_face).annotate(photo.copy(), detections)
    above = sv.VertexAnnotator(color=sv.Color.WHITE, radius=1).annotate(above, result.to_key_points())
    frontal = detections[np.abs(detections.data["yaw"]) < 20]
    below = sv.BoxAnnotator(color_lookup=by_face, thickness=2).annotate(photo.copy(), frontal)
    labels = [f"{yaw:+.0f}" for yaw in frontal.data["yaw"]]
    writer = sv.LabelAnnotator(color_lookup=by_face, text_scale=0.42, text_padding=3)
    below = writer.annotate(below, frontal, labels)
    return stacked([Image.fromarray(picture).crop(PART) for picture in (above, below)])


def blender_picture(result: wm3dr.Result) -> Image.Image:
    """Above: Blender's render through the photo's camera, over the photo; below: from a camera beside it."""
    import bpy
    import mathutils

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("scene.glb", "through.png", "beside.png")]
        result.save(files[0])
        blender_scene.build(files[0], None)
        blender_scene.render(files[1], SAMPLES)
        camera = bpy.context.scene.camera
        middle = np.median([face.translation for face in result], axis=0) * [1e-3, -1e-3, -1e-3]  # OpenGL frame, m
        beside = mathutils.Matrix.Rotation(float(TURN), 4, "Y")
        centre = mathutils.Vector([0.0, 0.0, float(middle[2])])
        about = mathutils.Matrix.Translation(centre) @ beside @ mathutils.Matrix.Translation(-centre)
        to_blender = mathutils.Matrix.Rotation(float(np.pi / 2), 4, "X")  # its importer stands glTF's y up
        camera.matrix_world = to_blender @ about @ to_blender.inverted() @ camera.matrix_world
        blender_scene.render(files[2], SAMPLES)
        through, below = (Image.open(path).convert("RGBA") for path in files[1:])
    over = Image.alpha_composite(Image.open(PHOTO).convert("RGBA"), through).crop(PART)
    left, top, right, bottom = below.getbbox()
    below = below.crop((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN))
    paper = Image.alpha_composite(Image.new("RGBA", below.size, (*PAPER, 255)), below)
    return stacked([over.convert("RGB"), paper.convert("RGB")])


def stacked(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures below each other, in one width."""
    heights = [round(WIDTH * picture.height / picture.width) for picture in pictures]
    sheet = Image.new("RGB", (WIDTH, sum(heights) + GAP * (len(pictures) - 1)), PAPER)
    top = 0
    for picture, height in zip(pictures, heights, strict=True):
        sheet.paste(picture.resize((WIDTH, height), Image.Resampling.LANCZOS), (0, top))
        top += height + GAP
    return sheet


if __name__ == "__main__":
    main()
