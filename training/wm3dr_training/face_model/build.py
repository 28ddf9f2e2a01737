"""One command from ICT-FaceKit Light and the London photos to the default face-model file and its report."""

import json
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wm3dr.face_model import FaceModelMetadata, write_face_model

from ..data.correspondence import load_correspondence
from .albedo import Delit, Samples, delight, principal_modes, tone_balance, vertex_areas
from .geometry import Geometry, annotated_landmarks, edges_from_triangles, load_geometry, refined_triangles
from .london import Photo, load_photos, observations_of
from .regions import JAW_LINE_ZY, REGION_NAMES, region_labels, region_mask
from .registration import Fit, Observations, Shapes, fit_photo, interior_edges, shapes_from_geometry
from .report import write_report
from .sampling import sample_photo
from .skin_tones import BioSkin, tone_ratios

MODEL_NAME = "wm3dr-face"
N_ALBEDO = 80
TONE_COPIES = 2
SOURCES = (
    "Geometry and blendshapes: ICT-FaceKit Light, Copyright (c) 2020 USC Institute for Creative Technologies, MIT, "
    "https://github.com/ICT-VGL/ICT-FaceKit",
    "Albedo: Face Research Lab London Set, Lisa DeBruine and Benedict Jones, 2017, CC-BY 4.0, "
    "https://doi.org/10.6084/m9.figshare.5047666; vertex colours sampled, light removed, principal components",
    "Range of skin tones: BioSkin, Copyright (c) Meta Platforms, Inc. and affiliates, MIT, "
    "https://github.com/facebookresearch/BioSkin",
)


def contour_region(shapes: Shapes, regions: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N,) refined vertices that may lie on the jaw's silhouette: a strip along the jaw line."""
    _, y, z = shapes.mean.T
    strip = np.abs(y - np.interp(z, *np.transpose(JAW_LINE_ZY))) < 25
    return region_mask(regions, "skin", "neck") & strip & (y < -20) & (y > -100) & (z > -60)


def register(
    shapes: Shapes, geometry: Geometry, regions: NDArray[np.uint8], photos: list[Photo]
) -> tuple[list[Fit], list[Observations]]:
    """Fit every photo; returns the fits and what they were fitted to."""
    edges = interior_edges(shapes.triangles, contour_region(shapes, regions))
    correspondence = load_correspondence()
    correspondence.require_mesh(MODEL_NAME, len(geometry.mean_shape), geometry.triangles)
    observations = [observations_of(photo, geometry.landmark_vertices, correspondence) for photo in photos]
    fits = [
        fit_photo(shapes, seen, edges, photo.size, photo.expression)
        for photo, seen in tqdm(list(zip(photos, observations, strict=True)), desc="registering")
    ]
    return fits, observations


def sample_photos(photos: list[Photo], fits: list[Fit], observations: list[Observations], shapes: Shapes) -> Samples:
    """Colours of the refined vertices in all photos."""
    parts = [sample_photo(p, f, shapes, o) for p, f, o in zip(photos, fits, observations, strict=True)]
    return Samples(*(np.stack(part).astype(np.float32) for part in zip(*parts, strict=True)))


def face_model_arrays(
    geometry: Geometry,
    regions: NDArray[np.uint8],
    mean_albedo: NDArray[np.float64],
    albedo_basis: NDArray[np.float64],
) -> tuple[FaceModelMetadata, dict[str, NDArray]]:
    """Metadata and arrays of the file (CONVENTIONS.md §5)."""
    arrays = {
        "mean_shape": geometry.mean_shape.astype(np.float32),
        "identity_basis": geometry.identity_basis.astype(np.float16),
        "expression_basis": geometry.expression_basis.astype(np.float16),
        "mean_albedo": mean_albedo.astype(np.float32),
        "albedo_basis": albedo_basis.astype(np.float16),
        "triangles": geometry.triangles.astype(np.int32),
        "landmark_vertices": annotated_landmarks(),
        "uv": geometry.uv.astype(np.float32),
        "regions": regions.astype(np.uint8),
        "mirror": geometry.mirror.astype(np.int32),
    }
    metadata = FaceModelMetadata(
        name=MODEL_NAME,
        licence="MIT (geometry) and CC-BY-4.0 (albedo)",
        sources=SOURCES,
        subdivisions=1,
        expression_names=geometry.expression_names,
        expression_kind="blendshape",
        region_names=REGION_NAMES,
    )
    return metadata, {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def learn_albedo(
    geometry: Geometry, shapes: Shapes, regions: NDArray[np.uint8], samples: Samples, bioskin: BioSkin
) -> tuple[Delit, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Delight, complete, PCA: the completed photos, mean (N0, 3), basis (N0, 3, 80) and all eigenvalues."""
    delit = delight(samples, geometry, shapes, regions)
    ratios = tone_ratios(bioskin, delit.tones, TONE_COPIES)
    albedos = np.concatenate([delit.albedos, *(delit.albedos * ratio[:, None] for ratio in ratios)])
    weights = np.tile(tone_balance(delit.tones), 1 + TONE_COPIES)
    areas = vertex_areas(geometry.mean_shape, geometry.triangles)
    return delit, *principal_modes(albedos, weights, areas, N_ALBEDO)


@click.command("build-face-model")
@click.option("--ict", required=True, type=click.Path(path_type=Path), help="ict_facekit_light.npz")
@click.option("--london", required=True, type=click.Path(path_type=Path), help="london.zip, with london.npz beside it")
@click.option(
    "--landmarks",
    type=click.Path(path_type=Path),
    help="london.npz as `wm3dr-train label` writes it: names (P,), landmarks478 (P, 478, 3) px. "
    "Without it only the neutral photos, whose points were set by hand, are used.",
)
@click.option("--bioskin", required=True, type=click.Path(path_type=Path), help="BioSkinRGB.pt")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="the face model, *.safetensors")
@click.option("--report", "report_dir", type=click.Path(path_type=Path), help="folder for pictures and figures")
def build_face_model(
    ict: Path, london: Path, landmarks: Path | None, bioskin: Path, out: Path, report_dir: Path | None
) -> None:
    """Build the default face model: ICT-FaceKit geometry and an albedo basis from the London photos."""
    for option, path in (("--ict", ict), ("--london", london), ("--landmarks", landmarks), ("--bioskin", bioskin)):
        if path is not None and not path.is_file():
            raise click.ClickException(f"{option}: {path} does not exist or is no file")
    geometry = load_geometry(ict)
    labels = region_labels(geometry.mean_shape, geometry.triangles, geometry.landmark_vertices)
    refined = refined_triangles(geometry.triangles, len(geometry.mean_shape))
    refined_labels = np.concatenate([labels, labels[edges_from_triangles(geometry.triangles)[:, 0]]])
    shapes = shapes_from_geometry(geometry, refined)
    photos = load_photos(london, landmarks)
    click.echo(f"{len(photos)} photos; {len(shapes.mean)} vertices, {len(refined)} triangles; registering")
    fits, observations = register(shapes, geometry, refined_labels, photos)
    click.echo("sampling …")
    samples = sample_photos(photos, fits, observations, shapes)
    click.echo("albedo …")
    delit, mean_albedo, albedo_basis, variance = learn_albedo(
        geometry, shapes, refined_labels, samples, BioSkin(bioskin)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_face_model(out, *face_model_arrays(geometry, labels, mean_albedo, albedo_basis))
    click.echo(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")
    if report_dir is not None:
        figures = write_report(
            report_dir,
            geometry,
            annotated_landmarks(),
            labels,
            mean_albedo,
            albedo_basis,
            variance,
            delit,
            shapes,
            fits,
            observations,
            photos,
        )
        click.echo(json.dumps(figures, indent=1))
