"""The script for Blender, run by Blender itself (its Python module), in a process of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import wm3dr
from wm3dr import blender_scene
from wm3dr.cli import main

SCRIPT = Path(blender_scene.__file__)
REPORT = """
import json, sys, bpy
from bpy_extras.object_utils import world_to_camera_view
bpy.ops.wm.open_mainfile(filepath=sys.argv[1])
scene, view = bpy.context.scene, bpy.context.scene.camera
pixels = {}
for item in bpy.data.objects:
    if item.type == "MESH":
        seen = [world_to_camera_view(scene, view, item.matrix_world @ v.co) for v in item.data.vertices]
        pixels[item.name] = [(p.x, p.y) for p in seen]
backdrops = [(b.image.name, list(b.image.size), b.display_depth) for b in view.data.background_images]
size = [scene.render.resolution_x, scene.render.resolution_y]
shown = view.data.show_background_images
print("REPORT" + json.dumps({"pixels": pixels, "backdrops": backdrops, "size": size, "shown": shown}))
"""


@pytest.fixture(scope="module")
def bpy():
    if importlib.util.find_spec("bpy") is None:
        pytest.skip(
            "Blender's Python module is not installed: pip install bpy (its wheels fit one Python version each)"
        )


@pytest.fixture(scope="module")
def off_centre(reconstructor, photo):
    """The photo by a camera whose principal point is far from the centre."""
    return reconstructor.reconstruct(photo, wm3dr.Camera(700.0, (80.0, 120.0), (236, 180)))


def run_script(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), "--", *map(str, arguments)], capture_output=True, text=True)


def test_faces_fall_on_their_pixels(bpy, off_centre, photo, tmp_path):
    """In Blender: every vertex through its camera, the backdrop, and a render that shows what wm3dr draws."""
    off_centre.save(tmp_path / "scene.glb")
    PIL.Image.fromarray(photo).save(tmp_path / "photo.png")
    files = [tmp_path / name for name in ("scene.glb", "photo.png", "scene.blend", "view.png")]
    done = run_script(files[0], "--photo", files[1], "--save", files[2], "--render", files[3])
    assert done.returncode == 0, done.stderr
    read = subprocess.run([sys.executable, "-c", REPORT, str(files[2])], capture_output=True, text=True, check=True)
    report = json.loads(next(line for line in read.stdout.splitlines() if line.startswith("REPORT"))[6:])
    assert report["size"] == [236, 180] and report["shown"] is True
    assert report["backdrops"] == [["photo.png", [236, 180], "BACK"]]
    assert sorted(report["pixels"]) == ["face_0", "face_1", "face_2"]
    for face in off_centre:
        x, y = np.array(report["pixels"][f"face_{face.index}"]).T
        pixels = np.stack([x * 236, (1 - y) * 180], 1)  # of the view: (0, 0) is its lower left corner
        # Blender merges nothing on import, so that the vertices keep their order.
        assert np.abs(pixels - face.vertices_px).max() < 0.02

    raster = off_centre.render()
    rendered = np.asarray(PIL.Image.open(files[3])).astype(int)
    ours, theirs = raster.alpha > 127, rendered[:, :, 3] > 127
    # Both draw front sides alike; Blender also draws the insides of the shells, and filters edges over a pixel.
    assert (ours & ~theirs).sum() < 0.01 * ours.sum()
    difference = np.abs(rendered[:, :, :3] - raster.color)[ours & theirs]
    assert np.median(difference) <= 2 and np.mean(difference) < 4


def test_script_refuses(bpy, result, tmp_path):
    import trimesh

    trimesh.creation.box().export(tmp_path / "box.glb")
    done = run_script(tmp_path / "box.glb")
    assert done.returncode == 1 and "box.glb: not a scene of wm3dr" in done.stderr
    result.save(tmp_path / "scene.glb")
    PIL.Image.new("RGB", (50, 60)).save(tmp_path / "other.png")
    done = run_script(tmp_path / "scene.glb", "--photo", tmp_path / "other.png")
    assert done.returncode == 1
    assert "other.png is 50 x 60 pixels, but the scene belongs to 236 x 180" in done.stderr


def test_orientation_of_photos(tmp_path):
    """Blender ignores EXIF orientation; the script reads it from the bytes alone."""
    for orientation in (1, 3, 6, 8):
        exif = PIL.Image.Exif()
        exif[0x010F], exif[0x0112] = "Maker", orientation
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / "turned.jpg", exif=exif)
        assert blender_scene.exif_orientation((tmp_path / "turned.jpg").read_bytes()) == orientation
    whole = (tmp_path / "turned.jpg").read_bytes()
    assert all(blender_scene.exif_orientation(whole[:cut]) in (1, 8) for cut in range(len(whole)))
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "plain.jpg")
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert blender_scene.exif_orientation((tmp_path / "plain.jpg").read_bytes()) == 1
    assert blender_scene.exif_orientation((tmp_path / "plain.png").read_bytes()) == 1


def test_missing_files_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        blender_scene.main([str(tmp_path / "absent.glb")])
    assert "no such file" in capsys.readouterr().err


def test_command_prints_the_script():
    printed = CliRunner().invoke(main, ["blender-script"])
    assert printed.exit_code == 0 and Path(printed.output.strip()).samefile(SCRIPT)
    source = SCRIPT.read_text()
    assert "from wm3dr" not in source and "import wm3dr" not in source and "from ." not in source
