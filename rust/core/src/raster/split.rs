//! From the triangles of a stored mesh to those of the mesh refined from it (CONVENTIONS.md §5).
//!
//! Midpoints are means of their edge's ends, so the four parts of a triangle lie in its plane and cover it: drawing the
//! stored mesh, a quarter of the triangles, and asking afterwards which part each pixel sees gives the same picture.

use wide::{f32x4, i32x4};

use crate::error::{Error, Result};

/// Fails where four times as many triangles could not be numbered.
pub(super) fn check_count(triangles: usize) -> Result<()> {
    if i32::try_from(triangles.saturating_mul(4)).is_err() {
        return Err(Error::value("triangles", triangles, "fewer than 2^29 to be split"));
    }
    Ok(())
}

/// The parts of triangles (a, b, c) that hold the points with these weights, and the weights in them: (a, ab, ca),
/// (b, bc, ab), (c, ca, bc) or (ab, bc, ca).
#[inline(always)]
pub(super) fn part(triangle: i32x4, [a, b, c]: [f32x4; 3]) -> (i32x4, [f32x4; 3]) {
    let (half, one) = (f32x4::splat(0.5), f32x4::splat(1.0));
    let (at_a, at_b, at_c) = (a.simd_ge(half), b.simd_ge(half), c.simd_ge(half));
    let (a, b, c) = (a + a, b + b, c + c);
    // The corner's weight first; in the middle, those of c, a, b, which are opposite to the midpoints.
    let p = at_a.bitselect(a, at_b.bitselect(b, c));
    let q = at_a.bitselect(b, at_b.bitselect(c, a));
    let r = at_a.bitselect(c, at_b.bitselect(a, b));
    let corner = at_a | at_b | at_c;
    let weights = [corner.bitselect(p - one, one - p), corner.bitselect(q, one - q), corner.bitselect(r, one - r)];
    let number = bits(at_c).bitselect(i32x4::splat(2), i32x4::splat(3));
    let number = bits(at_a).bitselect(i32x4::splat(0), bits(at_b).bitselect(i32x4::splat(1), number));
    ((triangle << 2) | number, weights)
}

#[inline(always)]
fn bits(mask: f32x4) -> i32x4 {
    bytemuck::cast(mask)
}
