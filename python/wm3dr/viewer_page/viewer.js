// The viewer of wm3dr. Frame: "opengl" of CONVENTIONS.md (x right, y up, z towards the camera; the camera at the
// origin), mm. One pinhole camera draws everything: the photo's, moved about; zoom and shift act on its image, so that
// the photo view stays exact at any zoom.
(() => {
"use strict";

const stage = document.getElementById("stage");
const message = document.getElementById("message");
const labels = document.getElementById("labels");
const scene = JSON.parse(document.getElementById("scene").textContent);
const [photoWidth, photoHeight] = scene.size;
const focal = scene.camera.focal;
const [cx, cy] = scene.camera.principal_point;
const N_COORDINATES = 3;
const NEAR = 10;                 // mm
const BACKDROP_GAP = 60;         // mm between the farthest vertex and the photo
const FAR_VIEW = 12;             // distance of front, right and top view in radii of the scene: hardly any perspective
const MARGIN = 0.06;             // free part of the stage around the photo or the faces
const POINT_SIZE = 0.016;        // diameter of a landmark in sides of the middle face
const CLICK = 4;                 // px that the pointer may move in a click
const RIGHT_ANGLE = Math.PI / 2;
const INSIDE_COLOR = 0x7d838c;

// ---------------------------------------------------------------- data

// The block holds the arrays one after the other; within an array, first the low bytes of all values, then the next.
async function unpack() {
  const compressed = Uint8Array.from(atob(scene.block), (c) => c.charCodeAt(0));
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const kinds = { float32: Float32Array, int32: Int32Array, int16: Int16Array, uint8: Uint8Array };
  const arrays = {};
  let offset = 0;
  for (const { name, type, length } of scene.arrays) {
    const values = new kinds[type](length);
    const raw = new Uint8Array(values.buffer);  // little-endian, as every browser's machine
    const size = values.BYTES_PER_ELEMENT;
    for (let plane = 0; plane < size; plane++) {
      for (let i = 0; i < length; i++) raw[i * size + plane] = bytes[offset++];
    }
    arrays[name] = values;
  }
  return arrays;
}

// ---------------------------------------------------------------- one face

// Real spherical harmonics of CONVENTIONS.md §6.
const A = [Math.PI, 2 * Math.PI / Math.sqrt(3), 2 * Math.PI / Math.sqrt(8)];
const C = [1 / Math.sqrt(4 * Math.PI), Math.sqrt(3) / Math.sqrt(4 * Math.PI), 3 * Math.sqrt(5) / Math.sqrt(12 * Math.PI)];
const H = [A[0] * C[0], A[1] * C[1], A[2] * C[2]];

class Face {
  constructor(index, data, arrays, shared) {
    this.index = index;
    this.data = data;
    this.arrays = arrays;
    this.n = arrays.regions.length;
    this.seen = Float32Array.from(data.expression);
    this.expression = this.seen.slice();
    this.positions = new Float32Array(N_COORDINATES * this.n);   // opengl frame, mm
    this.colors = new Float32Array(N_COORDINATES * this.n);
    this.normals = new Float32Array(N_COORDINATES * this.n);
    this.landmarks = new Float32Array(N_COORDINATES * arrays.landmark_ends.length / 2);

    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(this.positions, 3));
    this.colorAttribute = new THREE.BufferAttribute(this.colors, 3);
    geometry.setAttribute("color", this.colorAttribute);
    geometry.setIndex(shared.index);
    this.geometry = geometry;
    this.surface = new THREE.Mesh(geometry, shared.surface);
    this.inside = new THREE.Mesh(geometry, shared.inside);
    this.wireframe = new THREE.Mesh(geometry, shared.wireframe);
    const points = new THREE.BufferGeometry();
    points.setAttribute("position", new THREE.BufferAttribute(this.landmarks, 3));
    this.points = new THREE.Points(points, shared.points);
    const lines = new THREE.BufferGeometry();
    lines.setAttribute("position", points.getAttribute("position"));
    lines.setIndex(shared.landmarkLines);
    this.lines = new THREE.LineSegments(lines, shared.lines);
    this.objects = [this.surface, this.inside, this.wireframe, this.points, this.lines];
    for (const object of this.objects) object.frustumCulled = false;
    this.surface.userData.face = this;
    this.update();
  }

  // Decode: mean + identity (in `shapes`) + expression, scaled, turned and moved; then normals, light and landmarks.
  update() {
    const { mean_shape: mean, shapes, expression_offsets: offsets, landmark_ends: ends } = this.arrays;
    const n = this.n, step = scene.step_mm, model = new Float32Array(N_COORDINATES * n);
    const own = this.index * N_COORDINATES * n;
    for (let c = 0; c < N_COORDINATES; c++) {
      for (let i = 0; i < n; i++) model[c * n + i] = mean[i * N_COORDINATES + c] + step * shapes[own + c * n + i];
    }
    this.expression.forEach((weight, k) => {
      if (weight === 0) return;
      const scaled = weight * step, from = k * N_COORDINATES * n;
      for (let i = 0; i < N_COORDINATES * n; i++) model[i] += scaled * offsets[from + i];
    });
    const r = this.data.rotation, t = this.data.translation, s = this.data.scale, p = this.positions;
    for (let i = 0; i < n; i++) {
      const x = model[i] * s, y = model[n + i] * s, z = model[2 * n + i] * s;
      for (let row = 0; row < N_COORDINATES; row++) {
        p[i * N_COORDINATES + row] = r[3 * row] * x + r[3 * row + 1] * y + r[3 * row + 2] * z + t[row];
      }
    }
    this.computeNormals();
    this.shade();
    for (let i = 0; i < this.landmarks.length; i++) {
      const k = Math.floor(i / N_COORDINATES), c = i % N_COORDINATES;
      this.landmarks[i] = (p[ends[2 * k] * N_COORDINATES + c] + p[ends[2 * k + 1] * N_COORDINATES + c]) / 2;
    }
    this.geometry.getAttribute("position").needsUpdate = true;
    this.points.geometry.getAttribute("position").needsUpdate = true;
    this.geometry.computeBoundingSphere();
  }

  // Normalised sums of the unit normals of the triangles around each vertex.
  computeNormals() {
    const p = this.positions, normals = this.normals.fill(0), triangles = this.arrays.triangles;
    for (let k = 0; k < triangles.length; k += 3) {
      const a = 3 * triangles[k], b = 3 * triangles[k + 1], c = 3 * triangles[k + 2];
      const ux = p[b] - p[a], uy = p[b + 1] - p[a + 1], uz = p[b + 2] - p[a + 2];
      const vx = p[c] - p[a], vy = p[c + 1] - p[a + 1], vz = p[c + 2] - p[a + 2];
      const nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
      const length = Math.hypot(nx, ny, nz);
      if (length === 0) continue;
      for (const v of [a, b, c]) {
        normals[v] += nx / length;
        normals[v + 1] += ny / length;
        normals[v + 2] += nz / length;
      }
    }
    for (let v = 0; v < normals.length; v += 3) {
      const length = Math.hypot(normals[v], normals[v + 1], normals[v + 2]) || 1;
      for (let c = 0; c < 3; c++) normals[v + c] /= length;
    }
  }

  shade() {
    const n = this.n, light = this.data.illumination, albedo = this.arrays.albedo, own = this.index * 3 * n;
    for (let i = 0; i < n; i++) {
      const x = this.normals[3 * i], y = this.normals[3 * i + 1], z = this.normals[3 * i + 2];
      const h = [H[0], -H[1] * y, H[1] * z, -H[1] * x, H[2] * x * y, -H[2] * y * z,
        H[2] * (3 * z * z - 1) / (2 * Math.sqrt(3)), -H[2] * x * z, H[2] * (x * x - y * y) / 2];
      for (let c = 0; c < 3; c++) {
        let shading = 0;
        for (let b = 0; b < 9; b++) shading += light[9 * c + b] * h[b];
        this.colors[3 * i + c] = Math.min(1, Math.max(0, shading * albedo[own + c * n + i] / 255));
      }
    }
    this.colorAttribute.needsUpdate = true;
  }

  center() {
    return this.geometry.boundingSphere.center.clone();
  }
}

// ---------------------------------------------------------------- the scene

class Viewer {
  constructor(arrays) {
    this.arrays = arrays;
    this.renderer = new THREE.WebGLRenderer({ canvas: document.getElementById("canvas"), antialias: true });
    this.renderer.setPixelRatio(window.devicePixelRatio);
    this.renderer.setClearColor(0x2b2e33);
    this.world = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera();
    this.camera.matrixAutoUpdate = false;
    this.shown = { photo: Boolean(scene.photo), render: true, wireframe: false, landmarks: false, regions: false, ids: true };
    this.chosen = null;           // a Face, or null for all
    this.atPhoto = true;          // the camera stands where the photo was taken
    this.fromPhoto = true;        // it was turned from there: the photo stays as a backdrop
    this.turn = new THREE.Quaternion();
    this.pivot = new THREE.Vector3();
    this.arm = new THREE.Vector3();   // from the pivot to the camera, in the camera's axes
    this.zoom = 1;                // CSS px a photo px
    this.shift = [0, 0];          // CSS px of the photo's top-left corner
    const sides = scene.faces.map(({ box }) => Math.max(box[2] - box[0], box[3] - box[1])).sort((a, b) => a - b);
    this.faceSide = sides.length ? sides[Math.floor(sides.length / 2)] : 100;   // photo px
    const shared = this.shared();
    this.faces = scene.faces.map((data, index) => new Face(index, data, arrays, shared));
    for (const face of this.faces) this.world.add(...face.objects);
    this.regionColors = this.regionAttribute();
    this.addBackdrop();
    this.addLabels();
    this.view("photo");
    new ResizeObserver(() => this.resize()).observe(stage);
  }

  shared() {
    const { landmark_groups: groups, landmark_color: color } = scene;
    const pairs = groups.flatMap(([from, to]) => Array.from({ length: to - from - 1 }, (_, i) => [from + i, from + i + 1]));
    const ink = new THREE.Color(color[0] / 255, color[1] / 255, color[2] / 255);
    this.materials = {
      index: new THREE.BufferAttribute(Uint32Array.from(this.arrays.triangles), 1),
      landmarkLines: pairs.flat(),
      surface: new THREE.MeshBasicMaterial({
        vertexColors: true, transparent: true, polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1 }),
      inside: new THREE.MeshBasicMaterial({ color: INSIDE_COLOR, side: THREE.BackSide }),
      wireframe: new THREE.MeshBasicMaterial({ color: 0xffffff, wireframe: true, transparent: true, opacity: 0.35 }),
      points: new THREE.PointsMaterial({
        color: ink, size: 4, sizeAttenuation: false, depthTest: false, transparent: true, map: disc(), alphaTest: 0.5 }),
      lines: new THREE.LineBasicMaterial({ color: ink, depthTest: false, transparent: true, opacity: 0.7 }),
    };
    return this.materials;
  }

  regionAttribute() {
    const values = new Float32Array(3 * this.arrays.regions.length);
    this.arrays.regions.forEach((label, i) => scene.regions[label].color.forEach((v, c) => { values[3 * i + c] = v / 255; }));
    return new THREE.BufferAttribute(values, 3);
  }

  // The photo stands in space behind the faces, each pixel on its ray: seen from its camera it is where it was taken.
  addBackdrop() {
    let depth = 1000;
    for (const face of this.faces) {
      for (let i = 2; i < face.positions.length; i += 3) depth = Math.max(depth, -face.positions[i] + BACKDROP_GAP);
    }
    const corners = [[0, 0], [photoWidth, 0], [photoWidth, photoHeight], [0, photoHeight]];
    const points = corners.map(([u, v]) => [(u - cx) / focal * depth, -(v - cy) / focal * depth, -depth]);
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(Float32Array.from(points.flat()), 3));
    geometry.setAttribute("uv", new THREE.BufferAttribute(Float32Array.from([0, 1, 1, 1, 1, 0, 0, 0]), 2));
    geometry.setIndex([0, 2, 1, 0, 3, 2]);
    const material = new THREE.MeshBasicMaterial({ side: THREE.DoubleSide });
    if (scene.photo) {
      const image = new Image();
      const texture = new THREE.Texture(image);
      texture.minFilter = THREE.LinearMipmapLinearFilter;
      texture.anisotropy = this.renderer.capabilities.getMaxAnisotropy();
      this.photoLoaded = new Promise((resolve) => {
        image.onload = () => { texture.needsUpdate = true; this.draw(); resolve(); };
      });
      image.src = scene.photo;
      material.map = texture;
    }
    this.backdrop = new THREE.Mesh(geometry, material);
    this.backdrop.frustumCulled = false;
    const rays = new THREE.BufferGeometry();
    const ends = points.flatMap((point, i) => [0, 0, 0, ...point, ...point, ...points[(i + 1) % 4]]);
    rays.setAttribute("position", new THREE.BufferAttribute(Float32Array.from(ends), 3));
    this.rays = new THREE.LineSegments(rays, new THREE.LineBasicMaterial({ color: 0x6b7078 }));
    this.rays.frustumCulled = false;
    this.world.add(this.backdrop, this.rays);
    this.depth = depth;
  }

  addLabels() {
    for (const face of this.faces) {
      face.label = document.createElement("span");
      face.label.textContent = `${face.index}`;
      labels.append(face.label);
    }
  }

  // ------------------------------------------------------------ the camera

  view(name) {
    const angles = { photo: [0, 0], front: [0, 0], right: [0, RIGHT_ANGLE], top: [-RIGHT_ANGLE, 0] }[name];
    if (!angles) throw new Error(`no view ${name}`);
    this.viewName = name;
    this.atPhoto = this.fromPhoto = name === "photo";
    this.pivot.copy(this.middle());
    if (name === "photo") {
      this.turn.identity();
      this.arm.copy(this.pivot).negate();
      this.fit([[0, 0], [photoWidth, photoHeight]]);
    } else {
      this.turn.setFromEuler(new THREE.Euler(angles[0], angles[1], 0, "YXZ"));
      this.arm.set(0, 0, FAR_VIEW * this.radius());
      this.placeCamera();
      this.fit(this.extent());
    }
    this.draw();
  }

  middle() {
    const faces = this.chosen ? [this.chosen] : this.faces;
    const box = new THREE.Box3();
    for (const face of faces) box.expandByPoint(face.center());
    return faces.length ? box.getCenter(new THREE.Vector3()) : new THREE.Vector3(0, 0, -1000);
  }

  radius() {
    return Math.max(100, ...this.faces.map((f) => f.center().distanceTo(this.pivot) + f.geometry.boundingSphere.radius));
  }

  // Corners of all faces in pixels of the moved camera.
  extent() {
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (const face of this.chosen ? [this.chosen] : this.faces) {
      for (let i = 0; i < face.n; i++) {
        const point = this.pixel(face.positions, 3 * i);
        for (let c = 0; c < 2; c++) {
          low[c] = Math.min(low[c], point[c]);
          high[c] = Math.max(high[c], point[c]);
        }
      }
    }
    return this.faces.length ? [low, high] : [[0, 0], [photoWidth, photoHeight]];
  }

  // Choose zoom and shift so that a box of pixels fills the stage.
  fit([low, high]) {
    const [width, height] = this.size();
    const sides = [high[0] - low[0], high[1] - low[1]];
    const margin = this.atPhoto ? 1 : 1 - 2 * MARGIN;
    this.zoom = margin * Math.min(width / sides[0], height / sides[1]);
    this.shift = [(width - this.zoom * (low[0] + high[0])) / 2, (height - this.zoom * (low[1] + high[1])) / 2];
    this.fitted = true;
  }

  size() {
    return [Math.max(1, stage.clientWidth), Math.max(1, stage.clientHeight)];
  }

  resize() {
    if (this.fitted && this.viewName) this.view(this.viewName);
    this.draw();
  }

  placeCamera() {
    const position = this.arm.clone().applyQuaternion(this.turn).add(this.pivot);
    this.camera.matrix.compose(position, this.turn, new THREE.Vector3(1, 1, 1));
    this.camera.matrixWorldNeedsUpdate = true;
    this.camera.updateMatrixWorld(true);
    this.camera.matrixWorldInverse.copy(this.camera.matrixWorld).invert();
    this.position = position;
  }

  // Pixel of the photo's camera, moved: u = cx + f x / -z, v = cy - f y / -z.
  pixel(array, offset) {
    const p = new THREE.Vector3(array[offset], array[offset + 1], array[offset + 2]);
    p.applyMatrix4(this.camera.matrixWorldInverse);
    return [cx + focal * p.x / -p.z, cy - focal * p.y / -p.z, -p.z];
  }

  project() {
    const [width, height] = this.size();
    const scale = NEAR / (this.zoom * focal), [x, y] = this.shift, s = this.zoom;
    const far = 4 * (this.position.length() + this.depth);
    const left = -(x + s * cx) * scale, right = (width - x - s * cx) * scale;
    const top = (y + s * cy) * scale, bottom = -(height - y - s * cy) * scale;
    this.camera.projectionMatrix.set(
      2 * NEAR / (right - left), 0, (right + left) / (right - left), 0,
      0, 2 * NEAR / (top - bottom), (top + bottom) / (top - bottom), 0,
      0, 0, -(far + NEAR) / (far - NEAR), -2 * far * NEAR / (far - NEAR),
      0, 0, -1, 0);
    this.camera.projectionMatrixInverse.copy(this.camera.projectionMatrix).invert();
  }

  orbit(dx, dy) {
    const around = new THREE.Quaternion().setFromAxisAngle(new THREE.Vector3(0, 1, 0), -dx);
    const over = new THREE.Quaternion().setFromAxisAngle(new THREE.Vector3(1, 0, 0), -dy);
    this.turn.premultiply(around).multiply(over).normalize();
    this.atPhoto = false;
    this.viewName = "";
    this.draw();
  }

  zoomAt(factor, x, y) {
    const zoom = Math.min(200, Math.max(0.01, this.zoom * factor)), ratio = zoom / this.zoom;
    this.shift = [x - ratio * (x - this.shift[0]), y - ratio * (y - this.shift[1])];
    this.zoom = zoom;
    this.fitted = false;
    this.draw();
  }

  move(dx, dy) {
    this.shift = [this.shift[0] + dx, this.shift[1] + dy];
    this.fitted = false;
    this.draw();
  }

  // Turn about the chosen face without a jump: the arm changes with the pivot.
  setPivot(point) {
    this.placeCamera();
    this.pivot.copy(point);
    this.arm.copy(this.position).sub(this.pivot).applyQuaternion(this.turn.clone().conjugate());
  }

  faceAt(x, y) {
    this.placeCamera();
    const direction = new THREE.Vector3(
      ((x - this.shift[0]) / this.zoom - cx) / focal, -((y - this.shift[1]) / this.zoom - cy) / focal, -1);
    const ray = new THREE.Raycaster(this.position, direction.applyQuaternion(this.turn).normalize());
    const hits = ray.intersectObjects(this.faces.map((face) => face.surface));
    return hits.length ? hits[0].object.userData.face : null;
  }

  // ------------------------------------------------------------ what is shown

  show(layers) {
    for (const name of Object.keys(layers)) {
      if (!(name in this.shown)) throw new Error(`no layer ${name}`);
    }
    Object.assign(this.shown, layers);
    this.draw();
  }

  // A face, or null for all.
  choose(face) {
    this.chosen = face;
    this.setPivot(this.middle());
    this.draw();
  }

  // `values` returns the new weights of a face; it goes to the chosen face or to all.
  setExpression(values) {
    for (const face of this.chosen ? [this.chosen] : this.faces) {
      face.expression.set(values(face));
      face.update();
    }
    this.draw();
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.drawNow(); });
  }

  drawNow() {
    const [width, height] = this.size();
    this.renderer.setSize(width, height, false);
    this.placeCamera();
    this.project();
    const { photo, render, wireframe, landmarks, regions, ids } = this.shown;
    const side = this.faceSide * this.zoom;   // CSS px
    this.materials.wireframe.opacity = Math.min(0.4, Math.max(0.08, side / 1500));
    this.materials.points.size = Math.min(6, Math.max(1.5, POINT_SIZE * side));
    this.backdrop.visible = photo && this.fromPhoto && Boolean(scene.photo);
    this.rays.visible = !this.atPhoto && this.fromPhoto;
    const ordered = [...this.faces].sort((a, b) => b.center().distanceTo(this.position) - a.center().distanceTo(this.position));
    ordered.forEach((face, order) => {
      face.surface.visible = render || regions;
      face.inside.visible = (render || regions) && !this.atPhoto;
      face.wireframe.visible = wireframe;
      face.points.visible = face.lines.visible = landmarks;
      face.geometry.setAttribute("color", regions ? this.regionColors : face.colorAttribute);
      face.objects.forEach((object, layer) => { object.renderOrder = layer < 3 ? order : 1000 + order; });
    });
    this.renderer.render(this.world, this.camera);
    for (const face of this.faces) {
      const [x, y, z] = this.labelPlace(face);
      face.label.hidden = !ids || z < NEAR;
      face.label.style.left = `${x}px`;
      face.label.style.top = `${y}px`;
      face.label.className = face === this.chosen ? "chosen" : "";
    }
    for (const choice of document.querySelectorAll("[data-view], [data-layer]")) {
      const { view, layer } = choice.dataset;
      choice.setAttribute("aria-pressed", String(layer ? this.shown[layer] : view === this.viewName));
    }
  }

  // Above the highest point of the face on the stage; every tenth vertex is enough.
  labelPlace(face) {
    let best = [0, Infinity, 0];
    for (let i = 0; i < face.n; i += 10) {
      const point = this.pixel(face.positions, 3 * i);
      if (point[1] < best[1]) best = point;
    }
    return [this.shift[0] + this.zoom * best[0], this.shift[1] + this.zoom * best[1], best[2]];
  }
}

function disc() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 32;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.arc(16, 16, 15, 0, 2 * Math.PI);
  context.fill();
  return new THREE.CanvasTexture(canvas);
}

// ---------------------------------------------------------------- controls

function button(parent, text, action) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = text;
  element.onclick = action;
  document.getElementById(parent).append(element);
  return element;
}

function controls(viewer) {
  const fix = (value, digits) => value.toFixed(digits).replace("-", "−");
  const { names, kind } = scene.expression;
  const n = viewer.faces.length;
  document.getElementById("summary").textContent =
    `${n} face${n === 1 ? "" : "s"} · ${photoWidth} × ${photoHeight} px · focal length ${fix(focal, 0)} px`;
  for (const name of ["photo", "front", "right", "top"]) {
    const choice = button("views", name, () => viewer.view(name));
    choice.dataset.view = name;
  }
  for (const name of Object.keys(viewer.shown)) {
    const toggle = button("layers", name, () => viewer.show({ [name]: !viewer.shown[name] }));
    toggle.dataset.layer = name;
    if (name === "photo" && !scene.photo) toggle.disabled = true;
  }
  document.getElementById("opacity").oninput = (event) => {
    viewer.materials.surface.opacity = Number(event.target.value);
    viewer.draw();
  };
  const select = document.getElementById("face");
  select.add(new Option("all", ""));
  viewer.faces.forEach((face) => select.add(new Option(`${face.index} (score ${fix(face.data.score, 2)})`, face.index)));
  select.onchange = () => { viewer.choose(select.value === "" ? null : viewer.faces[select.value]); refresh(); };

  button("presets", "as seen", () => { viewer.setExpression((face) => face.seen); refresh(); });
  button("presets", "neutral", () => { viewer.setExpression((face) => face.seen.map(() => 0)); refresh(); });
  const sliders = names.map((name, k) => {
    const row = document.createElement("label");
    const range = Object.assign(document.createElement("input"), { type: "range", step: "0.01" });
    [range.min, range.max] = kind === "blendshape" ? ["0", "1"] : ["-3", "3"];
    const output = document.createElement("output");
    range.dataset.name = name;
    range.oninput = () => {
      viewer.setExpression((face) => face.expression.map((v, i) => (i === k ? Number(range.value) : v)));
      output.textContent = fix(Number(range.value), 2);
    };
    row.append(name.replace("_", " "), range, output);
    document.getElementById("sliders").append(row);
    return { range, output };
  });

  function refresh() {
    const face = viewer.chosen || viewer.faces[0];
    select.value = viewer.chosen ? String(viewer.chosen.index) : "";
    const facts = document.getElementById("facts");
    facts.replaceChildren();
    if (viewer.chosen) {
      const { score, pose, translation } = face.data;
      const rows = [["score", fix(score, 3)], ["yaw", `${fix(pose.yaw, 1)}°`], ["pitch", `${fix(pose.pitch, 1)}°`],
        ["roll", `${fix(pose.roll, 1)}°`], ["distance", `${fix(-translation[2], 0)} mm`]];
      for (const [term, value] of rows) {
        const [dt, dd] = ["dt", "dd"].map((tag) => document.createElement(tag));
        dt.textContent = term;
        dd.textContent = value;
        facts.append(dt, dd);
      }
    }
    sliders.forEach(({ range, output }, k) => {
      range.disabled = !face;
      range.value = face ? face.expression[k] : 0;
      output.textContent = face ? fix(face.expression[k], 2) : "";
    });
  }

  const pointers = new Map();
  let travelled = 0;
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  stage.onpointerdown = (event) => {
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    travelled = 0;
  };
  stage.onpointermove = (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const now = place(event), dx = now[0] - last[0], dy = now[1] - last[1];
    pointers.set(event.pointerId, now);
    travelled += Math.abs(dx) + Math.abs(dy);
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const spread = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
      viewer.move(dx / 2, dy / 2);
      viewer.zoomAt(spread(now) / spread(last), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (event.buttons & 6 || event.shiftKey) {
      viewer.move(dx, dy);
    } else if (travelled > CLICK) {
      viewer.orbit(dx * 0.006, dy * 0.006);
    }
  };
  stage.onpointerup = stage.onpointercancel = (event) => {
    pointers.delete(event.pointerId);
    if (event.type === "pointerup" && event.button === 0 && travelled <= CLICK) {
      viewer.choose(viewer.faceAt(...place(event)));
      refresh();
    }
  };
  stage.oncontextmenu = (event) => event.preventDefault();
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    viewer.zoomAt(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0015)), ...place(event));
  }, { passive: false });
  refresh();
  return refresh;
}

async function start() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old (no DecompressionStream)");
  const viewer = new Viewer(await unpack());
  controls(viewer);
  await viewer.photoLoaded;
  message.hidden = true;
  viewer.draw();
  return viewer;
}

// For pages that embed this one, and for tests: a promise of the viewer.
window.wm3drViewer = start().catch((error) => {
  message.textContent = `The scene cannot be shown: ${error.message}`;
  throw error;
});
})();
