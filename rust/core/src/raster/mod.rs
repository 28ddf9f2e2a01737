//! Which triangle each pixel sees (CONVENTIONS.md §7).
//!
//! One depth buffer serves all faces. Four steps, each parallel: project the vertices and snap them to 1/256 pixel; drop
//! triangles that face away or miss every pixel centre, copy the rest and sort them into bands of rows ([`bins`]); draw
//! each band ([`kernel`]), keeping only inverse depth and which triangle; while the band is in the cache, turn that into
//! barycentrics and depth. Attributes are interpolated afterwards, once per pixel ([`interpolate`]). A mesh refined from a stored one
//! is drawn as that one; which part of a triangle a pixel sees follows from the weights ([`split`]).
//!
//! Edge functions are exact integers, so a pixel centre on a shared edge belongs to exactly one of its triangles. A
//! band's triangles are drawn in the order (face, triangle) and replace only what is farther, so that the result does not
//! depend on bands or threads.

mod bins;
mod interpolate;
mod kernel;
mod split;

use crate::check;
use crate::error::{Error, Result};
use crate::parallel;
use bins::Bins;
use kernel::Corner;

pub use interpolate::{RasterView, interpolate};
pub use split::split;

/// Triangles that reach nearer than this (mm) are dropped.
pub const NEAR_MM: f32 = 1.0;

/// Longest side of a raster, pixels.
pub const MAX_SIDE: usize = 32768;

/// Rows that one thread draws at a time.
const BAND_ROWS: usize = 32;

/// Vertices that one thread projects at a time.
const VERTICES_PER_PART: usize = 8192;

/// Triangles that one thread sorts at a time.
const TRIANGLES_PER_PART: usize = 8192;

/// What is seen at each pixel, row-major `(height, width)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Raster {
    /// Width and height, pixels.
    pub size: [usize; 2],
    /// The triangle, −1 where there is nothing.
    pub triangle_id: Vec<i32>,
    /// Its face, −1 where there is nothing.
    pub face_id: Vec<i32>,
    /// Camera z in mm, 0 where there is nothing.
    pub depth: Vec<f32>,
    /// Weights of the triangle's corners in space (perspective-correct), 0 where there is nothing.
    pub barycentric: Vec<[f32; 3]>,
}

/// Draws `faces` meshes with the same triangles and one depth buffer. `vertices_camera` is `(faces, N, 3)` mm.
///
/// # Errors
/// Lengths that do not fit, a non-finite value, an index out of range, an empty or too large size, a focal length that is
/// not positive, too many threads.
pub fn rasterize(
    vertices_camera: &[[f32; 3]],
    faces: usize,
    triangles: &[[i32; 3]],
    focal: f32,
    principal_point: [f32; 2],
    size: [usize; 2],
    threads: usize,
) -> Result<Raster> {
    let n = check::per_face("vertices_camera", vertices_camera.len(), faces)?;
    check::finite("vertices_camera", vertices_camera.as_flattened())?;
    check::camera(focal, principal_point)?;
    check_size(size)?;
    check_count(faces, triangles.len())?;
    if faces > 0 {
        check::indices("triangles", triangles.as_flattened(), n)?;
    }
    let [width, height] = size;
    let camera = kernel::Camera { focal, principal_point };
    let mut corners = vec![Corner::default(); vertices_camera.len()];
    let parts = corners.chunks_mut(VERTICES_PER_PART).zip(vertices_camera.chunks(VERTICES_PER_PART));
    parallel::for_each(threads, parts, |(corners, vertices)| kernel::project(vertices, &camera, corners))?;

    let per_face = triangles.len().div_ceil(TRIANGLES_PER_PART);
    let mut bins: Vec<Bins> = Vec::new();
    bins.resize_with(faces * per_face, Bins::default);
    parallel::for_each(threads, bins.iter_mut().enumerate(), |(part, bins)| {
        let (face, first) = (part / per_face, part % per_face * TRIANGLES_PER_PART);
        let last = (first + TRIANGLES_PER_PART).min(triangles.len());
        *bins = Bins::new(&triangles[first..last], &corners[face * n..(face + 1) * n], [face, first], size);
    })?;

    let pixels = width * height;
    let mut raster = Raster {
        size,
        triangle_id: vec![0; pixels],
        face_id: vec![0; pixels],
        depth: vec![0.0; pixels],
        barycentric: vec![[0.0; 3]; pixels],
    };
    let band = BAND_ROWS * width;
    let rows = (raster.triangle_id.chunks_mut(band).zip(raster.face_id.chunks_mut(band)))
        .zip(raster.depth.chunks_mut(band).zip(raster.barycentric.chunks_mut(band)));
    parallel::for_each(threads, rows.enumerate(), |(number, ((triangle_id, face_id), (depth, barycentric)))| {
        let top = number * BAND_ROWS;
        let mut band = kernel::Band { top, width, triangle_id, face_id, depth, barycentric };
        for (part, bins) in bins.iter().enumerate() {
            for (position, facet) in bins.band(number) {
                kernel::draw(facet, (part * TRIANGLES_PER_PART + position) as i32 + 1, &mut band);
            }
        }
        let facet = |number: i32| {
            let number = number as usize - 1;
            bins[number / TRIANGLES_PER_PART].facet(number % TRIANGLES_PER_PART)
        };
        kernel::resolve(facet, band);
    })?;
    Ok(raster)
}

fn check_size([width, height]: [usize; 2]) -> Result<()> {
    let fits = |side| (1..=MAX_SIDE).contains(&side);
    if fits(width) && fits(height) {
        return Ok(());
    }
    Err(Error::value("size", format!("{width} x {height} pixels"), format!("sides of 1 to {MAX_SIDE}")))
}

/// Facets are numbered with 31 bits, in runs of [`TRIANGLES_PER_PART`] for each face.
fn check_count(faces: usize, triangles: usize) -> Result<()> {
    let per_face = triangles.checked_next_multiple_of(TRIANGLES_PER_PART);
    let total = per_face.and_then(|t| t.checked_mul(faces)).filter(|&t| i32::try_from(t).is_ok());
    let got = || format!("{triangles} triangles for {faces} faces");
    total.map(|_| ()).ok_or_else(|| Error::value("triangles", got(), "fewer than 2^31 in all"))
}
