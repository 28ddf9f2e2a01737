//! `wm3dr._native`: the core, seen from Python. No arithmetic here; the docstrings live in the Python package.

#![forbid(unsafe_code)]

mod arrays;
mod color_fit;
mod errors;
mod face_model;
mod raster;
mod stages;

use pyo3::prelude::*;

/// Results are megabytes that live for a moment. The C library gives such memory back to the system at once and takes it
/// again page by page, which costs more than most stages; mimalloc keeps it for the next call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use super::color_fit::PyColorFitter;
    #[pymodule_export]
    use super::errors::ModelError;
    #[pymodule_export]
    use super::face_model::PyFaceModel;
    #[pymodule_export]
    use super::raster::{interpolate, rasterize, render};
    #[pymodule_export]
    use super::stages::{
        averaged_rows, cell_centers, colors, find_peaks, gather_coefficients, gather_features, neighbourhoods,
        pose_from_rotations, project, rotations_from_vectors, shading, transform, translations_from_offsets,
        vertex_normals,
    };
}
