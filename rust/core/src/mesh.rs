//! Vertex normals (CONVENTIONS.md §6).

use crate::check;
use crate::error::Result;
use crate::parallel;

/// Unit normals `(F, N, 3)` of F meshes with the same triangles, in the frame of the vertices: at each vertex the normalised
/// sum of the unit normals `(b − a) × (c − a)` of its triangles. A vertex of no triangle, or whose normals cancel, gets 0.
///
/// # Errors
/// Lengths that do not fit, a non-finite value, an index out of range, too many threads.
pub fn vertex_normals(
    vertices: &[[f32; 3]],
    faces: usize,
    triangles: &[[i32; 3]],
    threads: usize,
) -> Result<Vec<[f32; 3]>> {
    let n = check::per_face("vertices", vertices.len(), faces)?;
    check::finite("vertices", vertices.as_flattened())?;
    if n > 0 {
        check::indices("triangles", triangles.as_flattened(), n)?;
    }
    let mut out = vec![[0.0; 3]; vertices.len()];
    if n == 0 {
        return Ok(out);
    }
    parallel::for_each(threads, out.chunks_mut(n).zip(vertices.chunks(n)), |(normals, vertices)| {
        for triangle in triangles {
            let corners = triangle.map(|v| vertices[v as usize]);
            let normal = triangle_normal(corners);
            for &v in triangle {
                add(&mut normals[v as usize], normal);
            }
        }
        normals.iter_mut().for_each(normalise_sum);
    })?;
    Ok(out)
}

/// The unit normal of a triangle, 0 for one without area.
#[inline(always)]
pub(crate) fn triangle_normal([a, b, c]: [[f32; 3]; 3]) -> [f32; 3] {
    let p = [b[0] - a[0], b[1] - a[1], b[2] - a[2]];
    let q = [c[0] - a[0], c[1] - a[1], c[2] - a[2]];
    let normal = [p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]];
    normalised(normal, f32::MIN_POSITIVE)
}

#[inline(always)]
pub(crate) fn add(sum: &mut [f32; 3], v: [f32; 3]) {
    *sum = [sum[0] + v[0], sum[1] + v[1], sum[2] + v[2]];
}

/// A sum of unit normals shorter than this is what rounding leaves of normals that cancel.
const CANCELLED: f32 = 1e-5;

/// Normalises a sum of unit normals.
#[inline(always)]
pub(crate) fn normalise_sum(sum: &mut [f32; 3]) {
    *sum = normalised(*sum, CANCELLED * CANCELLED);
}

/// `v` at length 1, or 0 if its square is below `least`.
#[inline(always)]
fn normalised(v: [f32; 3], least: f32) -> [f32; 3] {
    let square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
    let scale = if square >= least { 1.0 / square.sqrt() } else { 0.0 };
    [v[0] * scale, v[1] * scale, v[2] * scale]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roof_has_the_mean_normal_on_its_ridge() {
        // Two slopes that meet along y at a right angle; the left one twice as large, which must not matter.
        let vertices = [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [2.0, 0.0, -2.0], [-4.0, 0.0, -4.0], [9.0, 9.0, 9.0]];
        let triangles = [[0, 2, 1], [0, 1, 3]];
        let both = [vertices, vertices.map(|v| [v[0], v[1], -v[2]])].concat();
        let one = vertex_normals(&both, 2, &triangles, 1).unwrap();
        let expected = [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.5f32.sqrt(), 0.0, 0.5f32.sqrt()]];
        for (got, wanted) in one.iter().zip(expected) {
            for (a, b) in got.iter().zip(wanted) {
                assert!((a - b).abs() < 1e-6, "{one:?}");
            }
        }
        assert_eq!(one[4], [0.0; 3]);
        assert!((one[5][2] - 1.0).abs() < 1e-6);
        for threads in [2, 5] {
            assert_eq!(vertex_normals(&both, 2, &triangles, threads).unwrap(), one);
        }
    }

    #[test]
    fn a_triangle_without_area_adds_nothing() {
        let vertices = [[0.0; 3], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]];
        assert_eq!(vertex_normals(&vertices, 1, &[[0, 1, 2]], 1).unwrap(), [[0.0; 3]; 3]);
    }
}
