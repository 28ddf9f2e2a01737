"""The morphable model and its midpoint subdivision (CONVENTIONS.md §5), by dictionaries and loops."""

import numpy as np


def edges_of(triangles):
    return sorted({(min(p, q), max(p, q)) for a, b, c in triangles.tolist() for p, q in ((a, b), (b, c), (c, a))})


def refine(arrays):
    """The refined mesh as a dictionary with the same keys (bases in float64)."""
    coarse = arrays["triangles"]
    n = len(arrays["mean_shape"])
    edges = edges_of(coarse)
    number = {edge: n + k for k, edge in enumerate(edges)}

    def midpoint(p, q):
        return number[min(p, q), max(p, q)]

    def points(values):
        values = values.astype(float)
        return np.concatenate([values, [(values[p] + values[q]) / 2 for p, q in edges]])

    triangles, uv = [], []
    for (a, b, c), (ua, ub, uc) in zip(coarse.tolist(), arrays["uv"].astype(float), strict=True):
        ab, bc, ca = midpoint(a, b), midpoint(b, c), midpoint(c, a)
        triangles += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        uab, ubc, uca = (ua + ub) / 2, (ub + uc) / 2, (uc + ua) / 2
        uv += [(ua, uab, uca), (ub, ubc, uab), (uc, uca, ubc), (uab, ubc, uca)]
    mirror, regions = arrays["mirror"].tolist(), arrays["regions"].tolist()
    names = ["mean_shape", "identity_basis", "expression_basis", "mean_albedo", "albedo_basis"]
    return {name: points(arrays[name]) for name in names} | {
        "triangles": np.array(triangles),
        "uv": np.array(uv),
        "regions": np.array(regions + [regions[p] for p, _ in edges]),
        "mirror": np.array(mirror + [midpoint(mirror[p], mirror[q]) for p, q in edges]),
    }


def shapes(refined, identity, expression):
    """(F, N, 3) mm, model frame."""
    moved = refined["identity_basis"] @ identity.T.astype(float) + refined["expression_basis"] @ expression.T.astype(
        float
    )
    return refined["mean_shape"] + moved.transpose(2, 0, 1)


def albedos(refined, albedo):
    """(F, N, 3) sRGB-encoded."""
    return refined["mean_albedo"] + (refined["albedo_basis"] @ albedo.T.astype(float)).transpose(2, 0, 1)
