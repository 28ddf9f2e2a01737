//! Vertex attributes carried to the pixels.

use crate::check;
use crate::error::{Error, Result};
use crate::parallel;

/// Pixels that one thread takes at a time.
const PIXELS_PER_PART: usize = 8192;

/// Pixels that are passed over together where all are empty.
const RUN: usize = 16;

/// A raster's numbers and weights, as slices.
#[derive(Debug, Clone, Copy)]
pub struct RasterView<'a> {
    /// Triangle of each pixel, −1 where there is nothing.
    pub triangle_id: &'a [i32],
    /// Face of each pixel, −1 where there is nothing.
    pub face_id: &'a [i32],
    /// Weights of the triangle's corners.
    pub barycentric: &'a [[f32; 3]],
}

/// Attributes `(faces, N, channels)` at each pixel, `(pixels, channels)`, 0 where there is nothing. Values are carried as they
/// are, NaN included.
///
/// # Errors
/// Lengths that do not fit, an index out of range, a pixel with a face and no triangle or the reverse, too many threads.
pub fn interpolate(
    raster: RasterView,
    triangles: &[[i32; 3]],
    attributes: &[f32],
    faces: usize,
    channels: usize,
    threads: usize,
) -> Result<Vec<f32>> {
    let pixels = raster.triangle_id.len();
    check::length("face_id", raster.face_id.len(), pixels, "pixels")?;
    check::length("barycentric", raster.barycentric.len(), pixels, "pixels")?;
    let values = check::per_face("attributes", attributes.len(), faces)?;
    let vertices = if channels == 0 { 0 } else { check::per_face("attributes", values, channels)? };
    if channels > 0 && faces > 0 {
        check::indices("triangles", triangles.as_flattened(), vertices)?;
    }
    check_numbers("triangle_id", raster.triangle_id, triangles.len())?;
    check_numbers("face_id", raster.face_id, faces)?;
    if raster.triangle_id.iter().zip(raster.face_id).fold(false, |bad, (t, f)| bad | ((t ^ f) < 0)) {
        return Err(Error::value("face_id", "a pixel that disagrees with 'triangle_id'", "-1 in both or in neither"));
    }
    let mut out = vec![0.0; pixels * channels];
    if out.is_empty() || faces == 0 {
        return Ok(out);
    }
    let mesh = Mesh { triangles, attributes, vertices };
    let parts = out
        .chunks_mut(PIXELS_PER_PART * channels)
        .zip(raster.triangle_id.chunks(PIXELS_PER_PART).zip(raster.face_id.chunks(PIXELS_PER_PART)))
        .zip(raster.barycentric.chunks(PIXELS_PER_PART));
    parallel::for_each(threads, parts, |((out, (triangle_id, face_id)), barycentric)| {
        let view = RasterView { triangle_id, face_id, barycentric };
        match channels {
            1 => carry::<1>(&mesh, view, out),
            2 => carry::<2>(&mesh, view, out),
            3 => carry::<3>(&mesh, view, out),
            4 => carry::<4>(&mesh, view, out),
            6 => carry::<6>(&mesh, view, out),
            8 => carry::<8>(&mesh, view, out),
            9 => carry::<9>(&mesh, view, out),
            _ => carry_any(&mesh, view, channels, out),
        }
    })?;
    Ok(out)
}

struct Mesh<'a> {
    triangles: &'a [[i32; 3]],
    attributes: &'a [f32],
    vertices: usize,
}

fn carry<const C: usize>(mesh: &Mesh, raster: RasterView, out: &mut [f32]) {
    let attributes = mesh.attributes.as_chunks::<C>().0;
    let runs = raster.triangle_id.chunks(RUN).zip(raster.face_id.chunks(RUN)).zip(raster.barycentric.chunks(RUN));
    for (out, ((triangle_id, face_id), barycentric)) in out.as_chunks_mut::<C>().0.chunks_mut(RUN).zip(runs) {
        // -1 has every bit set, what is drawn has not the highest.
        if triangle_id.iter().fold(-1, |all, id| all & id) < 0 {
            continue;
        }
        let pixels = triangle_id.iter().zip(face_id).zip(barycentric);
        for (out, ((&triangle, &face), weights)) in out.iter_mut().zip(pixels) {
            if triangle < 0 {
                continue;
            }
            let attributes = &attributes[face as usize * mesh.vertices..];
            let [a, b, c] = mesh.triangles[triangle as usize].map(|v| &attributes[v as usize]);
            for i in 0..C {
                out[i] = weights[0] * a[i] + weights[1] * b[i] + weights[2] * c[i];
            }
        }
    }
}

fn carry_any(mesh: &Mesh, raster: RasterView, channels: usize, out: &mut [f32]) {
    let pixels = raster.triangle_id.iter().zip(raster.face_id).zip(raster.barycentric);
    for (out, ((&triangle, &face), weights)) in out.chunks_mut(channels).zip(pixels) {
        if triangle < 0 {
            continue;
        }
        let attributes = &mesh.attributes[face as usize * mesh.vertices * channels..];
        let [a, b, c] = mesh.triangles[triangle as usize].map(|v| &attributes[v as usize * channels..]);
        for (i, out) in out.iter_mut().enumerate() {
            *out = weights[0] * a[i] + weights[1] * b[i] + weights[2] * c[i];
        }
    }
}

/// Every number in `-1..count`.
fn check_numbers(name: &'static str, values: &[i32], count: usize) -> Result<()> {
    let error = |bad| Error::value(name, format!("number {bad}"), format!("-1 or numbers in 0..{count}"));
    check::numbers(values, -1, count).map_err(error)
}
