"""The Python examples of the pages run as they are written, in a folder with the photos and a short clip."""

import re
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from wm3dr.files import DEFAULT_ENCODER

REPOSITORY = Path(__file__).parents[1]
FOCAL_35MM = 0xA405
PAGES = {
    "animation": ("clip.glb", "faces.glb"),
    "cameras": (),
    "editing": ("lit.jpg", "model.jpg", "edited.glb"),
    "maps": ("maps/depth.tiff", "maps/visibility.png"),
    "texture": ("face.obj", "face.mtl", "face_face_0.png", "face.glb", "scene.glb"),
    "video": (),
    "viewer": (),
}
"""Pages, and the files that their examples write. docs/adapters.md and ray.md have tests of their own."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The repository's photos, photo.jpg with a focal length in its EXIF data, and clip.mp4 where PyAV is there."""
    if not DEFAULT_ENCODER.is_file():
        pytest.skip(f"the installed package carries no {DEFAULT_ENCODER.name}")
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(REPOSITORY / "docs" / "photos", folder / "docs" / "photos")
    with PIL.Image.open(REPOSITORY / "docs" / "photos" / "solvay_1927.jpg") as photo:
        exif = photo.getexif()
        exif.get_ifd(0x8769)[FOCAL_35MM] = 35
        photo.save(folder / "photo.jpg", exif=exif, quality=90)
        frame = np.asarray(photo.convert("RGB").crop((300, 350, 780, 620)))
    try:
        import av
    except ModuleNotFoundError:
        return folder
    with av.open(str(folder / "clip.mp4"), "w") as clip:
        stream = clip.add_stream("libx264", rate=25)
        stream.height, stream.width = frame.shape[:2]
        for shift in range(3):
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(frame, 2 * shift, axis=1), format="rgb24")))
        clip.mux(stream.encode())
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page, workplace, monkeypatch):
    text = (REPOSITORY / "docs" / f"{page}.md").read_text()
    if '"clip.mp4"' in text:
        pytest.importorskip("av", reason="PyAV is not installed: pip install 'wm3dr[video]'")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert examples
    monkeypatch.chdir(workplace)
    space: dict[str, object] = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"docs/{page}.md, {number}", "exec"), space)
    for name in PAGES[page]:
        assert (workplace / name).stat().st_size > 100, name
    if page == "cameras":
        assert space["camera"].focal == 1500.0 and space["result"][0].metric
        assert np.shape(space["glasses"]) == (1, 3)


def test_pictures_and_pages_that_pages_name_are_there():
    for page in sorted((REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
