//! `wm3dr._native`: the core, seen from Python. No arithmetic here; the docstrings live in the Python package.

#![deny(unsafe_code)]

mod arrays;
mod color_fit;
mod errors;
mod face_model;
#[allow(unsafe_code)] // onnxruntime's interface is C
mod onnx_kernels;
mod raster;
mod stages;

use pyo3::prelude::*;

/// Results are megabytes that live for a moment. The C library gives such memory back to the system at once and takes it
/// again page by page, which costs more than most stages; mimalloc keeps it for the next call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// After so many milliseconds mimalloc gives memory back, ten times as many for the largest pieces. Its own 10 ms are less
/// than lie between two frames of a video: a fifth of a call that draws twenty faces was page faults.
const PURGE_DELAY: std::ffi::c_long = 1000;

/// Sets [`PURGE_DELAY`], unless the environment says otherwise.
fn keep_memory() {
    /// `mi_option_purge_delay` of mimalloc.h, which the bindings lack; the same number in its versions 2 and 3.
    const OPTION: libmimalloc_sys::mi_option_t = 15;
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: an option is one number that mimalloc reads; it may be set at any time.
        #[allow(unsafe_code)]
        unsafe {
            libmimalloc_sys::mi_option_set(OPTION, PURGE_DELAY);
        }
    }
}

#[pymodule(gil_used = true)]
mod _native {
    #[pymodule_init]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        super::keep_memory();
        Ok(())
    }

    #[pymodule_export]
    use super::color_fit::PyColorFitter;
    #[pymodule_export]
    use super::errors::ModelError;
    #[pymodule_export]
    use super::face_model::PyFaceModel;
    #[pymodule_export]
    use super::raster::{interpolate, rasterize};
    #[pymodule_export]
    use super::stages::{
        averaged_rows, cell_centers, colors, find_peaks, gather_coefficients, gather_features, has_quantized_kernels,
        neighbourhoods, pose_from_rotations, project, rotations_from_vectors, shading, transform,
        translations_from_offsets, vertex_normals,
    };
}
