//! The box of a projected mesh without most of its vertices.
//!
//! The stored vertices lie in patches of [`PATCH`] neighbours. One vertex of each patch, its centre, is decoded for every
//! face. The others are no farther from it than `|m_i − m_c| + Σ_k |c_k| |b_ik − b_ck|` (m mean shape, b basis, c
//! coefficients); the largest of a patch is kept per column, so that this radius is a small decoding of its own. A
//! patch is decoded in full only where its ball reaches beyond what is known of the box so far: one in twenty of a
//! photo's faces. Nothing else is left out, so the box is that of all vertices.

use half::f16;
use wide::f32x4;

use crate::basis::{PackedBasis, ROWS};
use crate::camera::{moved, projected};
use crate::error::Result;
use crate::parallel;

/// Vertices of a patch: as many as a block of the basis has rows for.
const PATCH: usize = ROWS / 3;

/// Share of a length, in the units of the decoded values, that float32 may have rounded away.
const ROUNDED: f32 = 1e-5;

/// The patches of a face model.
#[derive(Debug)]
pub(crate) struct Patches {
    /// Rows x of all centres, then y, then z.
    centers: PackedBasis,
    /// A row per patch, to be decoded with the absolute values of the coefficients.
    radii: PackedBasis,
    /// A block per patch: its vertices, then rows that are not looked at.
    members: PackedBasis,
    /// Vertices of each patch.
    sizes: Vec<usize>,
}

/// How F faces stand in their camera.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed<'a> {
    /// Row-major, model → camera.
    pub(crate) rotations: &'a [[f32; 9]],
    /// mm.
    pub(crate) translations: &'a [[f32; 3]],
    /// Pixels.
    pub(crate) focal: f32,
    /// Pixels.
    pub(crate) principal_point: [f32; 2],
}

impl Patches {
    /// Cuts the `mean` shape into patches; `shape` is its basis, three rows per vertex.
    pub(crate) fn new(mean: &[[f32; 3]], shape: &PackedBasis) -> Self {
        let mut order: Vec<usize> = (0..mean.len()).collect();
        let mut patches = Vec::new();
        cut(mean, &mut order, PATCH, &mut patches);
        let centers: Vec<_> = patches.iter().map(|patch| central(mean, patch)).collect();
        let axes = (0..3).flat_map(|axis| centers.iter().map(move |&c| 3 * c + axis)).collect::<Vec<_>>();
        let rows = patches.iter().zip(&centers).flat_map(|(patch, &center)| {
            let own = patch.iter().flat_map(|v| [3 * v, 3 * v + 1, 3 * v + 2]);
            own.chain(std::iter::repeat(3 * center)).take(ROWS)
        });
        let members = shape.select(rows.collect::<Vec<_>>().into_iter());
        let (mut lengths, mut widths) = (Vec::new(), Vec::new());
        for (number, (patch, center)) in patches.iter().zip(&centers).enumerate() {
            let at = patch.iter().position(|v| v == center).unwrap_or(0);
            let farthest = |values: &[f32; ROWS]| {
                let points = values.as_chunks::<3>().0;
                points[..patch.len()].iter().map(|p| square_distance(p, &points[at])).fold(0.0, f32::max).sqrt()
            };
            let (mean, columns) = members.block(number);
            lengths.push(farthest(mean));
            widths.extend(columns.map(|column| rounded_up(farthest(&column))));
        }
        Self {
            centers: shape.select(axes.into_iter()),
            radii: PackedBasis::new(&lengths, &[(&widths, shape.columns())]),
            members,
            sizes: patches.iter().map(Vec::len).collect(),
        }
    }

    /// Writes the boxes `(x0, y0, x1, y1)` of F faces, not a number where a vertex has Z ≤ 0. `coefficients` is
    /// `(F, columns)`; the caller has checked everything.
    pub(crate) fn boxes(
        &self,
        coefficients: &[f32],
        placed: &Placed<'_>,
        out: &mut [[f32; 4]],
        threads: usize,
    ) -> Result<()> {
        let columns = self.members.columns();
        let most = PackedBasis::most_faces();
        // So little is left to do for a few faces that to wake a thread would take longer.
        let threads = parallel::resolve_threads(threads)?.min(out.len().div_ceil(most).max(1));
        parallel::for_each(threads, out.chunks_mut(most).enumerate(), |(group, out)| {
            let first = group * most;
            let coefficients = &coefficients[first * columns..(first + out.len()) * columns];
            let sizes: Vec<f32> = coefficients.iter().map(|c| c.abs()).collect();
            let centers = self.centers.decoded(coefficients, out.len());
            let radii = self.radii.decoded(&sizes, out.len());
            let count = self.sizes.len();
            for (face, out) in out.iter_mut().enumerate() {
                let coefficients = &coefficients[face * columns..(face + 1) * columns];
                let centers = &centers[face * 3 * count..(face + 1) * 3 * count];
                let radii = &radii[face * count..(face + 1) * count];
                *out = self.box_of(coefficients, centers, radii, placed, first + face);
            }
        })
    }

    fn box_of(
        &self,
        coefficients: &[f32],
        centers: &[f32],
        radii: &[f32],
        placed: &Placed<'_>,
        face: usize,
    ) -> [f32; 4] {
        let count = self.sizes.len();
        let motion = (&placed.rotations[face], &placed.translations[face]);
        let (x, (y, z)) = (&centers[..count], centers[count..].split_at(count));
        let balls: Vec<_> =
            (0..count).map(|p| Ball::new(moved([x[p], y[p], z[p]], motion.0, motion.1), radii[p])).collect();
        let mut extent = Extent::NONE;
        for ball in &balls {
            extent.take_in(ball.center, placed);
        }
        let decode = |patch: usize, extent: &mut Extent| {
            let rows = self.members.decoded_block(patch, coefficients);
            for &vertex in &rows.as_chunks::<3>().0[..self.sizes[patch]] {
                extent.take_in(moved(vertex, motion.0, motion.1), placed);
            }
        };
        // The patch that may reach farthest on each side gives nearly the box; few others are left then.
        for patch in farthest(&balls, &extent.sides(placed)) {
            decode(patch, &mut extent);
        }
        let mut sides = extent.sides(placed);
        for (patch, ball) in balls.iter().enumerate() {
            if ball.may_matter(&sides) {
                decode(patch, &mut extent);
                sides = extent.sides(placed);
            }
        }
        let Extent { low, high, nearest } = extent;
        if nearest > 0.0 { [low[0], low[1], high[0], high[1]] } else { [f32::NAN; 4] }
    }
}

/// A patch in the camera frame.
struct Ball {
    center: [f32; 3],
    radius: f32,
}

/// The sides of a box (right, left, bottom, top) as planes through the camera: `x·X + y·Y + z·Z > 0` is outside.
struct Sides {
    x: f32x4,
    y: f32x4,
    z: f32x4,
    /// Lengths of the planes' normals.
    length: f32x4,
}

impl Ball {
    fn new(center: [f32; 3], radius: f32) -> Self {
        let scale = center[0].abs() + center[1].abs() + center[2].abs();
        Self { center, radius: radius + ROUNDED * (radius + scale) }
    }

    /// How far the ball reaches beyond each side, times the length of the side's normal.
    #[inline(always)]
    fn reaches(&self, sides: &Sides) -> f32x4 {
        let [x, y, z] = self.center.map(f32x4::splat);
        sides.x * x + sides.y * y + sides.z * z + sides.length * f32x4::splat(self.radius)
    }

    /// Whether a point of the ball may be outside the box or behind the camera. What is no number may be.
    #[inline(always)]
    fn may_matter(&self, sides: &Sides) -> bool {
        !(self.reaches(sides).simd_le(f32x4::splat(0.0)).all() & (self.radius < self.center[2]))
    }
}

/// The ball that reaches farthest beyond each side.
fn farthest(balls: &[Ball], sides: &Sides) -> [usize; 4] {
    let (mut best, mut found) = (f32x4::splat(f32::NEG_INFINITY), f32x4::splat(0.0));
    for (number, ball) in balls.iter().enumerate() {
        let reaches = ball.reaches(sides);
        let more = reaches.simd_gt(best);
        best = more.select(reaches, best);
        found = more.select(f32x4::splat(number as f32), found);
    }
    found.to_array().map(|number| (number as usize).min(balls.len() - 1))
}

/// What is known of a box, and the smallest Z.
struct Extent {
    low: [f32; 2],
    high: [f32; 2],
    nearest: f32,
}

impl Extent {
    const NONE: Self = Self { low: [f32::INFINITY; 2], high: [f32::NEG_INFINITY; 2], nearest: f32::INFINITY };

    #[inline(always)]
    fn take_in(&mut self, point: [f32; 3], placed: &Placed<'_>) {
        let [x, y] = projected(point, placed.focal, placed.principal_point);
        self.low = [self.low[0].min(x), self.low[1].min(y)];
        self.high = [self.high[0].max(x), self.high[1].max(y)];
        self.nearest = self.nearest.min(point[2]);
    }

    fn sides(&self, placed: &Placed<'_>) -> Sides {
        let slope = |axis: usize, at: f32| (at - placed.principal_point[axis]) / placed.focal;
        let slopes = [slope(0, self.high[0]), slope(0, self.low[0]), slope(1, self.high[1]), slope(1, self.low[1])];
        Sides {
            x: f32x4::new([1.0, -1.0, 0.0, 0.0]),
            y: f32x4::new([0.0, 0.0, 1.0, -1.0]),
            z: f32x4::new([-slopes[0], slopes[1], -slopes[2], slopes[3]]),
            length: f32x4::new(slopes.map(|slope| (1.0 + slope * slope).sqrt())),
        }
    }
}

/// Cuts `order` across its widest direction until at most `size` vertices are left.
pub(crate) fn cut(mean: &[[f32; 3]], order: &mut [usize], size: usize, patches: &mut Vec<Vec<usize>>) {
    if order.len() <= size {
        return patches.push(order.to_vec());
    }
    let width = |axis: usize| {
        let values = || order.iter().map(|&v| mean[v][axis]);
        values().fold(f32::NEG_INFINITY, f32::max) - values().fold(f32::INFINITY, f32::min)
    };
    let axis = if width(0) >= width(1).max(width(2)) { 0 } else { 1 + usize::from(width(2) > width(1)) };
    let half = order.len().div_ceil(size) / 2 * size;
    order.select_nth_unstable_by(half, |&a, &b| mean[a][axis].total_cmp(&mean[b][axis]).then(a.cmp(&b)));
    let (left, right) = order.split_at_mut(half);
    cut(mean, left, size, patches);
    cut(mean, right, size, patches);
}

/// The vertex of a patch that is nearest to its middle.
fn central(mean: &[[f32; 3]], patch: &[usize]) -> usize {
    let middle = std::array::from_fn(|axis| patch.iter().map(|&v| mean[v][axis]).sum::<f32>() / patch.len() as f32);
    let distance = |v: usize| square_distance(&mean[v], &middle);
    patch.iter().copied().min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
}

fn square_distance(a: &[f32; 3], b: &[f32; 3]) -> f32 {
    (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2) + (a[2] - b[2]).powi(2)
}

/// The next half-precision number that is not smaller.
fn rounded_up(value: f32) -> f16 {
    let rounded = f16::from_f32(value);
    if rounded.to_f32() >= value { rounded } else { f16::from_bits(rounded.to_bits() + 1) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COLUMNS: usize = 6;
    const FOCAL: f32 = 1015.0;
    const CENTRE: [f32; 2] = [301.0, 188.5];

    /// A bulging sheet whose basis bends it, plus noise of the given size that no neighbour shares.
    fn model(side: usize, noise: f32) -> (Vec<[f32; 3]>, PackedBasis) {
        let mean: Vec<[f32; 3]> = (0..side * side)
            .map(|i| {
                let [x, y] = [i % side, i / side].map(|v| (v as f32 / (side - 1) as f32 - 0.5) * 180.0);
                [x, 1.2 * y, 60.0 - 0.006 * (x * x + y * y)]
            })
            .collect();
        let value = |row: usize, k: usize| {
            let [x, y, _] = mean[row / 3];
            let wave = ((k + 1) as f32 * 0.01 * (x + 0.7 * y) + (row % 3) as f32).sin();
            let own = ((row * 7919 + k * 104_729) % 997) as f32 / 997.0 - 0.5;
            f16::from_f32(4.0 * wave + noise * own)
        };
        let values: Vec<_> = (0..3 * mean.len()).flat_map(|r| (0..COLUMNS).map(move |k| (r, k))).collect();
        let values: Vec<_> = values.into_iter().map(|(r, k)| value(r, k)).collect();
        let basis = PackedBasis::new(mean.as_flattened(), &[(&values, COLUMNS)]);
        (mean, basis)
    }

    fn box_of_all(basis: &PackedBasis, coefficients: &[f32], placed: &Placed<'_>, face: usize) -> [f32; 4] {
        let mut extent = Extent::NONE;
        for &vertex in basis.decoded(coefficients, 1).as_chunks::<3>().0 {
            extent.take_in(moved(vertex, &placed.rotations[face], &placed.translations[face]), placed);
        }
        [extent.low[0], extent.low[1], extent.high[0], extent.high[1]]
    }

    proptest! {
        #[test]
        fn the_box_is_that_of_all_vertices(
            side in 2usize..25, noise in prop_oneof![Just(0.0f32), Just(0.3), Just(30.0)], faces in 1usize..15,
            seed in 0u32..1000
        ) {
            let (mean, basis) = model(side, noise);
            let patches = Patches::new(&mean, &basis);
            prop_assert_eq!(patches.sizes.iter().sum::<usize>(), mean.len());
            let number = |i: usize| ((i as u32 * 7919 + seed * 613) % 1009) as f32 / 504.5 - 1.0;
            let coefficients: Vec<_> = (0..faces * COLUMNS).map(|i| 2.0 * number(i)).collect();
            let vectors: Vec<_> = (0..faces).map(|f| std::array::from_fn(|i| 1.5 * number(3 * f + i + 7))).collect();
            let rotations = crate::pose::rotations_from_vectors(&vectors, None).unwrap();
            let translations: Vec<_> =
                (0..faces).map(|f| [400.0 * number(f + 31), 300.0 * number(f + 77), 900.0 + 300.0 * number(f)]).collect();
            let placed =
                Placed { rotations: &rotations, translations: &translations, focal: FOCAL, principal_point: CENTRE };
            for threads in [1, 2] {
                let mut out = vec![[0.0; 4]; faces];
                patches.boxes(&coefficients, &placed, &mut out, threads).unwrap();
                for (face, found) in out.iter().enumerate() {
                    let own = &coefficients[face * COLUMNS..][..COLUMNS];
                    prop_assert_eq!(*found, box_of_all(&basis, own, &placed, face));
                }
            }
        }
    }

    #[test]
    fn one_vertex_behind_the_camera_is_found() {
        let (mut mean, _) = model(30, 0.0);
        mean[437][2] = 500.0; // one patch reaches far out of the others
        let none: [f16; 0] = [];
        let patches = Patches::new(&mean, &PackedBasis::new(mean.as_flattened(), &[(&none, 0)]));
        let turned = [[1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0]];
        for (z, behind) in [(501.0, false), (499.0, true)] {
            let placed =
                Placed { rotations: &turned, translations: &[[0.0, 0.0, z]], focal: FOCAL, principal_point: CENTRE };
            let mut out = [[0.0; 4]];
            patches.boxes(&[], &placed, &mut out, 1).unwrap();
            assert_eq!(out[0][0].is_nan(), behind);
        }
    }

    #[test]
    fn halves_are_rounded_up() {
        for value in [0.0, 1e-9, 1.0, 1.0004, 3.001, 70_000.0] {
            assert!(rounded_up(value).to_f32() >= value);
        }
    }
}
