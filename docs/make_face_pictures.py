"""Draw the pictures of texture.md and editing.md with the installed models: `python docs/make_face_pictures.py`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import wm3dr
from wm3dr.camera import Camera
from wm3dr.dense import rasterize
from wm3dr.marks import INK, PAPER, font

DOCS = Path(__file__).parent
SOLVAY, LONDON = DOCS / "photos" / "solvay_1927.jpg", DOCS / "photos" / "london_four.jpg"
SOURCE_COLORS = np.array([[255, 255, 255], [96, 190, 110], [245, 186, 70], [96, 124, 230]], np.uint8)
"""Nothing, seen, mirrored, model."""
CELL = 230
DISTANCE_MM, FOCAL = 1150.0, 4.1
"""Of the camera of the turned views; its focal length in sides of the picture."""

Panel = tuple[Image.Image, str]


def main() -> None:
    solvay, london = wm3dr.reconstruct(SOLVAY), wm3dr.reconstruct(LONDON)
    save(texture_picture([(london, LONDON, near(london, 0.12)), (solvay, SOLVAY, most_turned(solvay))]), "texture.jpg")
    four = [near(london, (2 * column + 1) / 8) for column in range(4)]
    save(relit_picture(london, four[2]), "relit.jpg")
    save(expression_picture(london, four[0]), "expressions.jpg")
    save(retarget_picture(london, four), "retargeted.jpg")


def near(result: wm3dr.Result, share: float) -> wm3dr.Face:
    """The face nearest to a share of the photo's width."""
    return min(result, key=lambda face: abs(face.box[[0, 2]].mean() / result.size[0] - share))


def most_turned(result: wm3dr.Result) -> wm3dr.Face:
    return max(result, key=lambda face: abs(face.pose.yaw))


def texture_picture(rows: list[tuple[wm3dr.Result, Path, wm3dr.Face]]) -> Image.Image:
    panels = []
    for _, path, face in rows:
        texture = face.texture(path, 1024)
        row = [
            (cut(Image.open(path).convert("RGB"), face), "photo"),
            (Image.fromarray(texture.color), "color"),
            (Image.fromarray(texture.albedo), "albedo: without the light"),
            (Image.fromarray(SOURCE_COLORS[texture.source]), "source: seen, mirrored, model"),
        ]
        row += [(turned(face, texture, yaw), f"turned by {yaw}°") for yaw in (-60, -30, 30, 60)]
        panels.append(row)
    return grid(panels)


def relit_picture(result: wm3dr.Result, face: wm3dr.Face) -> Image.Image:
    photo = Image.open(LONDON).convert("RGB")
    lights = ["front", "left", "right", "top", "bottom"]
    rows = []
    for mode in ("photo", "model"):
        row = [(cut(photo, face), "photo")]
        for light in lights:
            picture = result.composite(LONDON, face.with_illumination(light), mode=mode)
            row.append((cut(picture, face), f'"{light}", mode "{mode}"'))
        rows.append(row)
    return grid(rows)


def expression_picture(result: wm3dr.Result, face: wm3dr.Face) -> Image.Image:
    edits = {
        "neutral()": face.neutral(),
        "mouthSmile 1, cheekSquint 0.5": face.with_expression({"mouthSmile": 1.0, "cheekSquint": 0.5}),
        "jawOpen 0.6": face.with_expression({"jawOpen": 0.6}),
        "browInnerUp 1, mouthFrown 0.8": face.with_expression({"browInnerUp": 1.0, "mouthFrown": 0.8}),
        "eyeBlink 1": face.with_expression({"eyeBlink": 1.0}),
    }
    rows = []
    for mode in ("photo", "model"):
        row = [(cut(Image.open(LONDON).convert("RGB"), face), "photo")]
        row += [(cut(result.composite(LONDON, edit, mode=mode), face), name) for name, edit in edits.items()]
        rows.append(row)
    return grid(rows)


def retarget_picture(result: wm3dr.Result, four: list[wm3dr.Face]) -> Image.Image:
    """The first face made to smile, and the others with its expression."""
    source = four[0].neutral().with_expression({"mouthSmile": 0.8, "cheekSquint": 0.6, "browOuterUp": 0.7})
    edited = [source, *(wm3dr.retarget(source, face) for face in four[1:])]
    pictures = [Image.open(LONDON).convert("RGB"), result.composite(LONDON, edited)]
    width = 1400
    pictures = [p.resize((width, round(width * p.height / p.width)), Image.Resampling.LANCZOS) for p in pictures]
    sheet = Image.new("RGB", (width, 2 * pictures[0].height + 8), PAPER)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (0, number * (picture.height + 8)))
    return sheet


def cut(picture: Image.Image, face: wm3dr.Face, reach: float = 0.62) -> Image.Image:
    x, y = (face.box[:2] + face.box[2:]) / 2
    half = reach * float((face.box[2:] - face.box[:2]).max())
    left, top, side = round(x - half), round(y - half), round(2 * half)
    part = Image.new("RGB", (side, side), PAPER)
    part.paste(picture, (-left, -top))
    return part


def turned(face: wm3dr.Face, texture: wm3dr.Texture, yaw: float) -> Image.Image:
    """The textured mesh in a photographer's turn: the face looks to the image's right for positive yaw."""
    side, model = 2 * CELL, face.face_model
    a = np.radians(yaw)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    points = face.mesh("model").vertices @ turn.T * [1, -1, -1] + [0, 0, DISTANCE_MM]
    camera = Camera(FOCAL * side, (side / 2, side / 2), (side, side))
    buffers = rasterize(np.ascontiguousarray(points[None], np.float32), model.triangles, camera, 2)
    hit = buffers.triangle_id >= 0
    uv = np.einsum("mk,mkc->mc", buffers.barycentric[hit], model.uv[buffers.triangle_id[hit]])
    pixels: NDArray[np.float32] = np.full((side, side, 3), 255, np.float32)
    pixels[hit] = texture.sample(uv)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def grid(rows: list[list[Panel]], gap: int = 6, title: int = 20) -> Image.Image:
    width = max(len(row) for row in rows) * (CELL + gap) + gap
    sheet = Image.new("RGB", (width, len(rows) * (CELL + title + gap) + gap), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, (picture, name) in enumerate(row):
            x, y = gap + j * (CELL + gap), gap + i * (CELL + title + gap)
            pen.text((x, y), name, font=font(14), fill=INK)
            sheet.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y + title))
    return sheet


def save(picture: Image.Image, name: str) -> None:
    picture.save(DOCS / "pictures" / name, quality=86, optimize=True)


if __name__ == "__main__":
    main()
