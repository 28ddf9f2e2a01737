//! Vertex normals (CONVENTIONS.md §6).

use wide::f32x4;

use crate::error::Result;
use crate::simd::{Kernel, Lanes, point};
use crate::{check, parallel};

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
fn triangle_normal([a, b, c]: [[f32; 3]; 3]) -> [f32; 3] {
    let p = [b[0] - a[0], b[1] - a[1], b[2] - a[2]];
    let q = [c[0] - a[0], c[1] - a[1], c[2] - a[2]];
    let normal = [p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]];
    normalised(normal, f32::MIN_POSITIVE)
}

#[inline(always)]
fn add(sum: &mut [f32; 3], v: [f32; 3]) {
    *sum = [sum[0] + v[0], sum[1] + v[1], sum[2] + v[2]];
}

/// A sum of unit normals shorter than this is what rounding leaves of normals that cancel.
const CANCELLED: f32 = 1e-5;

/// Normalises a sum of unit normals.
#[inline(always)]
fn normalise_sum(sum: &mut [f32; 3]) {
    *sum = normalised(*sum, CANCELLED * CANCELLED);
}

/// `v` at length 1, or 0 if its square is below `least`.
#[inline(always)]
pub(crate) fn normalised(v: [f32; 3], least: f32) -> [f32; 3] {
    let square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
    let scale = if square >= least { 1.0 / square.sqrt() } else { 0.0 };
    [v[0] * scale, v[1] * scale, v[2] * scale]
}

/// The triangles at each vertex, in ascending order.
#[derive(Debug)]
pub(crate) struct Around {
    triangles: Vec<u32>,
    /// Where each vertex starts in `triangles`, and the end.
    starts: Vec<u32>,
}

impl Around {
    /// Of pairs (triangle, vertex), the triangles ascending.
    pub(crate) fn new(vertices: usize, pairs: impl Iterator<Item = (usize, i32)> + Clone) -> Self {
        let mut starts = vec![0; vertices + 1];
        for (_, vertex) in pairs.clone() {
            starts[vertex as usize + 1] += 1;
        }
        let mut total = 0;
        for start in &mut starts {
            total += *start;
            *start = total;
        }
        let mut next = starts.clone();
        let mut triangles = vec![0; total as usize];
        for (triangle, vertex) in pairs {
            let at = &mut next[vertex as usize];
            triangles[*at as usize] = triangle as u32;
            *at += 1;
        }
        Self { triangles, starts }
    }

    /// The triangles at a vertex.
    pub(crate) fn at(&self, vertex: usize) -> &[u32] {
        &self.triangles[self.starts[vertex] as usize..self.starts[vertex + 1] as usize]
    }
}

/// The triangles at each of four neighbouring vertices, one of each at a time. Where a vertex has fewer than its neighbours
/// the rest is the number of triangles: a place for nothing, so that the loop over a four has as many turns as most others.
#[derive(Debug)]
pub(crate) struct Fours {
    triangles: Vec<[u32; 4]>,
    /// Where each four starts in `triangles`, and the end.
    starts: Vec<u32>,
}

impl Fours {
    /// Of so many vertices and triangles.
    pub(crate) fn new(around: &Around, vertices: usize, triangles: usize) -> Self {
        let mut out = Self { triangles: Vec::new(), starts: vec![0] };
        for first in (0..vertices).step_by(4) {
            let own: [&[u32]; 4] =
                std::array::from_fn(|l| if first + l < vertices { around.at(first + l) } else { Default::default() });
            let most = own.iter().map(|triangles| triangles.len()).max().unwrap_or(0).next_multiple_of(2);
            out.triangles.extend((0..most).map(|k| own.map(|own| *own.get(k).unwrap_or(&(triangles as u32)))));
            out.starts.push(out.triangles.len() as u32);
        }
        out
    }
}

/// Normals at the first vertices of one mesh: those of the triangles first, then each vertex gathers its own. To scatter them
/// from the triangles would read and write every vertex several times.
pub(crate) struct Normals<'a> {
    /// Flat, three coordinates each.
    pub(crate) vertices: &'a [f32],
    pub(crate) triangles: &'a [[i32; 3]],
    pub(crate) around: &'a Fours,
    /// Of as many vertices as it has room for.
    pub(crate) out: &'a mut [[f32; 3]],
}

impl Kernel for Normals<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { vertices, triangles, around, out } = self;
        let mut units = Vec::with_capacity(triangles.len() + 4);
        let (fours, rest) = triangles.as_chunks::<4>();
        // Of fewer than four, the first one again.
        let last = rest.first().map(|&first| [0, 1, 2, 3].map(|l| *rest.get(l).unwrap_or(&first)));
        for &four in fours.iter().chain(&last) {
            let [x, y, z] = four_normals(vertices, four);
            units.extend(f32x4::transpose([x, y, z, f32x4::ZERO]));
        }
        units.truncate(triangles.len());
        units.push(f32x4::ZERO);
        for (bounds, out) in around.starts.windows(2).zip(out.chunks_mut(4)) {
            let mut sums = [f32x4::ZERO; 4];
            for &[a, b, c, d] in &around.triangles[bounds[0] as usize..bounds[1] as usize] {
                let four = [units[a as usize], units[b as usize], units[c as usize], units[d as usize]];
                for (sum, unit) in sums.iter_mut().zip(four) {
                    *sum += unit;
                }
            }
            let [x, y, z, _] = f32x4::transpose(sums);
            write_four(normalised_four([x, y, z], CANCELLED * CANCELLED), out);
        }
    }
}

/// The unit normals of four triangles, 0 for one without area.
#[inline(always)]
pub(crate) fn four_normals(vertices: &[f32], [d, e, f, g]: [[i32; 3]; 4]) -> [f32x4; 3] {
    let [ax, ay, az] = points(vertices, [d[0], e[0], f[0], g[0]]);
    let [bx, by, bz] = points(vertices, [d[1], e[1], f[1], g[1]]);
    let [cx, cy, cz] = points(vertices, [d[2], e[2], f[2], g[2]]);
    let (px, py, pz) = (bx - ax, by - ay, bz - az);
    let (qx, qy, qz) = (cx - ax, cy - ay, cz - az);
    normalised_four([py * qz - pz * qy, pz * qx - px * qz, px * qy - py * qx], f32::MIN_POSITIVE)
}

/// Writes as many of four points as there is room for.
#[inline(always)]
pub(crate) fn write_four([x, y, z]: [f32x4; 3], out: &mut [[f32; 3]]) {
    let [a, b, c, d] = f32x4::transpose([x, y, z, f32x4::ZERO]);
    let (a, b, c, d) = (a.to_array(), b.to_array(), c.to_array(), d.to_array());
    if let Some(out) = out.as_flattened_mut().first_chunk_mut::<12>() {
        // The spare lane falls on the next point, which is written after it.
        out[..4].copy_from_slice(&a);
        out[3..7].copy_from_slice(&b);
        out[6..10].copy_from_slice(&c);
        out[9..].copy_from_slice(&d[..3]);
        return;
    }
    for (out, [x, y, z, _]) in out.iter_mut().zip([a, b, c, d]) {
        *out = [x, y, z];
    }
}

/// Normals of four midpoints from those of the triangles on both sides. Twice the same one gives itself.
#[inline(always)]
pub(crate) fn between([ax, ay, az]: [f32x4; 3], [bx, by, bz]: [f32x4; 3]) -> [f32x4; 3] {
    normalised_four([ax + bx, ay + by, az + bz], CANCELLED * CANCELLED)
}

/// Four points, coordinate by coordinate.
#[inline(always)]
pub(crate) fn points(values: &[f32], [a, b, c, d]: [i32; 4]) -> [f32x4; 3] {
    let rows =
        [point(values, a as usize), point(values, b as usize), point(values, c as usize), point(values, d as usize)];
    let [x, y, z, _] = f32x4::transpose(rows);
    [x, y, z]
}

/// [`normalised`] for four.
#[inline(always)]
fn normalised_four([x, y, z]: [f32x4; 3], least: f32) -> [f32x4; 3] {
    let square = x * x + y * y + z * z;
    let scale = (f32x4::splat(1.0) / square.sqrt()) & square.simd_ge(f32x4::splat(least));
    [x * scale, y * scale, z * scale]
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
    fn gathered_normals_are_those_that_are_scattered() {
        // Fans of different sizes, vertices of no triangle, and numbers of both that are no multiples of four.
        for (n, fans) in [(5usize, 1), (14, 3), (30, 9)] {
            let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0;
            let vertices: Vec<[f32; 3]> =
                (0..n).map(|v| [number(3 * v), number(3 * v + 1), number(3 * v + 2)]).collect();
            let fan = |f: usize| (0..f + 2).map(move |k| [f % 3, 3 + (f + k) % (n - 3), 3 + (f + k + 1) % (n - 3)]);
            let triangles: Vec<_> = (0..fans).flat_map(fan).map(|t| t.map(|v| v as i32)).collect();
            let pairs = triangles.iter().enumerate().flat_map(|(k, triangle)| triangle.map(|v| (k, v)));
            let around = Fours::new(&Around::new(n, pairs), n, triangles.len());
            let expected = vertex_normals(&vertices, 1, &triangles, 1).unwrap();
            let mut out = vec![[0.0; 3]; n];
            let vertices = vertices.as_flattened();
            crate::simd::run(Normals { vertices, triangles: &triangles, around: &around, out: &mut out });
            for (got, wanted) in out.as_flattened().iter().zip(expected.as_flattened()) {
                assert!((got - wanted).abs() < 1e-5, "{n}");
            }
        }
    }

    #[test]
    fn a_triangle_without_area_adds_nothing() {
        let vertices = [[0.0; 3], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]];
        assert_eq!(vertex_normals(&vertices, 1, &[[0, 1, 2]], 1).unwrap(), [[0.0; 3]; 3]);
    }
}
