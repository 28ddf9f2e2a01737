//! Which triangle each pixel sees (CONVENTIONS.md §7).
//!
//! One depth buffer serves all faces. Four steps, each parallel: project the vertices and snap them to 1/256 pixel; drop
//! triangles that face away or miss every pixel centre, prepare the rest, four at a time ([`facet`]), and sort them into
//! bands of rows ([`bins`]); draw each band ([`kernel`]), keeping only inverse depth and which triangle; while the band is in
//! the cache, turn that into barycentrics and depth, and into colours if asked to ([`resolve`]). Other attributes are
//! interpolated afterwards, once per pixel ([`interpolate`]). A mesh refined from a stored one is drawn as that one; which
//! part of a triangle a pixel sees follows from the weights ([`split`]).
//!
//! Edge functions are exact integers, so a pixel centre on a shared edge belongs to exactly one of its triangles. A
//! band's triangles are drawn in the order (face, triangle) and replace only what is farther, so that the result does not
//! depend on bands or threads.

mod bins;
mod facet;
mod interpolate;
mod kernel;
mod resolve;
mod split;

use std::mem::MaybeUninit;

use crate::error::{Error, Result};
use crate::{check, parallel, simd};
use bins::{Bins, Sort};
use facet::Corner;
use resolve::{Draw, Rows};

pub use interpolate::{RasterView, interpolate};

/// Triangles that reach nearer than this (mm) are dropped.
pub const NEAR_MM: f32 = 1.0;

/// Longest side of a raster, pixels.
pub const MAX_SIDE: usize = 32768;

/// Rows that one thread draws at a time.
const BAND_ROWS: usize = 32;

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

/// Meshes with the same triangles.
#[derive(Debug, Clone, Copy)]
pub struct Meshes<'a> {
    /// `(faces, N, 3)` mm, camera frame.
    pub vertices_camera: &'a [[f32; 3]],
    /// How many there are.
    pub faces: usize,
    /// `(T, 3)`, counter-clockwise seen from outside.
    pub triangles: &'a [[i32; 3]],
    /// Whether the result speaks of the mesh that is refined once from this one (CONVENTIONS.md §5).
    pub split: bool,
}

/// A pinhole camera and its image.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Focal length, pixels.
    pub focal: f32,
    /// Where the optical axis meets the image, pixels.
    pub principal_point: [f32; 2],
    /// Width and height, pixels.
    pub size: [usize; 2],
}

/// What the meshes look like.
pub trait Shader: Sync {
    /// The colours of a triangle of a face, as it is numbered in the meshes. Asked about triangles of which a pixel is seen
    /// only, more than once perhaps; to be inlined.
    fn shade(&self, face: usize, triangle: usize) -> Patch;
}

/// Of no colour.
struct Plain;

impl Shader for Plain {
    fn shade(&self, _: usize, _: usize) -> Patch {
        Patch::default()
    }
}

/// RGB, 0 to 1, at the corners a, b, c of a triangle and, where meshes are split, at the midpoints of ab, bc, ca; a lane to
/// spare.
pub type Patch = [[f32; 4]; 6];

/// Draws meshes with one depth buffer.
///
/// # Errors
/// Lengths that do not fit, a non-finite value, an index out of range, an empty or too large size, a focal length that is
/// not positive, too many threads.
pub fn rasterize(meshes: &Meshes, view: &View, threads: usize) -> Result<Raster> {
    Ok(draw(meshes, view, None::<&Plain>, threads)?.0)
}

/// Draws meshes with one depth buffer, and their colours `(H, W)` RGB, 0 where there is nothing.
///
/// # Errors
/// As [`rasterize`].
pub fn render(meshes: &Meshes, view: &View, shader: &impl Shader, threads: usize) -> Result<(Raster, Vec<[u8; 3]>)> {
    draw(meshes, view, Some(shader), threads)
}

fn draw<S: Shader>(meshes: &Meshes, view: &View, shader: Option<&S>, threads: usize) -> Result<(Raster, Vec<[u8; 3]>)> {
    let &Meshes { vertices_camera, faces, triangles, split } = meshes;
    let &View { focal, principal_point, size } = view;
    let n = check::per_face("vertices_camera", vertices_camera.len(), faces)?;
    check::camera(focal, principal_point)?;
    check_size(size)?;
    check_count(faces, triangles.len())?;
    if faces > 0 {
        check::indices("triangles", triangles.as_flattened(), n)?;
    }
    if split {
        split::check_count(triangles.len())?;
    }
    let [width, height] = size;
    let camera = facet::Camera { focal, principal_point };
    let per_face = triangles.len().div_ceil(TRIANGLES_PER_PART);
    let mut bins: Vec<Bins> = Vec::new();
    bins.resize_with(faces * per_face, Bins::default);
    // What is projected is used at once, while it is in the cache; few faces are projected once for each run of triangles.
    let together = if faces < parallel::resolve_threads(threads)? { 1 } else { per_face.max(1) };
    if bins.is_empty() {
        check::finite("vertices_camera", vertices_camera.as_flattened())?;
    }
    let checked = check::Parts::new();
    parallel::for_each(threads, bins.chunks_mut(together).enumerate(), |(task, bins)| {
        let (face, first_run) = (task * together / per_face, task * together % per_face);
        let vertices = &vertices_camera[face * n..(face + 1) * n];
        if !checked.finite(3 * n * face, vertices.as_flattened()) {
            return;
        }
        let mut corners = vec![Corner::default(); n];
        simd::run(facet::Project { vertices, camera: &camera, corners: &mut corners });
        for (run, bins) in (first_run..).zip(bins) {
            let first = run * TRIANGLES_PER_PART;
            let triangles = &triangles[first..(first + TRIANGLES_PER_PART).min(triangles.len())];
            simd::run(Sort { bins, triangles, corners: &corners, first: [face, first], size });
        }
    })?;
    checked.result("vertices_camera")?;

    let pixels = width * height;
    let (mut triangle_id, mut face_id) = (Vec::with_capacity(pixels), Vec::with_capacity(pixels));
    let (mut depth, mut barycentric) = (Vec::with_capacity(pixels), Vec::with_capacity(pixels));
    let colored = if shader.is_some() { pixels } else { 0 };
    let mut color = Vec::with_capacity(colored);
    let band = BAND_ROWS * width;
    let rows = (room(&mut triangle_id, pixels, band).zip(room(&mut face_id, pixels, band)))
        .zip(room(&mut depth, pixels, band).zip(room(&mut barycentric, pixels, band)));
    let rows = rows.zip(room(&mut color, colored, band).map(Some).chain(std::iter::repeat_with(|| None)));
    parallel::for_each(
        threads,
        rows.enumerate(),
        |(number, (((triangle_id, face_id), (depth, barycentric)), color))| {
            let out = Rows { triangle_id, face_id, depth, barycentric, color: color.unwrap_or_default() };
            simd::run(Draw { bins: &bins, number, top: number * BAND_ROWS, width, out, split, shader });
        },
    )?;
    // SAFETY: the room of each vector is as long as what it is set to, and the kernel writes every pixel of every band.
    unsafe {
        triangle_id.set_len(pixels);
        face_id.set_len(pixels);
        depth.set_len(pixels);
        barycentric.set_len(pixels);
        color.set_len(colored);
    }
    Ok((Raster { size, triangle_id, face_id, depth, barycentric }, color))
}

/// What a vector has room for, `band` values at a time. Results are megabytes: to fill them with zeros first costs as much
/// as drawing a small face.
fn room<T>(values: &mut Vec<T>, count: usize, band: usize) -> std::slice::ChunksMut<'_, MaybeUninit<T>> {
    values.spare_capacity_mut()[..count].chunks_mut(band)
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
