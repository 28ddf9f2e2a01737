//! Triangles prepared for drawing: edge functions, pixel box and depths in one cache line.

use wide::{f32x4, i32x4};

use crate::mesh::points;
use crate::simd::{Kernel, Lanes};

/// Steps per pixel of the snapped coordinates.
pub(super) const STEPS: i32 = 256;
const STEP_BITS: i32 = STEPS.trailing_zeros() as i32;

/// Snapped coordinates stay within ±65,536 pixels, where float32 still holds every step.
const FARTHEST: f32 = (1 << 24) as f32;

/// In a triangle whose box is smaller than this (steps), edge functions fit 32 bits, 8 pixels beyond the box too.
const SMALL: i32 = 1 << 14;

/// Triangles that are prepared together.
pub(super) const TOGETHER: usize = 4;

/// Pinhole of the raster.
pub(super) struct Camera {
    pub(super) focal: f32,
    pub(super) principal_point: [f32; 2],
}

/// A projected vertex: x and y in steps; the bits of the inverse depth in 1/mm, or of 0 in front of the near plane; and a
/// lane to spare.
pub(super) type Corner = i32x4;

/// A triangle that is to be drawn. Its corners are turned round to (a, c, b), so that the area and the inside of every edge
/// are positive. Edge i is opposite to corner i; its function at the centre of the first pixel of the box is `value`, and
/// one step down or to the right changes it by `dx` or `−dy`.
///
/// Of a large triangle only ids and box stand here, and its position among the large ones.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Facet {
    /// (value 0, 1, 2, inverse depth a) (dx 0, 1, 2, inverse depth c) (dy 0, 1, 2, inverse depth b) (face, triangle, columns,
    /// rows of the box: first, and last in the upper half; the sign of the columns marks a large triangle)
    pub(super) lines: [i32x4; 4],
}

/// Marks the columns of a large triangle.
const LARGE: i32 = i32::MIN;

/// The corners (a, c, b) of a triangle whose edge functions need 64 bits: steps and inverse depths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Large {
    pub(super) points: [[i32; 2]; 3],
    pub(super) inverse_depths: [f32; 3],
}

impl Facet {
    /// The first and last column and row of the image that it may touch: (x0, x1, y0, y1).
    #[inline(always)]
    pub(super) fn pixel_box(&self) -> [usize; 4] {
        let [_, _, columns, rows] = self.lines[3].to_array();
        let (x1, y1) = ((columns >> 16) & 0x7fff, rows >> 16);
        [(columns & 0xffff) as usize, x1 as usize, (rows & 0xffff) as usize, y1 as usize]
    }

    /// Where it stands among the large ones, if it is large.
    #[inline(always)]
    pub(super) fn large(&self) -> Option<usize> {
        if self.is_large() { Some(self.lines[0].to_array()[0] as usize) } else { None }
    }

    #[inline(always)]
    pub(super) fn is_large(&self) -> bool {
        self.lines[3].to_array()[2] < 0
    }
}

/// Projects camera-frame vertices.
pub(super) struct Project<'a> {
    pub(super) vertices: &'a [[f32; 3]],
    pub(super) camera: &'a Camera,
    pub(super) corners: &'a mut [Corner],
}

impl Kernel for Project<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (focal, [cx, cy]) = (f32x4::splat(self.camera.focal), self.camera.principal_point);
        let (cx, cy) = (f32x4::splat(cx), f32x4::splat(cy));
        let vertices = self.vertices.as_flattened();
        for (k, corners) in self.corners.chunks_mut(4).enumerate() {
            // Beyond the end, the last one again.
            let place = |l: usize| (4 * k + l.min(corners.len() - 1)) as i32;
            let [x, y, z] = points(vertices, [place(0), place(1), place(2), place(3)]);
            let inverse_depth = f32x4::splat(1.0) / z;
            let (u, v) = (cx + focal * x * inverse_depth, cy + focal * y * inverse_depth);
            let there = bits(z.simd_ge(f32x4::splat(super::NEAR_MM)));
            let rows = [snap(u) & there, snap(v) & there, bits(inverse_depth) & there, i32x4::splat(0)];
            corners.copy_from_slice(&transposed(rows)[..corners.len()]);
        }
    }
}

/// The nearest steps, ties to even.
#[inline(always)]
fn snap(pixels: f32x4) -> i32x4 {
    let farthest = f32x4::splat(FARTHEST);
    let steps = pixels * f32x4::splat(STEPS as f32);
    steps.fast_max(f32x4::ZERO - farthest).fast_min(farthest).fast_round_int()
}

/// Four lanes that hold the bits of float32.
#[inline(always)]
pub(super) fn floats(bits: i32x4) -> f32x4 {
    bytemuck::cast(bits)
}

#[inline(always)]
pub(super) fn transposed([a, b, c, d]: [i32x4; 4]) -> [i32x4; 4] {
    let [a, b, c, d] = f32x4::transpose([floats(a), floats(b), floats(c), floats(d)]);
    [bits(a), bits(b), bits(c), bits(d)]
}

#[inline(always)]
fn bits(floats: f32x4) -> i32x4 {
    bytemuck::cast(floats)
}

/// The first pixels whose centres are not before `low` steps, in the image.
#[inline(always)]
fn first_pixel(low: i32x4) -> i32x4 {
    ((low + i32x4::splat(STEPS / 2 - 1)) >> STEP_BITS).max(i32x4::splat(0))
}

/// The last pixels whose centres are not beyond `high` steps, in an image with this side.
#[inline(always)]
fn last_pixel(high: i32x4, side: i32) -> i32x4 {
    ((high - i32x4::splat(STEPS / 2)) >> STEP_BITS).min(i32x4::splat(side - 1))
}

/// From a to b and, at a point, on which side of that it lies: the edge function there.
#[inline(always)]
fn edge([ax, ay]: [i32x4; 2], [bx, by]: [i32x4; 2], [x, y]: [i32x4; 2]) -> [i32x4; 3] {
    let (dx, dy) = (bx - ax, by - ay);
    [dx, dy, dx * (y - ay) - dy * (x - ax)]
}

/// Prepares four triangles, `ids` = the face and the first one's number, of an image of this `size`; bit k tells whether
/// triangle k is to be drawn. That is not so when it faces away, is cut by the near plane or misses every pixel centre of the
/// image (of one with few pixels in its box exactly, of others by the box). None where one of the four is large.
///
/// Counter-clockwise seen from outside is clockwise in coordinates whose y points down: turned round, a positive area.
#[inline(always)]
pub(super) fn prepare(
    corners: &[Corner],
    triangles: &[[i32; 3]; TOGETHER],
    ids: [i32; 2],
    size: [i32; 2],
) -> Option<(i32, [Facet; TOGETHER])> {
    let [[a0, b0, c0], [a1, b1, c1], [a2, b2, c2], [a3, b3, c3]] = *triangles;
    let [ax, ay, az, _] = gathered(corners, [a0, a1, a2, a3]);
    let [bx, by, bz, _] = gathered(corners, [b0, b1, b2, b3]);
    let [cx, cy, cz, _] = gathered(corners, [c0, c1, c2, c3]);
    let (low_x, high_x) = (ax.min(bx).min(cx), ax.max(bx).max(cx));
    let (low_y, high_y) = (ay.min(by).min(cy), ay.max(by).max(cy));
    let longest = (high_x - low_x).max(high_y - low_y);
    if longest.simd_gt(i32x4::splat(SMALL - 1)).any() {
        return None;
    }
    let zero = i32x4::splat(0);
    let area = (cx - ax) * (by - ay) - (cy - ay) * (bx - ax);
    // Inverse depths are not negative, so that their bits are in the order of their values.
    let facing = area.simd_gt(zero) & az.min(bz).min(cz).simd_gt(zero);
    if !facing.any() {
        // The four of most places on the back of a head.
        return Some((0, [Facet { lines: [zero; 4] }; TOGETHER]));
    }
    let (x0, x1) = (first_pixel(low_x), last_pixel(high_x, size[0]));
    let (y0, y1) = (first_pixel(low_y), last_pixel(high_y, size[1]));
    let half = i32x4::splat(STEPS / 2);
    let at = [(x0 << STEP_BITS) + half, (y0 << STEP_BITS) + half];
    let [dx_a, dy_a, value_a] = edge([cx, cy], [bx, by], at);
    let [dx_c, dy_c, value_c] = edge([bx, by], [ax, ay], at);
    let [dx_b, dy_b, value_b] = edge([ax, ay], [cx, cy], at);
    let mut missed = x0.simd_gt(x1) | y0.simd_gt(y1);
    // Most triangles of a small face have no more pixels in their box than two by two, and often lie between their centres.
    let few = !((x1 - x0).simd_gt(i32x4::splat(1)) | (y1 - y0).simd_gt(i32x4::splat(1)));
    let beside = [value_a - (dy_a << STEP_BITS), value_b - (dy_b << STEP_BITS), value_c - (dy_c << STEP_BITS)];
    let [down_a, down_b, down_c] = [dx_a << STEP_BITS, dx_b << STEP_BITS, dx_c << STEP_BITS];
    let below = [value_a + down_a, value_b + down_b, value_c + down_c];
    let across = [beside[0] + down_a, beside[1] + down_b, beside[2] + down_c];
    let outside = |[a, b, c]: [i32x4; 3]| a | b | c;
    let all_outside = outside([value_a, value_b, value_c]) & outside(beside) & outside(below) & outside(across);
    missed |= few & all_outside.is_negative();
    let drawn = facing & !missed;
    if !drawn.any() {
        return Some((0, [Facet { lines: [zero; 4] }; TOGETHER]));
    }
    let numbers = i32x4::splat(ids[1]) + i32x4::new([0, 1, 2, 3]);
    let first = transposed([value_a, value_c, value_b, az]);
    let second = transposed([dx_a, dx_c, dx_b, cz]);
    let third = transposed([dy_a, dy_c, dy_b, bz]);
    let last = transposed([i32x4::splat(ids[0]), numbers, x0 | (x1 << 16), y0 | (y1 << 16)]);
    let facets = [
        Facet { lines: [first[0], second[0], third[0], last[0]] },
        Facet { lines: [first[1], second[1], third[1], last[1]] },
        Facet { lines: [first[2], second[2], third[2], last[2]] },
        Facet { lines: [first[3], second[3], third[3], last[3]] },
    ];
    Some((drawn.to_bitmask() as i32, facets))
}

/// Coordinates and inverse depths of four corners.
#[inline(always)]
fn gathered(corners: &[Corner], [a, b, c, d]: [i32; 4]) -> [i32x4; 4] {
    transposed([corners[a as usize], corners[b as usize], corners[c as usize], corners[d as usize]])
}

/// [`prepare`] for one triangle of any size; `position` is where it will stand if it is large. None where it is not to be
/// drawn.
pub(super) fn prepare_one(
    corners: &[Corner],
    triangle: [i32; 3],
    ids: [i32; 2],
    size: [i32; 2],
    position: usize,
) -> Option<(Facet, Option<Large>)> {
    if let Some((drawn, facets)) = prepare(corners, &[triangle; TOGETHER], ids, size) {
        return (drawn & 1 != 0).then_some((facets[0], None));
    }
    let [a, b, c] = triangle.map(|v| corners[v as usize].to_array());
    let points = [a, c, b].map(|[x, y, ..]| [x, y]);
    let inverse_depths = [a, c, b].map(|[_, _, bits, _]| f32::from_bits(bits as u32));
    let [[ax, ay], [cx, cy], [bx, by]] = points.map(|p| p.map(i64::from));
    let area = (cx - ax) * (by - ay) - (cy - ay) * (bx - ax);
    let span = |axis: usize| {
        let at = points.map(|p| p[axis]);
        let (low, high) = (at[0].min(at[1]).min(at[2]), at[0].max(at[1]).max(at[2]));
        (((low + STEPS / 2 - 1) >> STEP_BITS).max(0), ((high - STEPS / 2) >> STEP_BITS).min(size[axis] - 1))
    };
    let ((x0, x1), (y0, y1)) = (span(0), span(1));
    if area <= 0 || x0 > x1 || y0 > y1 || inverse_depths.iter().any(|&z| z <= 0.0) {
        return None;
    }
    let place = i32x4::new([position as i32, 0, 0, 0]);
    let last = i32x4::new([ids[0], ids[1], x0 | (x1 << 16) | LARGE, y0 | (y1 << 16)]);
    Some((Facet { lines: [place, i32x4::splat(0), i32x4::splat(0), last] }, Some(Large { points, inverse_depths })))
}
