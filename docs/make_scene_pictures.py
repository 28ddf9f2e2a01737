"""Draw the pictures of maps.md and CONVENTIONS.md anew, by the installed models: python docs/make_scene_pictures.py."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import wm3dr
from wm3dr.draw import AXIS_COLORS
from wm3dr.layers import draw_layer
from wm3dr.marks import INK, PAPER, Color, Marks, font, framed

DOCS = Path(__file__).parent
PHOTO = DOCS / "photos" / "solvay_1927.jpg"
F64 = NDArray[np.float64]
X_COLOR, Y_COLOR, Z_COLOR = AXIS_COLORS
PALE: Color = (150, 156, 166)

MAPS_CROP = (585, 305, 985, 555)
"""Of the photo, px, shown by docs/maps.md."""
FACE = 1
"""Number of the face whose model axes are drawn."""


def main() -> None:
    result = wm3dr.reconstruct(PHOTO)
    photo = Image.open(PHOTO).convert("RGB")
    save(maps_picture(result, photo), "maps.jpg")
    save(frames_picture(result, photo), "frames.jpg")


def save(picture: Image.Image, name: str) -> None:
    picture.save(DOCS / "pictures" / name, quality=86, optimize=True)


def maps_picture(result: wm3dr.Result, photo: Image.Image, enlarged: int = 3) -> Image.Image:
    """The maps of a part of the photo, drawn at `enlarged` times its resolution, shrunk to half for the page."""
    large = result.with_dense(result.dense.changed(camera=result.camera.scaled(enlarged)))
    box = tuple(enlarged * side for side in MAPS_CROP)
    half = ((box[2] - box[0]) // 2, (box[3] - box[1]) // 2)
    panels = []
    with tempfile.TemporaryDirectory() as folder:
        large.save_maps(folder)
        titles = {
            "face_id.png": "face_id.png",
            "region.png": "region.png",
            "normals.png": "normals.png",
            "pncc.png": "pncc.png",
        }
        part = photo.resize(large.camera.size, Image.Resampling.LANCZOS).crop(box).resize(half)
        panels.append((part, "photo", []))
        for name, title in titles.items():
            with Image.open(Path(folder) / name) as image:
                panels.append((image.convert("RGB").crop(box).resize(half), title, []))
        depth = wm3dr.read_map(Path(folder) / "depth.tiff").array[box[1] : box[3], box[0] : box[2]]
    hit = depth > 0
    near, far = np.percentile(depth[hit], [1, 99])
    grey = np.where(hit, 255.0 - 200.0 * np.clip((depth - near) / (far - near), 0, 1), 0.0).astype(np.uint8)
    title = f"depth.tiff (here {near / 1000:.1f} m white, {far / 1000:.1f} m dark)"
    panels.append((Image.fromarray(grey).convert("RGB").resize(half), title, []))
    rows = [framed(panels[:3], stacked=False), framed(panels[3:], stacked=False)]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), PAPER)
    for row, y in zip(rows, (0, rows[0].height), strict=True):
        sheet.paste(row, (0, y))
    return sheet


def frames_picture(result: wm3dr.Result, photo: Image.Image) -> Image.Image:
    """The model and image frames on the photo, and the camera and OpenGL frames in the common space."""
    space = space_panel(result, photo, (1240, 800))
    left, right = model_panel(result, photo, (608, 520)), image_panel(result, photo, (608, 520))
    top = framed([(left, "model: one per face, mm", []), (right, "image: pixels, and depth in mm", [])], stacked=False)
    bottom = framed([(space, "camera and opengl: one per photo, mm", [])], stacked=True)
    sheet = Image.new("RGB", (max(top.width, bottom.width), top.height + bottom.height), PAPER)
    sheet.paste(top, (0, 0))
    sheet.paste(bottom, (0, top.height))
    return sheet


def model_panel(result: wm3dr.Result, photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A face of the photo with the axes of its model frame, from its origin, 100 mm long."""
    face = result[FACE]
    center, span = (face.box[:2] + face.box[2:]) / 2, 1.75 * float((face.box[2:] - face.box[:2]).max())
    scale = size[1] / span
    corner = center - np.array(size) / (2 * scale)
    part = photo.resize(size, Image.Resampling.BICUBIC, box=(*corner, *(corner + np.array(size) / scale)))
    marks = Marks(size)
    axes = face.change_frame(120.0 * np.vstack([np.zeros(3), np.eye(3)]), "model", "image")[:, :2]
    points = (axes - corner) * scale
    names = ("x: to the subject's left", "y: up", "z: out of the face")
    for tip, color, name, shift in zip(points[1:], AXIS_COLORS, names, ((-30, 44), (12, 4), (-150, 36)), strict=True):
        arrow(marks, points[0], tip, color, 5.0)
        marks.label(inside(np.add(tip, shift), size, 215), name, color, 20)
    marks.dot(points[0], (255, 255, 255), 6, rim=2)
    return marks.on(part)


def image_panel(result: wm3dr.Result, photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole photo with x and y from its outer corner, and a point of a face with its depth."""
    inner = (size[0] - 110, round((size[0] - 110) * photo.height / photo.width))
    panel = Image.new("RGB", size, PAPER)
    origin = np.array([54.0, 54.0])
    panel.paste(photo.resize(inner, Image.Resampling.LANCZOS), (54, 54))
    marks = Marks(size)
    factor = inner[0] / photo.width
    arrow(marks, origin, np.add(origin, (inner[0] + 40, 0)), X_COLOR, 4.0)
    arrow(marks, origin, np.add(origin, (0, inner[1] + 40)), Y_COLOR, 4.0)
    marks.label(np.add(origin, (inner[0] - 70, -10)), "x, px", X_COLOR, 20)
    marks.label(np.add(origin, (12, inner[1] + 42)), "y, px", Y_COLOR, 20)
    marks.dot(origin, (255, 255, 255), 6, rim=2)
    marks.label(np.add(origin, (-40, -14)), "(0, 0): outer corner of the first pixel", (225, 228, 233), 18)
    face = result[FACE]
    tip = face.vertices_in("image")[result.face_model.landmark_vertices[30]]
    point = origin + tip[:2] * factor
    marks.dot(point, Z_COLOR, 5, rim=1.5)
    text = f"({tip[0]:.0f} px, {tip[1]:.0f} px, {tip[2]:.0f} mm)"
    marks.label(inside(np.add(point, (-120, 70)), size, 250), text, (190, 212, 252), 18)
    return marks.on(panel)


def space_panel(result: wm3dr.Result, photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The scene seen from behind the camera: its axes, those of OpenGL, the photo in between and the faces."""
    target, eye = np.array([380.0, 330.0, 1950.0]), np.array([3900.0, -2300.0, -2700.0])
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    camera = wm3dr.Camera.from_fov(size, horizontal=49.0)

    def seen(points: F64) -> F64:
        return camera.project((np.asarray(points, float) - eye) @ rotation.T)

    vertices = ((result.dense.vertices - eye) @ rotation.T).astype(np.float32)
    layer = draw_layer(
        result.dense, result.dense.colors * np.float32(255.0), camera, vertices=vertices, inside=(196.0, 200.0, 206.0)
    )
    paper = np.full((size[1], size[0], 3), PAPER, np.float32)
    panel = Image.fromarray(np.clip(layer.over(paper), 0, 255).astype(np.uint8))
    width, height = result.size
    plane_mm = 1500.0  # where the photo is shown: any depth shows it as well
    edges = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    corners = result.camera.unproject(np.column_stack([edges, np.full(4, plane_mm)]))
    panel = pasted(panel, photo, seen(corners), 0.8)
    marks = Marks(size)
    far = result.camera.unproject(np.column_stack([edges, np.full(4, 5200.0)]))
    for corner in far:
        marks.line(seen(np.stack([np.zeros(3), corner])), PALE, 1.2, alpha=170)
    marks.line(seen(corners), PALE, 1.5, closed=True)
    for face in result:
        marks.line(seen(np.stack([np.zeros(3), face.translation])), PALE, 0.7, alpha=90)
    for name, signs, length, offset in (("camera", (1, 1, 1), 800.0, 0.0), ("opengl", (1, -1, -1), 800.0, 0.0)):
        for axis, color in enumerate(AXIS_COLORS):
            if name == "opengl" and axis == 0:
                continue  # the same as the camera's
            end = np.zeros(3)
            end[axis] = signs[axis] * length
            start, tip = seen(np.stack([np.full(3, offset), end]))
            dashed = name == "opengl"
            arrow(marks, start, tip, color, 4.0, dashed=dashed)
            label = f"{'xyz'[axis]} {name}" if axis else "x camera = x opengl"
            marks.label(inside(np.add(tip, (10, 6)), size, 190), label, color, 20)
    marks.dot(seen(np.zeros((1, 3)))[0], (255, 255, 255), 7, rim=2.5)
    marks.label(np.add(seen(corners)[0], (4, -6)), "the photo", (225, 228, 233), 18)
    panel = marks.on(panel)
    ImageDraw.Draw(panel).text((14, size[1] - 30), "solid: camera; dashed: opengl", font=font(18), fill=INK)
    return panel


def pasted(panel: Image.Image, photo: Image.Image, corners: F64, opacity: float) -> Image.Image:
    """Lay the photo into the quadrilateral of four picture points (from its top-left, clockwise)."""
    source = np.array([[0, 0], [photo.width, 0], [photo.width, photo.height], [0, photo.height]], float)
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, source, strict=True):  # picture -> photo, as Pillow wants it
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(rows), np.array(values))
    warped = photo.transform(panel.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    mask = Image.new("L", photo.size, round(255 * opacity))
    mask = mask.transform(panel.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    return Image.composite(warped, panel, mask)


def arrow(marks: Marks, start: F64, tip: F64, color: Color, width: float, *, dashed: bool = False) -> None:
    start, tip = np.asarray(start, float), np.asarray(tip, float)
    along = (tip - start) / max(1e-6, float(np.linalg.norm(tip - start)))
    across = np.array([-along[1], along[0]])
    length = float(np.linalg.norm(tip - start))
    pieces = [(0.0, length)]
    if dashed:
        pieces = [(at, min(at + 14.0, length)) for at in np.arange(0.0, length, 22.0)]
    for begin, end in pieces:
        marks.line([start + begin * along, start + end * along], color, width)
    head = 3.2 * width
    marks.line([tip - head * along + 0.6 * head * across, tip, tip - head * along - 0.6 * head * across], color, width)


def inside(point: F64, size: tuple[int, int], text_width: float) -> F64:
    """Return the point moved so that a label there stays in the picture."""
    return np.clip(point, (4, 30), (size[0] - text_width, size[1] - 4))


if __name__ == "__main__":
    main()
