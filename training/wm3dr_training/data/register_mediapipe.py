"""Register MediaPipe's 468 face points to the coarse mesh of the default face model.

    python -m wm3dr_training.data.register_mediapipe --ict …/ict_facekit --labels labels/ --out mediapipe_to_mesh.npz

With `--face-model FILE` the points are registered to the mesh of that face model instead of ICT's.

1. MediaPipe's canonical face is brought onto the mean shape: similarity by the 51 inner landmarks, then a non-rigid
   closest-point iteration that becomes softer step by step.
2. The model is fitted to the landmarks of labelled photos. What remains at a point on average, in the tangent plane of
   the mesh, is the error of its place: the point moves there. Part of the average identity and all of the average
   expression of neutral photos are counted as error of the places, too; else the shape would absorb them (the average
   face would be another than the mean, with wide-open eyes). Manual landmarks at well-defined places anchor the fits.
3. By the same step the 68 landmark vertices move to where 300-W's annotators put the points.

Measured on 760 photos of the training split: the median residual of the fits falls from 1.14 to 0.67 % of the
inter-ocular distance. On 750 manually annotated photos, fitted to MediaPipe's points only, ICT's landmark vertices are
on average 2.6 % off 300-W's practice (worst 6.9 %, the brows), the moved ones 1.0 % (worst 2.0 %).
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from wm3dr.face_model import parse_face_model
from wm3dr.files import DEFAULT_FACE_MODEL

from ..face_model.geometry import Geometry, edges_from_triangles, load_geometry, refine_matrix
from .arrays import save_npz
from .correspondence import topology_of
from .crops import CROP_SIZE
from .landmark_fit import LandmarkFit, PointModel, fit_landmarks, fit_pose, project_with_jacobian
from .landmarks import INNER_LANDMARKS, MEDIAPIPE_68, MIRROR_68, N_LANDMARKS

CENTER_PX = CROP_SIZE / 2
MM_PER_CM = 10.0
STIFFNESS = (50, 30, 20, 10, 5, 3, 2, 1, 1, 0.5, 0.5)
"""Weight of the displacement's smoothness in the rounds of the non-rigid registration; the distance has weight 1."""
LANDMARK_PULL = 10.0
RING_CONFIDENCE = (0.1, 0.3, 0.6)
"""Confidence of the outline and of the next two rings of points; they slide with the pose."""
FOREHEAD_MM, FOREHEAD_CONFIDENCE = 45.0, 0.5
ANCHORS = np.array([36, 39, 42, 45, 48, 54, 30, 51, 57, 62, 66])
"""Landmarks whose place on the mesh is beyond doubt: corners of eyes and mouth, middle of the lips, tip of the nose."""
ANCHOR_WEIGHT = 2.0
IDENTITY_SHARE = 0.3
"""Share of the average identity that is counted as error of the places."""
MAX_MOVE_MM = 4.0
SOURCES = {"helen_train": 160, "lfpw_train": 160, "scut": 60, "london": 40, "lfw": 120, "cfp": 140, "utkface": 80}
ANNOTATED_SOURCES = {"helen_train": 380, "lfpw_train": 370}
NEUTRAL_SOURCES = ("scut",)
NEUTRAL_SUFFIX = {"london": "_03"}


@dataclass(frozen=True)
class MorphableMesh:
    """The coarse geometry that points are registered to (CONVENTIONS.md §5)."""

    name: str
    """Of the face model."""
    mean_shape: NDArray[np.float32]
    """(N0, 3) mm."""
    identity_basis: NDArray[np.floating]
    """(N0, 3, K_id)."""
    expression_basis: NDArray[np.floating]
    """(N0, 3, K_exp)."""
    triangles: NDArray[np.int32]
    """(T0, 3)."""
    landmark_vertices: NDArray[np.int32]
    """(68,) refined numbers."""
    mirror: NDArray[np.int32]
    """(N0,)."""

    @classmethod
    def of_ict(cls, geometry: Geometry) -> "MorphableMesh":
        """The geometry of the default face model, before the model is built."""
        names = ("mean_shape", "identity_basis", "expression_basis", "triangles", "landmark_vertices", "mirror")
        return cls(DEFAULT_FACE_MODEL.stem, **{name: getattr(geometry, name) for name in names})

    @classmethod
    def of_file(cls, path: Path) -> "MorphableMesh":
        """The geometry of a face-model file; wm3dr.ModelError when it is none."""
        metadata, arrays = parse_face_model(path.read_bytes())
        names = ("mean_shape", "identity_basis", "expression_basis", "triangles", "landmark_vertices", "mirror")
        return cls(metadata.name, **{name: arrays[name] for name in names})


class Surface:
    """The coarse mesh as a place for points; every point is a triangle with barycentric weights."""

    def __init__(self, vertices: NDArray, triangles: NDArray) -> None:
        self.vertices, self.triangles = np.asarray(vertices, np.float64), np.asarray(triangles)
        corners = self.vertices[self.triangles]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self.normals = vertex_normals(self.vertices, self.triangles)
        self.triangle_normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        self._tree = cKDTree(self.vertices)
        order = np.argsort(self.triangles.ravel(), kind="stable")
        self._around = np.split(
            order // 3, np.cumsum(np.bincount(self.triangles.ravel(), minlength=len(vertices)))[:-1]
        )

    def place(self, points: NDArray, normals: NDArray, agreement: float = 0.5) -> "Places":
        """Nearest points of the surface whose normals agree (cosine ≥ `agreement`) with the given ones."""
        _, near = self._tree.query(points, k=24)
        ids, weights = np.empty((len(points), 3), np.int64), np.empty((len(points), 3))
        for row, (point, normal) in enumerate(zip(points, normals, strict=True)):
            candidates = np.unique(np.concatenate([self._around[v] for v in near[row]]))
            fits = candidates[self.triangle_normals[candidates] @ normal > agreement]
            candidates = fits if len(fits) else candidates
            corners = self.vertices[self.triangles[candidates]]
            nearest = trimesh.triangles.closest_point(corners, np.repeat(point[None], len(candidates), axis=0))
            best = int(np.linalg.norm(nearest - point, axis=1).argmin())
            ids[row] = self.triangles[candidates[best]]
            weights[row] = trimesh.triangles.points_to_barycentric(corners[best : best + 1], nearest[best : best + 1])[
                0
            ]
        weights = np.clip(weights, 0, 1)
        return Places(ids, weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Places:
    """Points on the mesh: (P, 3) coarse vertices and weights."""

    vertex_ids: NDArray[np.int64]
    weights: NDArray[np.float64]

    def of(self, values: NDArray) -> NDArray[np.float64]:
        """Interpolate values given at the coarse vertices, (N0, …) → (P, …)."""
        weights = self.weights.reshape(*self.weights.shape, *[1] * (values.ndim - 1))
        return (values[self.vertex_ids] * weights).sum(axis=1)

    def model(self, geometry: MorphableMesh) -> PointModel:
        """The points as functions of the model's coefficients."""
        basis = np.concatenate([geometry.identity_basis, geometry.expression_basis], axis=2).astype(np.float64)
        mean = self.of(geometry.mean_shape.astype(np.float64))
        return PointModel(mean, self.of(basis), geometry.identity_basis.shape[2])


@dataclass(frozen=True)
class Photo:
    """What the refinement uses of one labelled photo; crop pixels."""

    landmarks: NDArray[np.float64]
    """(468, 2); NaN where hidden."""
    manual: NDArray[np.float64] | None
    """(68, 2)."""
    neutral: bool
    profile: bool


def read_canonical(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """MediaPipe's canonical face: (468, 3) mm, x to the subject's left, y up, z out of the face; (T, 3) triangles."""
    lines = [line.split() for line in Path(path).read_text().splitlines() if line[:2] in ("v ", "f ")]
    points = np.array([line[1:4] for line in lines if line[0] == "v"], np.float64) * MM_PER_CM
    corners = [[int(corner.split("/")[0]) - 1 for corner in line[1:4]] for line in lines if line[0] == "f"]
    return points, np.array(corners)


def similarity(source: NDArray, target: NDArray) -> tuple[float, NDArray, NDArray]:
    """Scale, rotation and shift that bring `source` nearest to `target`, both (P, 3) (Umeyama 1991)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, singular, vt = np.linalg.svd(b.T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    scale = float((singular * signs).sum() / (a**2).sum())
    return scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)


def vertex_normals(vertices: NDArray, triangles: NDArray) -> NDArray[np.float64]:
    """(N, 3) area-weighted unit normals."""
    corners = vertices[triangles]
    areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(out, triangles[:, corner], areas)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def register_canonical(
    surface: Surface, landmarks: NDArray, points: NDArray, triangles: NDArray, mirror: NDArray
) -> Places:
    """Step 1: the canonical face on the mean shape.

    Parameters
    ----------
    surface : Surface
        The mean shape.
    landmarks : (68, 3) float
        The mesh's own landmarks.
    points, triangles
        The canonical face.
    mirror : (468,) int
        Mirror image of each point.
    """
    inner = INNER_LANDMARKS
    scale, rotation, shift = similarity(points[MEDIAPIPE_68[inner]], landmarks[inner])
    moved = scale * points @ rotation.T + shift
    edges = edges_from_triangles(triangles)
    laplacian = np.zeros((len(points), len(points)))
    for a, b in edges:
        laplacian[[a, b], [a, b]] += 1
        laplacian[[a, b], [b, a]] -= 1
    pull = np.zeros(len(points))
    pull[MEDIAPIPE_68[inner]] = LANDMARK_PULL
    goal = np.zeros_like(points)
    goal[MEDIAPIPE_68[inner]] = landmarks[inner]
    for stiffness in STIFFNESS:
        nearest = surface.place(moved, vertex_normals(moved, triangles)).of(surface.vertices)
        strength = pull * min(1, stiffness)
        system = stiffness * laplacian + np.diag(1 + strength)
        moved = np.linalg.solve(system, stiffness * laplacian @ moved + nearest + strength[:, None] * goal)
        moved = _symmetric(moved, mirror)
    return surface.place(moved, vertex_normals(moved, triangles))


def confidence_of(points: NDArray, triangles: NDArray, heights: NDArray) -> NDArray[np.float32]:
    """(468,) confidence by the distance from the outline in edges, halved on the forehead."""
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    edges, count = np.unique(edges, axis=0, return_counts=True)
    ring = np.full(len(points), len(RING_CONFIDENCE))
    ring[edges[count == 1]] = 0
    for step in range(1, len(RING_CONFIDENCE)):
        for a, b in (edges.T, edges.T[::-1]):
            ring[b[(ring[a] == step - 1) & (ring[b] > step)]] = step
    confidence = np.array([*RING_CONFIDENCE, 1.0])[ring]
    return np.where(heights > FOREHEAD_MM, FOREHEAD_CONFIDENCE, 1) * confidence


def refine_places(
    surface: Surface,
    geometry: MorphableMesh,
    places: Places,
    anchors: PointModel,
    photos: list[Photo],
    confidence: NDArray,
    mirror: NDArray,
    pool: ProcessPoolExecutor,
) -> tuple[Places, float]:
    """One round of step 2; also returns the median residual before it, in units of the inter-ocular distance."""
    model = places.model(geometry)
    fits = fit_photos(model, anchors, photos, confidence, pool)
    coefficients = np.stack([fit.coefficients for fit in fits])
    profile, neutral = (np.array([getattr(p, key) for p in photos]) for key in ("profile", "neutral"))
    n_identity = model.n_identity
    systematic = np.zeros(coefficients.shape[1])
    systematic[:n_identity] = IDENTITY_SHARE * coefficients[~profile, :n_identity].mean(axis=0)
    systematic[n_identity:] = coefficients[neutral, n_identity:].mean(axis=0)
    sure = confidence >= RING_CONFIDENCE[-1]
    residuals, poses = [], []
    for photo, fit in zip(photos, fits, strict=True):
        known = np.isfinite(photo.landmarks).all(axis=1)
        eyes = np.linalg.norm(np.subtract(*model.points(fit.coefficients)[[33, 263]]))
        between = eyes * project_with_jacobian(fit.translation[None], 0)[1][0, 0, 0]
        residuals.append(np.median(np.linalg.norm(fit.residual[: len(known)][known & sure], axis=1)) / between)
        weights = confidence * known
        poses.append(fit_pose(model, fit, fit.coefficients - systematic, photo.landmarks, weights, CENTER_PX))
    targets = [photo.landmarks for photo in photos]
    moved = model.mean + tangent_moves(model, places.of(surface.normals), poses, targets)
    return surface.place(_symmetric(moved, mirror), places.of(surface.normals)), float(np.median(residuals))


def fit_photos(
    model: PointModel, anchors: PointModel, photos: list[Photo], confidence: NDArray, pool: ProcessPoolExecutor
) -> list[LandmarkFit]:
    """Fit the model to every photo's points and, where there are manual ones, to the anchors."""
    whole = model.joined(anchors)
    targets, weights = [], []
    for photo in photos:
        manual = np.full((len(anchors.mean), 2), np.nan) if photo.manual is None else photo.manual[ANCHORS]
        targets.append(np.concatenate([photo.landmarks, manual]))
        strength = np.concatenate([confidence, np.full(len(manual), ANCHOR_WEIGHT)])
        weights.append(strength * np.isfinite(targets[-1]).all(axis=1))
    count = len(photos)
    work = ([whole] * count, targets, weights, [CENTER_PX] * count)
    return list(pool.map(fit_landmarks, *work, chunksize=max(1, count // 32)))


def tangent_moves(
    model: PointModel, normals: NDArray, fits: list[LandmarkFit], targets: list[NDArray]
) -> NDArray[np.float64]:
    """(P, 3) mm: the move in each point's tangent plane that cancels its residuals over all photos best.

    Weighted least squares over the photos that see the point; robust; a photo counts by how much the surface faces it.
    """
    first = np.cross(normals, [0.0, 1.0, 0.0])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    tangents = np.stack([first, np.cross(normals, first)], axis=2)  # (P, 3, 2)
    hessian, gradient = np.zeros((len(normals), 2, 2)), np.zeros((len(normals), 2))
    for fit, target in zip(fits, targets, strict=True):
        camera = model.points(fit.coefficients) @ fit.rotation.T + fit.translation
        pixels, jacobian = project_with_jacobian(camera, CENTER_PX)
        missing = np.nan_to_num(target) - pixels
        facing = -((normals @ fit.rotation.T) * camera).sum(axis=1) / np.linalg.norm(camera, axis=1)
        distance = np.linalg.norm(missing, axis=1)
        weight = np.where(facing > 0.25, facing, 0.02) * np.isfinite(target).all(axis=1)
        weight = weight * np.where(distance < 2, 1, 2 / np.maximum(distance, 1e-9))
        along = jacobian @ fit.rotation @ tangents
        hessian += weight[:, None, None] * np.einsum("pij,pik->pjk", along, along)
        gradient += weight[:, None] * np.einsum("pij,pi->pj", along, missing)
    ridge = 0.025 * np.trace(hessian.mean(axis=0)) * np.eye(2)
    moves = (tangents @ np.linalg.solve(hessian + ridge, gradient[..., None]))[..., 0]
    length = np.linalg.norm(moves, axis=1, keepdims=True)
    return moves * np.minimum(1, MAX_MOVE_MM / np.maximum(length, 1e-9))


def landmark_vertices_300w(
    surface: Surface,
    geometry: MorphableMesh,
    places: Places,
    photos: list[Photo],
    confidence: NDArray,
    pool: ProcessPoolExecutor,
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """Step 3: refined vertices where 300-W's annotators put the inner landmarks.

    Returns
    -------
    vertices : (68,) int32
        Refined numbers, left-right symmetric; the contour 0–16 is unchanged.
    before, after : (51, 2) float64
        Mean of manual minus projected landmark over the photos, over the inter-ocular distance; image axes.
    """
    photos = [photo for photo in photos if photo.manual is not None]
    alone = [replace(photo, manual=None) for photo in photos]
    model = places.model(geometry)
    nothing = PointModel(np.zeros((0, 3)), np.zeros((0, *model.basis.shape[1:])), model.n_identity)
    fits = [replace(fit) for fit in fit_photos(model, nothing, alone, confidence, pool)]
    refine = refine_matrix(geometry.triangles, len(geometry.mean_shape))
    vertices = refine @ surface.vertices
    normals = refine @ surface.normals
    targets = [photo.manual for photo in photos]
    start = surface.place(vertices[geometry.landmark_vertices], normals[geometry.landmark_vertices], 0.2)
    found = start
    for _ in range(6):
        moves = tangent_moves(found.model(geometry), found.of(surface.normals), fits, targets)
        moves[: INNER_LANDMARKS[0]] = 0
        moved = _symmetric(found.of(surface.vertices) + moves, MIRROR_68)
        found = surface.place(moved, found.of(surface.normals), 0.2)
    chosen = geometry.landmark_vertices.copy()
    mirror = refined_mirror(geometry)
    _, near = cKDTree(vertices).query(found.of(surface.vertices), k=8)
    facing = found.of(surface.normals)
    for j in INNER_LANDMARKS[INNER_LANDMARKS <= MIRROR_68[INNER_LANDMARKS]]:
        fits_in = [v for v in near[j] if normals[v] @ facing[j] > 0.3 and (MIRROR_68[j] != j or mirror[v] == v)]
        if fits_in:
            chosen[j], chosen[MIRROR_68[j]] = fits_in[0], mirror[fits_in[0]]
    end = surface.place(vertices[chosen], normals[chosen], 0.2)
    return chosen.astype(np.int32), *(_mean_offsets(p.model(geometry), fits, targets) for p in (start, end))


def refined_mirror(geometry: MorphableMesh) -> NDArray[np.int64]:
    """(N,) mirror of every refined vertex: that of an edge's midpoint is the midpoint of the mirrored edge."""
    edges = edges_from_triangles(geometry.triangles)
    number = {tuple(edge): len(geometry.mirror) + k for k, edge in enumerate(edges.tolist())}
    middle = [number[tuple(sorted(geometry.mirror[edge].tolist()))] for edge in edges]
    return np.concatenate([geometry.mirror, middle]).astype(np.int64)


def _mean_offsets(model: PointModel, fits: list[LandmarkFit], targets: list[NDArray]) -> NDArray[np.float64]:
    offsets = []
    for fit, target in zip(fits, targets, strict=True):
        camera = model.points(fit.coefficients) @ fit.rotation.T + fit.translation
        between = np.linalg.norm(target[36] - target[45])
        offsets.append((target - project_with_jacobian(camera, CENTER_PX)[0])[INNER_LANDMARKS] / between)
    return np.mean(offsets, axis=0)


def _symmetric(points: NDArray, mirror: NDArray) -> NDArray[np.float64]:
    """The mean of points and their mirror images in the plane x = 0."""
    return (points + points[mirror] * [-1, 1, 1]) / 2


def read_photos(labels: Path, counts: dict[str, int], seed: int = 1) -> list[Photo]:
    """Random photos of the training split with valid labels; half of CFP's are profiles."""
    random, photos = np.random.default_rng(seed), []
    for source, count in counts.items():
        with np.load(labels / f"train_{source}.npz") as file:
            table = {
                key: file[key]
                for key in ("names", "landmarks478", "landmarks68", "has478", "has68", "split", "profile")
            }
        for profile in (False, True):
            rows = np.flatnonzero(table["has478"] & (table["split"] == 0) & (table["profile"] == profile))
            wanted = count if not table["profile"].any() else count // 2
            for row in random.choice(rows, min(wanted, len(rows)), replace=False):
                ending = NEUTRAL_SUFFIX.get(source)
                neutral = source in NEUTRAL_SOURCES or (ending and str(table["names"][row]).endswith(ending))
                manual = table["landmarks68"][row].astype(np.float64) if table["has68"][row] else None
                landmarks = table["landmarks478"][row, : len(table["landmarks478"][row]) - 10].astype(np.float64)
                photos.append(Photo(landmarks, manual, bool(neutral), profile))
    return photos


@click.command()
@click.option("--ict", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of ICT-FaceKit Light.")
@click.option(
    "--face-model", type=click.Path(path_type=Path, exists=True), help="Register to this file's mesh instead."
)
@click.option("--labels", type=click.Path(path_type=Path, exists=True), required=True, help="Output of `label`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .npz to write.")
@click.option("--rounds", default=2, help="Rounds of step 2.")
@click.option("--workers", default=2, help="Processes.")
def main(ict: Path, face_model: Path | None, labels: Path, out: Path, rounds: int, workers: int) -> None:
    """Register MediaPipe's points to the mesh and write the correspondence."""
    if face_model is None:
        geometry = MorphableMesh.of_ict(load_geometry(ict / "ict_facekit_light.npz"))
    else:
        geometry = MorphableMesh.of_file(face_model)
    surface = Surface(geometry.mean_shape, geometry.triangles)
    points, triangles = read_canonical(ict / "mediapipe_canonical_face_model.obj")
    _, mirror = cKDTree(points).query(points * [-1, 1, 1])
    refine = refine_matrix(geometry.triangles, len(geometry.mean_shape))
    vertices = refine @ surface.vertices
    landmarks = vertices[geometry.landmark_vertices]
    places = register_canonical(surface, landmarks, points, triangles, mirror)
    anchor_places = surface.place(
        landmarks[ANCHORS], (refine @ surface.normals)[geometry.landmark_vertices[ANCHORS]], 0.2
    )
    confidence = confidence_of(points, triangles, places.of(surface.vertices)[:, 1])
    photos = read_photos(labels, SOURCES)
    with ProcessPoolExecutor(workers) as pool:
        anchors = anchor_places.model(geometry)
        for number in range(rounds):
            places, residual = refine_places(surface, geometry, places, anchors, photos, confidence, mirror, pool)
            click.echo(
                f"before round {number + 1}: median residual {100 * residual:.2f} % of the inter-ocular distance"
            )
        _, residual = refine_places(surface, geometry, places, anchors, photos, confidence, mirror, pool)
        click.echo(f"at the end: median residual {100 * residual:.2f} %")
        annotated = read_photos(labels, ANNOTATED_SOURCES)
        chosen, before, after = landmark_vertices_300w(surface, geometry, places, annotated, confidence, pool)
    for name, offsets in ((f"{geometry.name}'s", before), ("moved", after)):
        length = 100 * np.linalg.norm(offsets, axis=1)
        click.echo(
            f"{name} landmark vertices: mean offset to 300-W {length.mean():.2f} %, largest {length.max():.2f} %"
        )
    save_npz(out, **correspondence_arrays(geometry, places, confidence, mirror, points, chosen))


def correspondence_arrays(
    geometry: MorphableMesh,
    places: Places,
    confidence: NDArray,
    mirror: NDArray,
    points: NDArray,
    landmark_vertices: NDArray,
) -> dict[str, NDArray]:
    """The arrays of `correspondence.Correspondence`, irises added to `mirror` and `side`."""
    irises = np.array([473, 476, 475, 474, 477, 468, 471, 470, 469, 472])  # of 468 … 477
    if landmark_vertices.shape != (N_LANDMARKS,):
        raise ValueError(f"landmark_vertices has shape {landmark_vertices.shape}, wanted ({N_LANDMARKS},)")
    side = np.sign(np.where(np.abs(points[:, 0]) < 0.01, 0, points[:, 0]))
    return {
        "vertex_ids": places.vertex_ids.astype(np.int32),
        "weights": places.weights.astype(np.float32),
        "confidence": confidence.astype(np.float32),
        "mirror": np.concatenate([mirror, irises]).astype(np.int32),
        "side": np.concatenate([side, np.repeat([-1, 1], 5)]).astype(np.int8),
        "landmark_vertices_300w": landmark_vertices.astype(np.int32),
        "face_model": np.array(geometry.name),
        "n_vertices": np.array(len(geometry.mean_shape), np.int32),
        "topology": np.array(topology_of(geometry.triangles)),
    }


if __name__ == "__main__":
    main()
