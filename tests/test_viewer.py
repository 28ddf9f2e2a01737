"""The page of `wm3dr view`: its data, and what a browser makes of it."""

import base64
import gzip
import html
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from browser import Page, chromium
from builders import synthetic_arrays
from click.testing import CliRunner
from PIL import Image

import wm3dr
from wm3dr import cli
from wm3dr.coarse import coarse_model, expression_offsets, neutral_shapes
from wm3dr.dense import OPENGL_FROM_CAMERA, interpolate, rasterize
from wm3dr.draw import LANDMARK_COLOR, region_palette
from wm3dr.viewer import SHAPE_STEP_MM, html_from_result, notebook_png, save_html, three_script

ROOT = Path(__file__).parents[1]

PANEL = 290
ZOOM = 3
TOLERANCE_MM = 0.02  # a handful of values rounded to SHAPE_STEP_MM


def scene_of(page):
    return json.loads(re.search(r'<script id="scene" type="application/json">(.*?)</script>', page, re.S).group(1))


def arrays_of(scene):
    """The block, read as the page reads it."""
    block, offset, arrays = gzip.decompress(base64.b64decode(scene["block"])), 0, {}
    for row in scene["arrays"]:
        kind = np.dtype(row["type"])
        planes = np.frombuffer(block, np.uint8, kind.itemsize * row["length"], offset).reshape(kind.itemsize, -1)
        arrays[row["name"]] = np.ascontiguousarray(planes.T).view(kind).reshape(-1)
        offset += planes.size
    assert offset == len(block)
    return arrays


def test_coarse_model_is_the_same_surface(face_model):
    coarse = coarse_model(face_model)
    assert coarse.n_vertices == 169 and face_model.n_vertices == 625
    np.testing.assert_array_equal(
        coarse.mean_shape[coarse.triangles[5]], face_model.mean_shape[face_model.triangles[[20, 21, 22], 0]]
    )
    ends = coarse.mean_shape[coarse.landmark_ends].mean(axis=1)
    np.testing.assert_allclose(ends, face_model.mean_shape[face_model.landmark_vertices], atol=1e-4)


def test_landmarks_on_midpoints():
    """A landmark on a vertex that refinement made is the mean of two coarse ones."""
    metadata, arrays = synthetic_arrays()
    arrays["landmark_vertices"] = (np.arange(68) * 9 + 5).astype(np.int32)
    model = wm3dr.FaceModel.from_arrays(metadata, arrays)
    coarse = coarse_model(model)
    assert (coarse.landmark_ends[:, 0] != coarse.landmark_ends[:, 1]).sum() == 49
    ends = coarse.mean_shape[coarse.landmark_ends].mean(axis=1)
    np.testing.assert_allclose(ends, model.mean_shape[model.landmark_vertices], atol=1e-4)


def test_neutral_and_offsets_add_up_to_the_shape(result, face_model):
    face = result[1]
    shape = neutral_shapes(face_model, face.coefficients.identity[None])[0]
    shape = shape + np.tensordot(face.coefficients.expression, expression_offsets(face_model), 1)
    np.testing.assert_allclose(shape, face.vertices_in("model"), atol=1e-3)


def test_page_holds_the_faces(result, photo):
    """Decoded from the page alone, every coarse vertex is where the result has it."""
    scene = scene_of(html_from_result(result, photo))
    arrays = arrays_of(scene)
    n = len(arrays["regions"])
    mean = arrays["mean_shape"].reshape(n, 3)
    shapes = arrays["shapes"].reshape(3, 3, n).transpose(0, 2, 1) * SHAPE_STEP_MM
    offsets = arrays["expression_offsets"].reshape(-1, 3, n).transpose(0, 2, 1) * SHAPE_STEP_MM
    albedo = arrays["albedo"].reshape(3, 3, n).transpose(0, 2, 1) / 255.0
    for face, stored in zip(result, scene["faces"], strict=True):
        model = mean + shapes[face.index] + np.tensordot(stored["expression"], offsets, 1)
        placed = stored["scale"] * model @ np.reshape(stored["rotation"], (3, 3)).T + stored["translation"]
        assert np.abs(placed * OPENGL_FROM_CAMERA - face.vertices[:n]).max() <= TOLERANCE_MM
        assert np.abs(albedo[face.index] - np.clip(face.albedo[:n], 0, 1)).max() <= 0.5 / 255 + 1e-6
    assert scene["size"] == [236, 180] and scene["camera"]["focal"] == result.camera.focal
    stored_photo = Image.open(io.BytesIO(base64.b64decode(scene["photo"].split(",")[1])))
    assert stored_photo.size == (236, 180)


def test_scaled_result(result, photo):
    """Real millimetres go into the page."""
    scaled = result.with_scale(70.0)
    stored = scene_of(html_from_result(scaled, photo))["faces"][2]
    assert stored["scale"] == pytest.approx(scaled[2].scale) and stored["scale"] != 1.0
    assert stored["translation"][2] == pytest.approx(-float(scaled[2].translation[2]), rel=1e-6)


def test_nothing_ends_the_scripts(result, photo):
    title = "</script><script>alert(1)</script><b>"
    page = html_from_result(result, photo, title=title)
    assert page.count("</script>") == 3 and scene_of(page)["title"] == title and "<b>" not in page
    assert f"<title>{html.escape(title)}</title>" in page
    assert "SPDX-License-Identifier: MIT" in page and "Permission is hereby granted" in page


def test_equal_results_make_equal_pages(result, photo):
    assert html_from_result(result, photo) == html_from_result(result, photo)


def test_wrong_photo(result, photo):
    with pytest.raises(ValueError, match="'image' is 200 x 180 pixels, but the result is of a photo of"):
        html_from_result(result, np.ascontiguousarray(photo[:, :200]))


def test_three_that_is_not_there(tmp_path, monkeypatch):
    templates = tmp_path / "resources" / "templates"
    templates.mkdir(parents=True)
    monkeypatch.setattr(trimesh, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ImportError, match=r"pip install --upgrade 'trimesh>=4.9'"):
        three_script.__wrapped__()
    with zipfile.ZipFile(templates / "viewer.zip", "w") as archive:
        archive.writestr("viewer.html.template", "<script>var three;</script>")
    with pytest.raises(ImportError, match=r"does not carry the three\.js"):
        three_script.__wrapped__()


def test_notebooks(result):
    picture = Image.open(io.BytesIO(result._repr_png_()))
    assert picture.size == (236, 180)
    pixels, render = np.asarray(picture).astype(int), result.render()
    inside = render.alpha > 0
    assert np.abs(pixels - render.color)[inside].mean() < 8  # edges of triangles are smoothed
    assert (pixels[0, 0] == (43, 46, 51)).all()
    frame = result._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    page = html.unescape(re.search(r'srcdoc="(.*?)"', frame, re.S).group(1))
    assert page == result.to_html() and scene_of(page)["photo"] is None


def test_command(tmp_path, monkeypatch):
    photo = "docs/photos/solvay_1927.jpg"
    with Image.open(ROOT / photo) as image:
        image.crop((400, 380, 1280, 926)).save(tmp_path / "some.jpg")
    monkeypatch.chdir(tmp_path)
    run = CliRunner()
    done = run.invoke(cli.main, ["view", "some.jpg"])
    assert done.exit_code == 0, done.output
    scene = scene_of((tmp_path / "some.html").read_text())
    assert re.match(rf"{len(scene['faces'])} faces, \d\.\d MB -> some.html", done.output) and len(scene["faces"]) > 8
    again = run.invoke(cli.main, ["view", "some.jpg"])
    assert again.exit_code == 1 and "--overwrite replaces it" in again.output
    missing = run.invoke(cli.main, ["view", "none.jpg", "-o", "none.html"])
    assert (
        missing.exit_code == 1 and "no such file: none.jpg" in missing.output and not (tmp_path / "none.html").exists()
    )


# ------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser, tmp_path):
    """Open a result; at the photo view a pixel of the photo is ZOOM screen pixels wide."""
    pages = []

    def opening(result, photo=None, zoom=ZOOM):
        path = tmp_path / f"page{len(pages)}.html"
        save_html(result, path, photo)
        width, height = result.size
        page = Page(browser, path, (width * zoom + PANEL, height * zoom))
        page.evaluate("async () => { await window.wm3drViewer; }")
        pages.append(page)
        return page

    yield opening
    for page in pages:
        page.close()
        assert page.problems == []


def run(page, code):
    """Run code with the viewer as `v`, then wait for the picture."""
    found = page.evaluate(f"async () => {{ const v = await window.wm3drViewer; {code} }}")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return found


def picture(page, result, zoom=ZOOM):
    run(page, "")
    width, height = result.size
    content = page.screenshot(clip={"x": 0, "y": 0, "width": width * zoom, "height": height * zoom})
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def near(mask):
    """The mask grown by a pixel to all sides."""
    padded = np.pad(mask, 1)
    return np.max([padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
                   for dx in (-1, 0, 1) for dy in (-1, 0, 1)], axis=0)  # fmt: skip


def test_faces_lie_on_the_photo(opened, result, photo, face_model):
    """In the photo view the browser draws the silhouettes and colours of our own renderer, to a pixel."""
    page = opened(result, photo)
    run(page, "v.show({ photo: false, ids: false });")
    pixels = picture(page, result)
    drawn = (np.abs(pixels - np.array([0x2B, 0x2E, 0x33])) > 3).any(axis=2)
    camera = result.camera.scaled(ZOOM)
    expected = rasterize(result.dense.vertices, face_model.triangles, camera, 2).triangle_id >= 0
    assert 0.05 < expected.mean() < 0.9
    assert not (drawn & ~near(expected)).any() and not (expected & ~near(drawn)).any()
    triangles = face_model.stored_triangles
    n = int(triangles.max()) + 1
    colors = np.ascontiguousarray(result.dense.colors[:, :n]) * np.float32(255)
    buffers = rasterize(np.ascontiguousarray(result.dense.vertices[:, :n]), triangles, camera, 2)
    difference = np.abs(pixels - interpolate(buffers, triangles, colors, 2))[~near(~(expected & drawn))]
    assert difference.mean() < 1.0 and np.quantile(difference, 0.99) < 6


def test_photo_lies_on_the_pixels(opened, result, photo):
    page = opened(result, photo)
    run(page, "v.show({ render: false, ids: false });")
    pixels = picture(page, result)
    large = np.repeat(np.repeat(photo, ZOOM, axis=0), ZOOM, axis=1).astype(int)
    assert np.abs(pixels - large).mean() < 2.0
    for column, row in ((9, 7), (22, 15), (3, 18)):  # the red cells, to a tenth of a photo pixel
        part = np.s_[(row * 8 - 6) * ZOOM : (row * 8 + 14) * ZOOM, (column * 8 - 6) * ZOOM : (column * 8 + 14) * ZOOM]
        red = np.clip(pixels[part][:, :, 0] - 20, 0, None)
        y, x = np.indices(red.shape) + 0.5
        assert [(red * x).sum() / red.sum(), (red * y).sum() / red.sum()] == pytest.approx(
            [10 * ZOOM] * 2, abs=0.1 * ZOOM
        )


def test_wheel_and_window_keep_the_match(opened, result, photo):
    """Zoomed at some place, and in another window, vertices still fall on the photo's pixels."""
    page = opened(result, photo)
    page.mouse.move(200, 300)
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    at = (
        "return [v.atPhoto, v.zoom, v.shift, v.faces.map((f) => [0, 50, 168].map((i) => v.pixel(f.positions, 3 * i)))];"
    )
    at_photo, zoom, shift, pixels = run(page, at)
    assert at_photo and zoom == pytest.approx(ZOOM * np.exp(0.6), rel=1e-6)
    assert (np.array([200, 300]) - shift) / zoom == pytest.approx([200 / ZOOM, 300 / ZOOM])
    for face, points in zip(result, pixels, strict=True):
        assert np.abs(np.array(points)[:, :2] - face.vertices_px[[0, 50, 168]]).max() < 0.02
    page.click("[data-view=photo]")
    page.set_viewport_size({"width": PANEL + 236 * 2, "height": 180 * 4})
    run(page, "")  # without a frame there is no resize
    _, zoom, shift, _ = run(page, at)
    assert zoom == pytest.approx(2) and shift == pytest.approx([0, 180])  # in the middle of a taller stage


def test_views(opened, result):
    page = opened(result)
    depths = np.array([face.translation[2] for face in result])
    heights = np.array([face.translation[1] for face in result])
    lefts = np.array([face.translation[0] for face in result])
    places = "return v.faces.map((f) => { const t = f.data.translation; return v.pixel(t, 0); });"
    expected = {"front": (lefts, heights), "right": (depths, heights), "top": (lefts, -depths)}
    for name, axes in expected.items():
        page.click(f"[data-view={name}]")
        points = np.array(run(page, places))
        for axis, values in enumerate(axes):
            slope = np.polyfit(values, points[:, axis], 1)[0]
            # the far camera sees them at nearly one scale
            assert slope > 0 and np.ptp(points[:, axis] - slope * values) < 0.12 * max(np.ptp(points[:, :2], axis=0))
        assert page.get_attribute(f"[data-view={name}]", "aria-pressed") == "true"
        assert page.get_attribute("[data-view=photo]", "aria-pressed") == "false"


def test_layers(opened, result, photo):
    """Each button shows its own thing, at its place."""
    page = opened(result, photo)
    run(page, "v.show({ photo: false });")
    buttons = {name: f"[data-layer={name}]" for name in ("render", "wireframe", "landmarks", "regions", "ids")}
    hidden = "return [...document.querySelectorAll('#labels span')].map((label) => label.hidden);"
    assert run(page, hidden) == [False, False, False]
    page.click(buttons["ids"])
    run(page, "")
    assert run(page, hidden) == [True, True, True]
    page.click(buttons["landmarks"])
    marked = picture(page, result)
    for face in result:
        inside = face.landmarks[((face.landmarks > 2) & (face.landmarks < np.array(result.size) - 2)).all(axis=1)]
        x, y = (inside * ZOOM).astype(int).T
        assert (np.abs(marked[y, x] - LANDMARK_COLOR).max(axis=1) < 90).mean() > 0.9
    page.click(buttons["landmarks"])
    plain = picture(page, result)
    page.click(buttons["regions"])
    parts = picture(page, result)
    palette = np.array([color for _, color in region_palette(result.face_model.region_names)])
    region = result.render().region
    for label in np.unique(region[region >= 0]):
        centers = np.argwhere(region == label) * ZOOM + ZOOM // 2
        colors = parts[centers[:, 0], centers[:, 1]]
        assert (np.abs(colors[:, None] - palette).sum(axis=2).argmin(axis=1) == label).mean() > 0.7
    page.click(buttons["regions"])
    page.click(buttons["wireframe"])
    assert np.abs(picture(page, result) - plain).mean() > 1.0
    page.click(buttons["wireframe"])
    page.click(buttons["render"])
    assert np.ptp(picture(page, result).reshape(-1, 3), axis=0).max() == 0


def test_expression_sliders(opened, result, face_model):
    """The browser's vertices after a slider are those of our decoder."""
    page = opened(result)
    page.select_option("#face", "1")
    page.fill("input[data-name=expression2]", "0.75")
    positions = "return v.faces.map((f) => [...f.positions]);"
    n = coarse_model(face_model).n_vertices
    face = result[1]
    expression = face.coefficients.expression.copy()
    expression[2] = 0.75
    changed = result.dense.changed(
        expression=np.stack([f.coefficients.expression if f.index != 1 else expression for f in result])
    )
    found = np.reshape(run(page, positions), (3, n, 3)) * OPENGL_FROM_CAMERA
    assert np.abs(found - changed.vertices[:, :n]).max() < TOLERANCE_MM
    assert np.abs(found[1] - face.vertices[:n]).max() > 1.0
    colors = np.reshape(run(page, "return [...v.faces[1].colors];"), (n, 3))
    # the light follows the changed normals; albedo has 8 bits, bright light multiplies its rounding
    assert np.abs(colors - changed.colors[1, :n]).max() < 0.01
    page.click("text=neutral")
    found = np.reshape(run(page, positions), (3, n, 3)) * OPENGL_FROM_CAMERA
    neutral = result.dense.changed(expression=np.zeros_like(result.dense.expression))
    assert np.abs(found[1] - neutral.vertices[1, :n]).max() < TOLERANCE_MM
    assert np.abs(found[0] - face.dense.vertices[0, :n]).max() < TOLERANCE_MM  # only the chosen face
    page.click("text=as seen")
    found = np.reshape(run(page, positions), (3, n, 3)) * OPENGL_FROM_CAMERA
    assert np.abs(found - result.dense.vertices[:, :n]).max() < TOLERANCE_MM


def test_pointer(opened, result, photo):
    """A click chooses the nearest face under it, a drag turns about it."""
    page = opened(result, photo)
    render = result.render()
    for face in result:
        rows, columns = np.nonzero(render.face_id == face.index)
        if not len(rows):
            continue
        middle = len(rows) // 2
        page.mouse.click((columns[middle] + 0.5) * ZOOM, (rows[middle] + 0.5) * ZOOM)
        assert run(page, "return v.chosen && v.chosen.index;") == face.index
        assert page.input_value("#face") == str(face.index) and f"{face.score:.3f}" in page.inner_text("#facts")
    pixel = "return v.pixel(v.chosen.center().toArray(), 0).slice(0, 2);"
    before = run(page, pixel)
    page.mouse.move(300, 200)
    page.mouse.down()
    page.mouse.move(420, 260, steps=4)
    page.mouse.up()
    assert run(page, "return [v.atPhoto, v.turn.y];") == [False, pytest.approx(-np.sin(0.36) * np.cos(0.18), abs=1e-3)]
    assert run(page, pixel) == pytest.approx(before, abs=0.01)
    page.click("[data-view=photo]")
    assert run(page, "return v.atPhoto;") is True


def test_page_without_faces(opened, reconstructor):
    empty = reconstructor.reconstruct(np.zeros((40, 60, 3), np.uint8))
    page = opened(empty, np.zeros((40, 60, 3), np.uint8), zoom=8)
    assert page.inner_text("#summary").startswith("0 faces")
    page.click("[data-view=top]")
    assert page.is_disabled("input[data-name=expression0]")
    assert Image.open(io.BytesIO(notebook_png(empty))).size == (60, 40)


def test_browser_without_webgl(browser, result, tmp_path):
    """The page says what is wrong instead of staying empty."""
    save_html(result, tmp_path / "page.html")
    page = browser.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("document.getElementById('message').textContent.includes('cannot be shown')")
    assert "WebGL" in page.inner_text("#message")
    page.close()
