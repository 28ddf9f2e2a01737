"""Draw serve.jpg and ray.jpg anew: `python docs/make_service_pictures.py`.

serve.jpg needs `pip install 'wm3dr[serve]'`, ray.jpg `pip install 'wm3dr[ray]'`: what is not installed is named and its
picture left as it is.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from PIL import Image, ImageDraw

from wm3dr.marks import INK, PAPER, font

DOCS = Path(__file__).parent
PHOTOS = DOCS / "photos"
PORT = 8765
PART = (150, 270, 1190, 720)
"""Of the photo of 1927, that is shown."""
TILE, COLUMNS = 100, 10


def main() -> None:
    for package, draw in (("uvicorn", serve_picture), ("ray", ray_picture)):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: {draw.__name__} is left out")
        else:
            draw()


def serve_picture() -> None:
    """What a client without wm3dr draws from the JSON that the server answers."""
    photo = PHOTOS / "solvay_1927.jpg"
    run = "from wm3dr.cli import main; main()"
    server = subprocess.Popen([sys.executable, "-c", run, "serve", "--port", str(PORT)])
    try:
        answer = json.load(posted(f"http://127.0.0.1:{PORT}/reconstruct", photo.read_bytes()))
    finally:
        server.terminate()
        server.wait()
    picture = Image.open(photo).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for face in answer["faces"]:
        pen.rectangle(face["box"], outline=(255, 176, 32), width=2)
        for x, y in face["landmarks"]:
            pen.ellipse((x - 1.3, y - 1.3, x + 1.3, y + 1.3), fill=(96, 240, 230))
        pen.text((face["box"][0] + 2, face["box"][1] - 14), f"{face['pose']['yaw']:+.0f}°", (255, 176, 32), font(12))
    picture.crop(PART).save(DOCS / "pictures" / "serve.jpg", quality=80, optimize=True)


def posted(url: str, body: bytes) -> IO[bytes]:
    """Post to a server that may still be starting."""
    for _ in range(100):
        try:
            return urllib.request.urlopen(url, body, timeout=60)
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(0.1)
    raise TimeoutError(f"nothing answers at {url}")


def ray_picture() -> None:
    """Faces of the Parquet files that a job wrote, by yaw."""
    import pyarrow.dataset

    from wm3dr.ray import reconstruct_folder
    from wm3dr.tables import faces_from_photos

    with tempfile.TemporaryDirectory() as job:
        list(reconstruct_folder(str(PHOTOS), job, actors=1, threads=1))
        photos = pyarrow.dataset.dataset(job, partitioning="hive").to_table()
    faces = sorted(faces_from_photos(photos).to_pylist(), key=lambda face: face["yaw"])
    images = {name: Image.open(PHOTOS / name).convert("RGB") for name in {face["photo"] for face in faces}}
    rows = -(-len(faces) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, rows * (TILE + 18)), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, face in enumerate(faces):
        left, top = number % COLUMNS * TILE, number // COLUMNS * (TILE + 18)
        x0, y0, x1, y1 = (face[name] for name in ("x0", "y0", "x1", "y1"))
        side = 0.55 * max(x1 - x0, y1 - y0)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        cut = images[face["photo"]].crop((round(x - side), round(y - side), round(x + side), round(y + side)))
        sheet.paste(cut.resize((TILE - 4, TILE - 4), Image.Resampling.LANCZOS), (left + 2, top + 2))
        pen.text((left + 4, top + TILE), f"{face['yaw']:+.0f}°  {face['score']:.2f}", INK, font(12))
    sheet.save(DOCS / "pictures" / "ray.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
