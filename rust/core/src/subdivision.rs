//! Midpoint subdivision of a triangle mesh (CONVENTIONS.md §5).
//!
//! Every triangle (a, b, c) is split at its edge midpoints. Refined vertices are the coarse ones, followed by one midpoint
//! per edge in ascending order of (min, max). Averaging is linear, so a basis is decoded on the coarse vertices, a quarter
//! of the refined ones, and only the result is refined.

use wide::f32x4;

use crate::error::Result;
use crate::parallel;
use crate::simd::{self, Kernel, Lanes, point};

/// Midpoints that one thread takes at a time.
const MIDPOINTS_PER_PART: usize = 8192;

/// The midpoints of a mesh: of no edge when the mesh is stored as fine as it is used.
#[derive(Debug, Clone)]
pub(crate) struct Subdivision {
    /// Vertices before.
    coarse: usize,
    /// The ends of each edge, smaller number first.
    edges: Vec<[i32; 2]>,
}

impl Subdivision {
    /// No subdivision of `vertices` vertices.
    pub(crate) fn none(vertices: usize) -> Self {
        Self { coarse: vertices, edges: Vec::new() }
    }

    /// One midpoint for every edge of `triangles`, whose indices the caller has checked.
    pub(crate) fn once(vertices: usize, triangles: &[[i32; 3]]) -> Self {
        let mut edges: Vec<_> = triangles.iter().flat_map(|&t| corners(t)).map(|(a, b)| [a.min(b), a.max(b)]).collect();
        edges.sort_unstable();
        edges.dedup();
        Self { coarse: vertices, edges }
    }

    pub(crate) fn is_none(&self) -> bool {
        self.edges.is_empty()
    }

    /// Vertices before.
    pub(crate) fn coarse(&self) -> usize {
        self.coarse
    }

    /// Vertices after.
    pub(crate) fn refined(&self) -> usize {
        self.coarse + self.edges.len()
    }

    pub(crate) fn edges(&self) -> &[[i32; 2]] {
        &self.edges
    }

    /// The refined number of the midpoint of (a, b), if that is an edge.
    pub(crate) fn midpoint(&self, a: i32, b: i32) -> Option<i32> {
        let edge = self.edges.binary_search(&[a.min(b), a.max(b)]).ok()?;
        i32::try_from(self.coarse + edge).ok()
    }

    /// The coarse vertices whose mean is vertex `vertex` of the refined mesh; the same one twice for a coarse vertex.
    pub(crate) fn ends(&self, vertex: usize) -> [usize; 2] {
        match vertex.checked_sub(self.coarse) {
            None => [vertex; 2],
            Some(edge) => self.edges[edge].map(|v| v as usize),
        }
    }

    /// The midpoints of (a, b), (b, c), (c, a) for each coarse triangle, counted from the first midpoint.
    pub(crate) fn midpoints(&self, coarse: &[[i32; 3]]) -> Vec<[i32; 3]> {
        if self.is_none() {
            return Vec::new();
        }
        let first = self.coarse as i32;
        // Every edge of a coarse triangle has a midpoint.
        let midpoint = |(a, b)| self.midpoint(a, b).map_or(0, |m| m - first);
        coarse.iter().map(|&t| corners(t).map(midpoint)).collect()
    }

    /// Triangle k becomes 4k … 4k+3: (a, ab, ca) (b, bc, ab) (c, ca, bc) (ab, bc, ca).
    pub(crate) fn triangles(&self, coarse: &[[i32; 3]]) -> Vec<[i32; 3]> {
        if self.is_none() {
            return coarse.to_vec();
        }
        let first = self.coarse as i32;
        let split = |(&[a, b, c], midpoints): (&[i32; 3], [i32; 3])| {
            let [ab, bc, ca] = midpoints.map(|m| first + m);
            [[a, ab, ca], [b, bc, ab], [c, ca, bc], [ab, bc, ca]]
        };
        coarse.iter().zip(self.midpoints(coarse)).flat_map(split).collect()
    }

    /// Per-corner values, split like the triangles.
    pub(crate) fn corners(&self, coarse: &[[[f32; 2]; 3]]) -> Vec<[[f32; 2]; 3]> {
        if self.is_none() {
            return coarse.to_vec();
        }
        let mean = |p: [f32; 2], q: [f32; 2]| [0.5 * (p[0] + q[0]), 0.5 * (p[1] + q[1])];
        let split = |&[a, b, c]: &[[f32; 2]; 3]| {
            let (ab, bc, ca) = (mean(a, b), mean(b, c), mean(c, a));
            [[a, ab, ca], [b, bc, ab], [c, ca, bc], [ab, bc, ca]]
        };
        coarse.iter().flat_map(split).collect()
    }

    /// Fills the midpoints of each face; `faces[f]` holds the refined vertices, the coarse ones already there.
    pub(crate) fn refine(&self, faces: &mut [&mut [[f32; 3]]], threads: usize) -> Result<()> {
        let parts = faces.iter_mut().flat_map(|face| {
            let (coarse, midpoints) = face.split_at_mut(self.coarse);
            let coarse: &[[f32; 3]] = coarse;
            midpoints
                .chunks_mut(MIDPOINTS_PER_PART)
                .zip(self.edges.chunks(MIDPOINTS_PER_PART))
                .map(move |(midpoints, edges)| (coarse, midpoints, edges))
        });
        parallel::for_each(threads, parts, |(coarse, midpoints, edges)| {
            simd::run(Middle { coarse: coarse.as_flattened(), edges, midpoints: midpoints.as_flattened_mut() });
        })
    }
}

/// Puts midpoints between the ends of edges.
struct Middle<'a> {
    coarse: &'a [f32],
    edges: &'a [[i32; 2]],
    midpoints: &'a mut [f32],
}

impl Kernel for Middle<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (k, &[a, b]) in self.edges.iter().enumerate() {
            let sum = point(self.coarse, a as usize) + point(self.coarse, b as usize);
            let middle = (sum * f32x4::splat(0.5)).to_array();
            let out = &mut self.midpoints[3 * k..];
            // The spare lane falls on the next midpoint, which is written after this one.
            match out.first_chunk_mut::<4>() {
                Some(out) => *out = middle,
                None => out.copy_from_slice(&middle[..3]),
            }
        }
    }
}

fn corners([a, b, c]: [i32; 3]) -> [(i32, i32); 3] {
    [(a, b), (b, c), (c, a)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_triangles_are_split_as_the_conventions_say() {
        let coarse = [[0, 1, 2], [0, 2, 3]];
        let subdivision = Subdivision::once(4, &coarse);
        assert_eq!(subdivision.edges(), [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3]]);
        assert_eq!(
            subdivision.triangles(&coarse),
            [[0, 4, 5], [1, 7, 4], [2, 5, 7], [4, 7, 5], [0, 5, 6], [2, 8, 5], [3, 6, 8], [5, 8, 6]]
        );
        let mut points = vec![[0.0; 3]; 9];
        points[..4].copy_from_slice(&[[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [2.0, 2.0, 3.0], [0.0, 2.0, 1.0]]);
        for threads in [1, 2, 5] {
            points[4..].fill([f32::NAN; 3]);
            subdivision.refine(&mut [&mut points], threads).unwrap();
            assert_eq!(points[5], [1.0, 1.0, 2.0]);
            assert_eq!(points[7], [2.0, 1.0, 2.0]);
        }
        assert_eq!(subdivision.ends(2), [2, 2]);
        assert_eq!(subdivision.ends(8), [2, 3]);
        assert_eq!(subdivision.midpoint(1, 3), None);
    }

    #[test]
    fn corner_values_follow_the_triangles() {
        let subdivision = Subdivision::once(3, &[[0, 1, 2]]);
        let refined = subdivision.corners(&[[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]);
        assert_eq!(refined[1], [[1.0, 0.0], [0.5, 0.5], [0.5, 0.0]]);
        assert_eq!(refined[3], [[0.5, 0.0], [0.5, 0.5], [0.0, 0.5]]);
    }
}
