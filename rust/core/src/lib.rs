//! Faces in 3D from an encoder's maps: peaks, morphable model, camera, shading and a rasterizer.
//!
//! Frames, units and layouts are those of `CONVENTIONS.md`. The stages, in the order in which a photo passes them:
//! [`peaks`] → [`coefficients`] → [`pose`] → [`FaceModel`] → [`camera`] → [`mesh`] → [`color_fit`] → [`illumination`] → [`raster`], [`shade`]. A stage
//! takes plain slices, checks them, and returns owned vectors; none keeps state between calls. Results do not depend on
//! the number of threads.

mod basis;
mod check;
mod error;
mod face_model;
mod parallel;
mod patches;
mod simd;
mod subdivision;

pub mod camera;
pub mod coefficients;
pub mod color_fit;
pub mod illumination;
pub mod mesh;
pub mod peaks;
pub mod pose;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_variables))] // its kernels are for x86-64
pub mod quantized;
pub mod raster;
pub mod shade;

pub use error::{Error, Result};
pub use face_model::{FaceModel, FaceModelParts, LANDMARKS};
pub use parallel::{MAX_THREADS, resolve_threads};
