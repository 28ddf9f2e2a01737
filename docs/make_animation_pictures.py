"""Draw the picture of docs/animation.md anew: a clip is written as GLB and played by three.js in a headless Chromium.

`python docs/make_animation_pictures.py` needs `pip install 'wm3dr[browser]'` and a Chromium (`apt install chromium`).
"""

import base64
import io
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

import wm3dr
from wm3dr.viewer import three_script

DOCS = Path(__file__).parent
SIZE, PANELS, FPS = 300, 5, 25
FLAGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
KEYS = [
    {},
    {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "cheekSquintLeft": 0.7, "cheekSquintRight": 0.7},
    {"jawOpen": 0.9, "browInnerUp": 1.0, "eyeWideLeft": 0.8, "eyeWideRight": 0.8},
    {"mouthPucker": 1.0, "browDownLeft": 1.0, "browDownRight": 1.0},
    {"eyeBlinkLeft": 1.0, "mouthLeft": 0.8, "mouthSmileLeft": 0.6},
]
PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>body {{ margin: 0 }}</style>
<canvas id="canvas" width="{size}" height="{size}"></canvas><script>{three}</script><script>
const renderer = new THREE.WebGLRenderer({{ canvas: document.getElementById("canvas"), antialias: true }});
renderer.outputEncoding = THREE.sRGBEncoding;
renderer.setClearColor(0x2b2e33);
const loaded = new Promise((done, failed) => new THREE.GLTFLoader().parse(
  Uint8Array.from(atob("{glb}"), (c) => c.charCodeAt(0)).buffer, "", done, failed));
window.play = async (time, box) => {{
  const gltf = await loaded, mixer = new THREE.AnimationMixer(gltf.scene);
  const action = mixer.clipAction(gltf.animations[0]);
  action.setLoop(THREE.LoopOnce); action.clampWhenFinished = true; action.play();
  mixer.setTime(time);
  const camera = gltf.cameras[0];
  camera.setViewOffset({width}, {height}, box[0], box[1], box[2], box[2]);
  renderer.render(new THREE.Scene().add(gltf.scene), camera);
  return renderer.domElement.toDataURL().split(",")[1];  // at once: what was drawn is gone after the frame
}};
</script>"""


def main() -> None:
    result = wm3dr.reconstruct(DOCS / "photos" / "solvay_1927.jpg")
    number = max(range(len(result)), key=lambda i: result[i].box[2] - result[i].box[0])
    alone = result.dense.changed(
        identity=result.dense.identity[number : number + 1],
        expression=np.zeros_like(result.dense.expression[:1]),
        albedo=result.dense.albedo_coefficients[number : number + 1],
        illumination=result.dense.illumination[number : number + 1],
        rotations=result.dense.rotations[number : number + 1],
        translations=result.dense.translations[number : number + 1],
        scales=result.dense.scales[number : number + 1],
        metric=result.dense.metric[number : number + 1],
    )
    clip = wm3dr.Clip()
    for key, weights in enumerate(KEYS):
        yaw = math.radians(22.0 * math.sin(2.0 * key))
        turn = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
        expression = wm3dr.edit.expression_from_weights(result.face_model, weights, alone.expression[0])
        frame = alone.changed(expression=expression[None], rotations=(turn @ alone.rotations).astype(np.float32))
        clip.add(one_face(result, number, frame), key / 2.0, [0])
    box = result[number].box
    side = 1.25 * float(max(box[2:] - box[:2]))
    x, y = (box[:2] + box[2:]) / 2.0 - side / 2.0
    strip = Image.new("RGB", (PANELS * SIZE, SIZE), "white")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        clip.save(Path(folder) / "clip.glb")
        glb = base64.b64encode((Path(folder) / "clip.glb").read_bytes()).decode()
        width, height = result.size
        page_text = PAGE.format(size=SIZE, three=three_script(), glb=glb, width=width, height=height)
        (Path(folder) / "page.html").write_text(page_text, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": SIZE, "height": SIZE})
        page.goto((Path(folder) / "page.html").as_uri())
        for panel in range(PANELS):
            png = page.evaluate("([time, box]) => window.play(time, box)", [panel / 2.0, [float(x), float(y), side]])
            picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
            strip.paste(picture, (panel * SIZE, 0))
        browser.close()
    strip.save(DOCS / "pictures" / "animation.jpg", quality=88, optimize=True)


def one_face(result: wm3dr.Result, number: int, frame: object) -> wm3dr.Result:
    """The result with one of its faces, at other values."""
    from dataclasses import replace

    face = replace(result[number], index=0, dense=frame)
    return replace(result, faces=(face,), dense=frame)


if __name__ == "__main__":
    main()
