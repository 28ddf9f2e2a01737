"""Draw the pictures of docs/viewer.md anew, in a headless Chromium: `python docs/make_viewer_pictures.py`.

Needs `pip install 'wm3dr[browser]'` and a Chromium (`apt install chromium`).
"""

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import wm3dr
from wm3dr.viewer import save_html

DOCS = Path(__file__).parent
SIZE = {"width": 1180, "height": 680}
FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
TURNED = "v.show({ landmarks: true }); v.orbit(0.45, 0.1);"
NEAREST = """
const width = (f) => f.data.box[2] - f.data.box[0];
v.choose(v.faces.reduce((a, b) => (width(a) > width(b) ? a : b)));
v.view("front");
v.show({ regions: true, wireframe: true, ids: false });
"""


def main() -> None:
    photo = DOCS / "photos" / "solvay_1927.jpg"
    result = wm3dr.reconstruct(photo)
    pictures = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "page.html"
        save_html(result, path, photo)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.goto(path.as_uri())
        for number, code in enumerate((TURNED, NEAREST)):
            page.evaluate(f"async () => {{ const v = await window.wm3drViewer; {code} }}")
            if number:
                page.fill("input[data-name=jawOpen]", "0.5")
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            file = Path(folder) / f"{number}.png"
            page.screenshot(path=file)
            pictures.append(Image.open(file).convert("RGB"))
        browser.close()
        sheet = Image.new("RGB", (SIZE["width"], 2 * SIZE["height"] + 8), "white")
        for number, picture in enumerate(pictures):
            sheet.paste(picture, (0, number * (SIZE["height"] + 8)))
    sheet.save(DOCS / "pictures" / "viewer.jpg", quality=76, optimize=True)
    print(f"{len(result)} faces")


if __name__ == "__main__":
    main()
