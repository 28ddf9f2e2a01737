"""A script that Blender runs: a scene of wm3dr with its camera, the photo as the camera's backdrop.

    blender --python "$(wm3dr blender-script)" -- scene.glb --photo photo.jpg [--save scene.blend] [--render view.png]

It stands alone: Blender's Python needs no wm3dr. Made for Blender 4.2 and newer (docs/adapters.md).
"""

import argparse
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SENSOR_WIDTH_MM = 36.0
_ORIENTATION_TAG = 0x0112


def main(arguments: Sequence[str]) -> None:
    """Parse what follows `--` and build the scene."""
    parser = argparse.ArgumentParser(prog="blender --python blender_scene.py --", description="Open a scene of wm3dr.")
    parser.add_argument("scene", type=Path, help="the .glb that wm3dr wrote")
    parser.add_argument("--photo", type=Path, help="the photo, to stand behind the faces in the camera's view")
    parser.add_argument("--save", type=Path, help="write a .blend file")
    parser.add_argument("--render", type=Path, help="render the faces, on nothing, to a .png file (Cycles)")
    options = parser.parse_args(arguments)
    for path in (options.scene, options.photo):
        if path is not None and not path.is_file():
            parser.error(f"no such file: {path}")
    try:
        build(options.scene, options.photo)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if options.save:
        import bpy

        bpy.ops.wm.save_as_mainfile(filepath=str(options.save.resolve()))
    if options.render:
        render(options.render)


def build(scene_file: Path, photo: Path | None) -> None:
    """Replace what is open by the scene; the camera is active and exact, its principal point included.

    Raises
    ------
    ValueError
        The file is no scene of wm3dr, or the photo is of another size or not stored upright.
    """
    import bpy

    bpy.ops.wm.read_homefile(use_empty=True)
    try:
        bpy.ops.import_scene.gltf(filepath=str(scene_file.resolve()))
    except RuntimeError as error:
        raise ValueError(f"{scene_file}: Blender cannot import it: {error}") from None
    cameras = [item for item in bpy.data.objects if item.type == "CAMERA" and "principal_point" in item.keys()]
    if len(cameras) != 1:
        raise ValueError(f"{scene_file}: not a scene of wm3dr (no camera with 'principal_point')")
    camera = cameras[0]
    focal = float(camera["focal"])
    cx, cy = (float(value) for value in camera["principal_point"])
    width, height = (int(value) for value in camera["size"])

    lens = camera.data
    lens.sensor_fit, lens.sensor_width = "HORIZONTAL", SENSOR_WIDTH_MM
    lens.lens = focal * SENSOR_WIDTH_MM / width
    lens.shift_x, lens.shift_y = (width / 2 - cx) / width, (cy - height / 2) / width
    scene = bpy.context.scene
    scene.camera = camera
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    scene.render.pixel_aspect_x = scene.render.pixel_aspect_y = 1.0
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard"  # the default would change the photo's colours
    scene.view_settings.look = "None"
    if photo is not None:
        _set_backdrop(lens, photo, (width, height))
    _look_through_camera()


def render(path: Path, samples: int = 16) -> None:
    """Render what the camera sees of the faces to a PNG file with alpha."""
    import bpy

    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = False
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.filepath = str(path.resolve())
    bpy.ops.render.render(write_still=True)


def _set_backdrop(lens: Any, photo: Path, size: tuple[int, int]) -> None:
    import bpy

    orientation = exif_orientation(photo.read_bytes())
    if orientation != 1:
        raise ValueError(
            f"{photo}: stored turned (EXIF orientation {orientation}), which Blender ignores: save it upright"
        )
    try:
        image = bpy.data.images.load(str(photo.resolve()))
    except RuntimeError as error:
        raise ValueError(f"{photo}: Blender cannot read it: {error}") from None
    if tuple(image.size) != size:
        raise ValueError(
            f"{photo} is {image.size[0]} x {image.size[1]} pixels, but the scene belongs to {size[0]} x {size[1]}"
        )
    backdrop = lens.background_images.new()
    backdrop.image = image
    backdrop.alpha = 1.0
    backdrop.display_depth = "BACK"
    backdrop.frame_method = "FIT"
    lens.show_background_images = True


def _look_through_camera() -> None:
    """Turn the 3D views of the window, where there is one, to the camera, with materials shown."""
    import bpy

    for screen in bpy.data.screens:
        for area in screen.areas:
            if area.type == "VIEW_3D":
                area.spaces.active.region_3d.view_perspective = "CAMERA"
                area.spaces.active.shading.type = "MATERIAL"


def exif_orientation(content: bytes) -> int:
    """Return the EXIF orientation (1 to 8) of a JPEG file, 1 where it has none or is something else."""
    if content[:2] != b"\xff\xd8":
        return 1
    position = 2
    while content[position : position + 1] == b"\xff" and position + 4 <= len(content):
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
        segment = content[position + 4 : position + 2 + length]
        if marker == 0xE1 and segment[:6] == b"Exif\0\0":
            return _orientation_of_tiff(segment[6:])
        if marker == 0xDA:  # pixels begin
            break
        position += 2 + length
    return 1


def _orientation_of_tiff(tiff: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is not None:
            (start,) = struct.unpack_from(f"{order}I", tiff, 4)
            (count,) = struct.unpack_from(f"{order}H", tiff, start)
            for entry in range(count):
                tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
                if tag == _ORIENTATION_TAG and 1 <= value <= 8:
                    return int(value)
    except struct.error:
        pass  # cut short: Blender says what is wrong with the file
    return 1


if __name__ == "__main__":
    main(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:])
