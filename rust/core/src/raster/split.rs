//! From the triangles of a stored mesh to those of the mesh refined from it (CONVENTIONS.md §5).
//!
//! Midpoints are means of their edge's ends, so the four parts of a triangle lie in its plane and cover it: drawing the
//! stored mesh, a quarter of the triangles, and asking afterwards which part each pixel sees gives the same picture.

use super::Raster;
use crate::error::{Error, Result};
use crate::parallel;

/// Pixels that one thread takes at a time.
const PIXELS_PER_PART: usize = 16384;

/// Pixels that are passed over together where all are empty.
const RUN: usize = 16;

/// Numbers and weights of the stored triangles become those of their parts.
///
/// # Errors
/// `triangles`, the number of stored triangles, is too large for four times as many; too many threads.
pub fn split(raster: &mut Raster, triangles: usize, threads: usize) -> Result<()> {
    if i32::try_from(triangles.saturating_mul(4)).is_err() {
        return Err(Error::value("triangles", triangles, "fewer than 2^29 to be split"));
    }
    let parts = raster.triangle_id.chunks_mut(PIXELS_PER_PART).zip(raster.barycentric.chunks_mut(PIXELS_PER_PART));
    parallel::for_each(threads, parts, |(triangle_id, barycentric)| {
        for (triangle_id, barycentric) in triangle_id.chunks_mut(RUN).zip(barycentric.chunks_mut(RUN)) {
            if triangle_id.iter().fold(-1, |all, id| all & id) == -1 {
                continue;
            }
            for (id, weights) in triangle_id.iter_mut().zip(barycentric).filter(|(id, _)| **id >= 0) {
                (*id, *weights) = part(*id, *weights);
            }
        }
    })
}

/// The part of a triangle (a, b, c) that holds the point with these weights, and the weights in it: (a, ab, ca), (b, bc, ab),
/// (c, ca, bc) or (ab, bc, ca).
#[inline(always)]
fn part(triangle: i32, [a, b, c]: [f32; 3]) -> (i32, [f32; 3]) {
    let first = 4 * triangle;
    if a >= 0.5 {
        (first, [2.0 * a - 1.0, 2.0 * b, 2.0 * c])
    } else if b >= 0.5 {
        (first + 1, [2.0 * b - 1.0, 2.0 * c, 2.0 * a])
    } else if c >= 0.5 {
        (first + 2, [2.0 * c - 1.0, 2.0 * a, 2.0 * b])
    } else {
        (first + 3, [1.0 - 2.0 * c, 1.0 - 2.0 * a, 1.0 - 2.0 * b])
    }
}
