"""Sampled colours of many photos → mean albedo and albedo basis.

1. Every photo: skin tone = median colour of the well-seen face; colours are divided by it.
2. Studio light: second-order spherical harmonics (CONVENTIONS.md §6) fitted to the luminance of those ratios on the
   skin, one set for all photos and a small, regularised deviation per photo, the same for R, G and B and of median 1
   over the frontal skin. Dividing by it flattens the light and leaves tone and colour to the albedo.
3. Hair and background: samples whose ratio to the mean face is not skin's are dropped, with their neighbourhood; scalp
   and neck are never sampled.
4. Completion: on the coarse mesh, left and right together, `Σ w (R x − ratio)² + λ Σ_edges (x_i − x_j)² + ε Σ (x − 1)²`
   for the ratio x to the mean face: unseen vertices continue their surroundings and fall back to the mean face.
5. PCA of the completed faces, all exactly symmetric, each also in two other skin tones (`skin_tones.py`); rare tones
   weigh more (`tone_balance`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu

from .geometry import Geometry, edges_from_triangles
from .regions import HAIRLINE_ZY, region_mask
from .registration import Shapes

LUMINANCE = np.array([0.3, 0.6, 0.1])
MIN_COSINE = 0.35
SHADING_RANGE = (0.55, 1.35)
DEVIATION_SIGMA = 0.06
SMOOTHNESS, FALLBACK = 0.06, 2e-3
MIN_FACES = 12
"""Faces that must show a vertex before their median counts as the mean face there."""
HAIR_MARGIN_MM, SIDE_Z_MM = 16.0, -24.0
"""A strip below the hairline of the temples, and all skin behind z = −24 mm (sideburns, grazing light), is left out."""
RATIO_LOW, RATIO_HIGH, CHROMA_LIMIT = 0.66, 1.4, 0.16


@dataclass(frozen=True)
class Samples:
    """Colours of the N refined vertices in P photos (`sampling.sample_photo`)."""

    colors: NDArray[np.float32]
    """(P, N, 3) sRGB-encoded, [0, 1]."""
    weights: NDArray[np.float32]
    """(P, N) cosine where visible, else 0."""
    normals_opengl: NDArray[np.float32]
    """(P, N, 3)."""


@dataclass(frozen=True)
class Delit:
    """Photos without their light: what PCA learns from."""

    albedos: NDArray[np.float64]
    """(P, N0, 3) completed, symmetric, sRGB-encoded."""
    tones: NDArray[np.float64]
    """(P, 3) skin tone of every photo."""
    mean_face: NDArray[np.float64]
    """(N0, 3) median ratio of albedo to tone."""
    shading_range: NDArray[np.float64]
    """(P, 2) 1st and 99th percentile of the removed shading over the sampled skin."""
    kept: NDArray[np.float64]
    """(P,) share of visible vertices that passed the skin test."""


def harmonics(normals: NDArray[np.floating]) -> NDArray[np.floating]:
    """Second-order polynomials of unit normals (…, 3) → (…, 9), constant first, unscaled."""
    x, y, z = np.moveaxis(normals, -1, 0)
    return np.stack([np.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y], axis=-1)


class Completion:
    """Weighted fit of smooth symmetric coarse vertex data to refined samples (step 4)."""

    def __init__(self, geometry: Geometry, shapes: Shapes) -> None:
        n = len(geometry.mean_shape)
        edges = edges_from_triangles(geometry.triangles)
        ones = np.ones(len(edges))
        adjacency = coo_matrix((ones, edges.T), shape=(n, n)).tocsr()
        adjacency = adjacency + adjacency.T
        self.laplacian = diags(np.asarray(adjacency.sum(axis=1)).ravel()) - adjacency
        self.refine: csr_matrix = shapes.refine
        self.mirror_coarse, self.mirror = geometry.mirror, shapes.mirror

    def __call__(
        self, values: NDArray[np.floating], weights: NDArray[np.floating], fallback: float = FALLBACK
    ) -> NDArray[np.float64]:
        """(N0, C) from refined (N, C) values and (N,) weights; values where the weight is 0 are ignored."""
        weighted = np.where(weights[:, None] > 0, values * weights[:, None], 0.0)
        right = self.refine.T @ (weighted + weighted[self.mirror])
        matrix = self.refine.T @ diags(weights + weights[self.mirror]) @ self.refine
        matrix = matrix + SMOOTHNESS * self.laplacian + fallback * diags(np.ones(matrix.shape[0]))
        solved = splu(matrix.tocsc()).solve(right + fallback)
        return (solved + solved[self.mirror_coarse]) / 2


def delight(samples: Samples, geometry: Geometry, shapes: Shapes, regions: NDArray[np.uint8]) -> Delit:
    """Steps 1–4; `regions` are the refined labels, (N,)."""
    x, y, z = shapes.mean.T
    skin = region_mask(regions, "skin", "nose")
    hair_margin = y > np.interp(z, *np.transpose(HAIRLINE_ZY)) - HAIR_MARGIN_MM
    never = region_mask(regions, "scalp", "neck") | (skin & ((hair_margin & (z < 0)) | (z < SIDE_Z_MM)))
    seen = (samples.weights > MIN_COSINE) & ~never
    core = skin & ~never & (y < 60) & (y > -75) & (np.abs(x) < 60)
    lit = skin & ~never & (y < 70) & (y > -80)
    tones = np.array(
        [np.median(c[core & (w > 0.6)], axis=0) for c, w in zip(samples.colors, samples.weights, strict=True)]
    )
    shading = fitted_shading(samples, tones, core, lit)
    ratios = samples.colors / (tones[:, None] * shading[..., None])

    doubtful = (skin & ((y > 50) | (np.abs(x) > 48) | (y < -72))) | region_mask(regions, "left_ear", "right_ear")
    completion = Completion(geometry, shapes)
    ears = region_mask(regions, "left_ear", "right_ear")
    kept = seen
    for _ in range(2):
        mean_face = mean_ratio(ratios, kept, shapes.mirror, completion)
        refined_face = shapes.refine @ mean_face
        reference = np.where(ears[:, None], 1.0, refined_face)  # hair before ears must not pass for ears
        kept = skin_test(ratios, seen, reference, doubtful, regions, shapes)
    mean_face = mean_ratio(ratios, kept, shapes.mirror, completion)
    refined_face = shapes.refine @ mean_face
    albedos = np.empty((len(ratios), len(mean_face), 3))
    for p, (ratio, keep, weight) in enumerate(zip(ratios, kept, samples.weights, strict=True)):
        albedos[p] = tones[p] * mean_face * completion(ratio / refined_face, keep * weight)
    visible = shading.copy()
    visible[~(seen & core)] = np.nan
    return Delit(
        albedos=albedos,
        tones=tones,
        mean_face=mean_face,
        shading_range=np.nanpercentile(visible, [1, 99], axis=1).T,
        kept=kept.sum(axis=1) / seen.sum(axis=1),
    )


def fitted_shading(
    samples: Samples, tones: NDArray[np.float64], core: NDArray[np.bool_], lit: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(P, N) shading of every photo, clipped to `SHADING_RANGE`, median 1 over its well-seen `core` skin.

    The part common to all photos is fitted to the wider skin `lit` and has n_z³ and n_z⁴ beside the nine harmonics: the
    studio's light falls off towards grazing normals faster than these can.
    """
    basis = harmonics(samples.normals_opengl.astype(np.float64))
    luminance = (samples.colors / tones[:, None]) @ LUMINANCE
    well_seen = (samples.weights > 0.3) & lit
    towards = samples.normals_opengl[..., 2:].astype(np.float64)
    wide = np.concatenate([basis, towards**3, towards**4], axis=-1)
    mean_basis = wide[:, lit].mean(axis=0)
    use = well_seen[:, lit].sum(axis=0) >= MIN_FACES
    typical = np.ones(len(use))
    typical[use] = np.nanmedian(np.where(well_seen, luminance, np.nan)[:, lit][:, use], axis=0)
    common = np.linalg.lstsq(mean_basis[use], typical[use], rcond=None)[0]
    reference = np.where(use, typical / (mean_basis @ common), 1.0)
    shading = np.empty(luminance.shape)
    for p in range(len(luminance)):
        at = well_seen[p, lit]
        h, target = basis[p, lit][at], (luminance[p, lit] / reference)[at]
        target = target - wide[p, lit][at] @ common
        deviation = np.zeros(9)
        prior = np.diag([0.0] + [1 / DEVIATION_SIGMA**2] * 8) * len(target) / 1000
        for _ in range(6):  # Huber: moles, beards and make-up are no light
            weight = 1 / np.maximum(np.abs(target - h @ deviation) / 0.06, 1.0)
            deviation = np.linalg.solve((h * weight[:, None]).T @ h + prior, (h * weight[:, None]).T @ target)
        s = np.clip(wide[p] @ common + basis[p] @ deviation, *SHADING_RANGE)
        shading[p] = s / np.median(s[core & (samples.weights[p] > 0.6)])
    return shading


def mean_ratio(
    ratios: NDArray[np.floating], kept: NDArray[np.bool_], mirror: NDArray[np.int32], completion: Completion
) -> NDArray[np.float64]:
    """(N0, 3) median over photos and both sides, continued smoothly where fewer than `MIN_FACES` show a vertex."""
    both = np.where(kept[..., None], ratios, np.nan)
    count = kept.sum(axis=0)
    known = count + count[mirror] >= 2 * MIN_FACES
    median = np.ones((len(known), 3))
    index = np.flatnonzero(known)
    median[index] = np.nanmedian(np.concatenate([both[:, index], both[:, mirror[index]]]), axis=0)
    weights = known * np.minimum((count + count[mirror]) / len(ratios), 1.0)
    return completion(median, weights, fallback=1e-6)


def skin_test(
    ratios: NDArray[np.floating],
    seen: NDArray[np.bool_],
    mean_face: NDArray[np.float64],
    doubtful: NDArray[np.bool_],
    regions: NDArray[np.uint8],
    shapes: Shapes,
) -> NDArray[np.bool_]:
    """(P, N) which samples to keep: in `doubtful` places, those of this person's skin colour, less two rings.

    A brow whose surroundings are mostly hair is dropped as well.
    """
    logarithm = np.log(np.maximum(ratios, 1e-3) / mean_face)
    light = logarithm @ LUMINANCE
    chroma = np.abs(logarithm - light[..., None]).max(axis=2)
    hair = (light < np.log(RATIO_LOW)) | (light > np.log(RATIO_HIGH)) | (chroma > CHROMA_LIMIT)
    bad = seen & doubtful & hair
    edges = edges_from_triangles(shapes.triangles)
    for _ in range(2):
        grown = bad.copy()
        for a, b in (edges.T, edges.T[::-1]):
            grown[:, a] |= bad[:, b]
        bad = grown & doubtful
    x, y, _ = shapes.mean.T
    for name, side in (("left_brow", 1), ("right_brow", -1)):
        brow = region_mask(regions, name)
        above = region_mask(regions, "skin") & (side * x > 10) & (side * x < 55) & (y > 55) & (y < 72)
        covered = bad[:, above].mean(axis=1) > 0.5
        bad |= covered[:, None] & brow
    return seen & ~bad


def tone_balance(tones: NDArray[np.float64], bandwidth: float = 0.06) -> NDArray[np.float64]:
    """(P,) PCA weights ∝ density^−½ of the tone's luminance, so that rare tones count for more."""
    light = tones @ LUMINANCE
    density = np.exp(-0.5 * ((light[:, None] - light) / bandwidth) ** 2).mean(axis=1)
    return density**-0.5 / (density**-0.5).mean()


def vertex_areas(vertices: NDArray[np.floating], triangles: NDArray[np.int32]) -> NDArray[np.float64]:
    """(N0,) a third of the area of each vertex's triangles, mm²."""
    a, b, c = vertices.astype(np.float64)[triangles].transpose(1, 0, 2)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 6
    return np.bincount(triangles.reshape(-1), np.repeat(area, 3), len(vertices))


def principal_modes(
    albedos: NDArray[np.float64], sample_weights: NDArray[np.float64], vertex_weights: NDArray[np.float64], n_modes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weighted PCA.

    Parameters
    ----------
    albedos : (P, N0, 3) float64
    sample_weights : (P,) float64
    vertex_weights : (N0,) float64
        Importance of each vertex in the inner product.

    Returns
    -------
    mean : (N0, 3) float64
    basis : (N0, 3, n_modes) float64
        Scaled: a coefficient of 1 is one standard deviation. Signs: positive coefficients make the face brighter.
    variance : (P,) float64
        All eigenvalues, in weighted units.
    """
    share = sample_weights / sample_weights.sum()
    mean = np.tensordot(share, albedos, 1)
    centred = (albedos - mean) * np.sqrt(share)[:, None, None]
    weighted = (centred * np.sqrt(vertex_weights)[:, None]).reshape(len(albedos), -1)
    variance, vectors = np.linalg.eigh(weighted @ weighted.T)
    variance, vectors = variance[::-1], vectors[:, ::-1]
    basis = np.tensordot(vectors[:, :n_modes].T, centred, 1).transpose(1, 2, 0)  # (N0, 3, K): C ᵀV = U S
    signs = np.sign(np.einsum("n,nck->k", vertex_weights, basis))
    return mean, basis * np.where(signs == 0, 1, signs), variance
