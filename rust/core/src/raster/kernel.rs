//! The hot loops of the rasterizer. Slices in, slices out; nothing here fails.
//!
//! A face has about as many triangles as it covers pixels, so what counts is the work per triangle: few instructions, no
//! unpredictable branches, memory in order. Gathering corners where pixels are resolved instead of copying them, or testing
//! pixels one by one, costs 1.3 to 1.6 times as much on the whole.

use wide::{f32x4, i32x4};

/// Steps per pixel of the snapped coordinates.
const STEPS: i32 = 256;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Snapped coordinates stay within ±65,536 pixels, where float32 still holds every step.
const FARTHEST: f32 = (1 << 24) as f32;

/// In a triangle whose box is smaller than this (steps), edge functions fit 32 bits, [`LANES`] pixels beyond the box too.
const SMALL: f32 = (1 << 14) as f32;

/// In a triangle whose box is smaller than this (steps), products of differences are whole numbers up to 2^24, exact in float32.
const TINY: f32 = (1 << 12) as f32;

/// Pixels of a row that are passed over together where all are empty.
const RUN: usize = 16;

/// Pixels of a row, or triangles, that are tested together: one register on every target.
pub(super) const LANES: usize = 4;

/// Pinhole of the raster.
pub(super) struct Camera {
    pub(super) focal: f32,
    pub(super) principal_point: [f32; 2],
}

/// A projected vertex: x and y in steps, whole numbers; inverse depth in 1/mm, or 0 in front of the near plane; and a lane to
/// spare.
pub(super) type Corner = f32x4;

/// A triangle that is to be drawn, in one cache line. Its corners are copied, so that drawing reads memory in order, and turned
/// round to (a, c, b), so that the area and the inside of every edge are positive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facet {
    corners: [Corner; 3],
    /// The longer side of its box, steps.
    longer_side: f32,
    /// Face and triangle.
    ids: [i32; 2],
}

impl Facet {
    #[inline(always)]
    pub(super) fn new(corners: &[Corner], triangle: &[i32; 3], ids: [i32; 2]) -> Self {
        let [a, b, c] = triangle.map(|v| corners[v as usize]);
        let [width, height, ..] = (a.fast_max(b).fast_max(c) - a.fast_min(b).fast_min(c)).to_array();
        Self { corners: [a, c, b], longer_side: width.max(height), ids }
    }

    /// The first and last row of the image that it may touch.
    #[inline(always)]
    pub(super) fn rows(&self, size: [i32; 2]) -> [usize; 2] {
        let [_, y0, _, y1] = pixel_box(&self.corners, size);
        [y0 as usize, y1 as usize]
    }
}

/// The box of the pixels (x0, y0, x1, y1) of an image whose centres lie in the box of the corners; empty when first > last.
#[inline(always)]
fn pixel_box([a, b, c]: &[Corner; 3], [width, height]: [i32; 2]) -> [i32; 4] {
    let (low, high) = (a.fast_min(*b).fast_min(*c), a.fast_max(*b).fast_max(*c));
    let first = first_centre(low).to_array();
    let last = last_centre(high).to_array();
    [first[0].max(0), first[1].max(0), last[0].min(width - 1), last[1].min(height - 1)]
}

/// The first pixels whose centres are not below `low` steps.
#[inline(always)]
fn first_centre(low: f32x4) -> i32x4 {
    (low.fast_trunc_int() + i32x4::splat(STEPS / 2 - 1)) >> STEP_BITS as i32
}

/// The last pixels whose centres are not above `high` steps.
#[inline(always)]
fn last_centre(high: f32x4) -> i32x4 {
    (high.fast_trunc_int() - i32x4::splat(STEPS / 2)) >> STEP_BITS as i32
}

/// Some rows of the result. While they are drawn, `triangle_id` holds the number of the facet, from 1, and `depth` its
/// inverse; 0 where there is nothing.
pub(super) struct Band<'a> {
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) triangle_id: &'a mut [i32],
    pub(super) face_id: &'a mut [i32],
    pub(super) depth: &'a mut [f32],
    pub(super) barycentric: &'a mut [[f32; 3]],
}

impl Band<'_> {
    fn bottom(&self) -> usize {
        self.top + self.depth.len() / self.width
    }
}

/// The nearest step, ties to even. Adding 1.5 · 2^52 rounds to whole numbers; `round` is a library call on some targets.
#[inline(always)]
fn snap(pixels: f32) -> f32 {
    const WHOLE: f64 = 1.5 * (1u64 << 52) as f64;
    let steps = (pixels * STEPS as f32).clamp(-FARTHEST, FARTHEST);
    ((f64::from(steps) + WHOLE) - WHOLE) as f32
}

/// Projects camera-frame vertices.
pub(super) fn project(vertices: &[[f32; 3]], camera: &Camera, corners: &mut [Corner]) {
    let [cx, cy] = camera.principal_point;
    for (corner, &[x, y, z]) in corners.iter_mut().zip(vertices) {
        let inverse_depth = 1.0 / z;
        let (u, v) = (cx + camera.focal * x * inverse_depth, cy + camera.focal * y * inverse_depth);
        *corner = if z < super::NEAR_MM {
            Corner::new([0.0; 4])
        } else {
            Corner::new([snap(u), snap(v), inverse_depth, 0.0])
        };
    }
}

/// Which triangles are to be drawn, one bit each: not those that face away, are cut by the near plane or miss every pixel centre
/// of the image.
///
/// Counter-clockwise seen from outside is clockwise in coordinates whose y points down: a negative area.
#[inline(always)]
pub(super) fn drawn(corners: &[Corner], triangles: &[[i32; 3]; LANES], size: [i32; 2]) -> u32 {
    let corner = |k: usize| f32x4::transpose(std::array::from_fn(|l| corners[triangles[l][k] as usize]));
    let ([ax, ay, az, _], [bx, by, bz, _], [cx, cy, cz, _]) = (corner(0), corner(1), corner(2));
    let (low_x, high_x) = (ax.fast_min(bx).fast_min(cx), ax.fast_max(bx).fast_max(cx));
    let (low_y, high_y) = (ay.fast_min(by).fast_min(cy), ay.fast_max(by).fast_max(cy));
    let longest = (high_x - low_x).fast_max(high_y - low_y);
    if !longest.simd_lt(f32x4::splat(TINY)).all() {
        let bit = |l: usize| u32::from(is_drawn(corners, &triangles[l], size)) << l;
        return (0..LANES).map(bit).sum();
    }
    // Exact: products of differences of tiny triangles.
    let area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
    let zero = f32x4::splat(0.0);
    let end = size.map(|side| f32x4::splat((side * STEPS - 1) as f32));
    let beside = first_centre(low_x.fast_max(zero)).simd_gt(last_centre(high_x.fast_min(end[0])));
    let above = first_centre(low_y.fast_max(zero)).simd_gt(last_centre(high_y.fast_min(end[1])));
    let missed: f32x4 = bytemuck::cast(beside | above);
    let kept = area.simd_lt(zero) & az.fast_min(bz).fast_min(cz).simd_gt(zero);
    kept.to_bitmask() & !missed.to_bitmask()
}

/// [`drawn`] for one triangle of any size. Differences are exact in float32, their products in float64.
pub(super) fn is_drawn(corners: &[Corner], triangle: &[i32; 3], size: [i32; 2]) -> bool {
    let corners = triangle.map(|v| corners[v as usize]);
    let [x0, y0, x1, y1] = pixel_box(&corners, size);
    let [a, b, c] = corners;
    let nearest = a.fast_min(b).fast_min(c).to_array()[2];
    let ([px, py, ..], [qx, qy, ..]) = ((b - a).to_array(), (c - a).to_array());
    let area = f64::from(px) * f64::from(qy) - f64::from(py) * f64::from(qx);
    nearest > 0.0 && x0 <= x1 && y0 <= y1 && area < 0.0
}

/// Draws the part of a facet that lies in a band, under the given number.
#[inline(always)]
pub(super) fn draw(facet: &Facet, number: i32, band: &mut Band) {
    let [x0, y0, x1, y1] =
        pixel_box(&facet.corners, [band.width as i32, band.bottom() as i32]).map(|side| side as usize);
    let y0 = y0.max(band.top);
    // Lanes that overhang must do so on the left: to the right of the image the triangle may go on.
    let blocks = (x1 - x0) / LANES + 1;
    if facet.longer_side < SMALL && blocks * LANES <= band.width {
        let x0 = x0.min(band.width - blocks * LANES);
        fill_small(&facet.corners, &Pixels { x0, x1, y0, y1, number }, blocks, band);
    } else {
        fill_large(&facet.corners, &Pixels { x0, x1, y0, y1, number }, band);
    }
}

/// The box of pixels to test, and what to write.
struct Pixels {
    x0: usize,
    x1: usize,
    y0: usize,
    y1: usize,
    number: i32,
}

/// A pixel's centre, in steps.
#[inline(always)]
fn centre(pixel: usize) -> i32 {
    pixel as i32 * STEPS + STEPS / 2
}

/// Whether the top-left rule leaves out an edge with this direction. It keeps edges that go up (left ones) and those that
/// run to the right (top ones).
#[inline(always)]
fn leaves_out(dx: i32, dy: i32) -> bool {
    !((dy < 0) | ((dy == 0) & (dx > 0)))
}

/// Draws a triangle whose edge functions fit 32 bits, [`LANES`] pixels at a time and without branches within them: most
/// triangles of a face are a few pixels large, and a mispredicted branch costs as much as four pixels.
#[inline(always)]
fn fill_small(corners: &[Corner; 3], pixels: &Pixels, blocks: usize, band: &mut Band) {
    let points = corners.map(|c| {
        let [x, y, ..] = c.fast_trunc_int().to_array();
        [x, y]
    });
    let (x, y) = (centre(pixels.x0), centre(pixels.y0));
    // The edge opposite to each corner: its value at the first pixel, and the change to the next pixel and row.
    let edges: [[i32; 3]; 3] = std::array::from_fn(|i| {
        let (a, b) = (points[(i + 1) % 3], points[(i + 2) % 3]);
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let value = dx * (y - a[1]) - dy * (x - a[0]) - i32::from(leaves_out(dx, dy));
        [value, -dy * STEPS, dx * STEPS]
    });
    let ([px, py], [qx, qy], [rx, ry]) = (points[0], points[1], points[2]);
    let scale = 1.0 / ((qx - px) * (ry - py) - (qy - py) * (rx - px)) as f32;
    // Inverse depth is linear in the image.
    let depths = corners.map(|c| c.to_array()[2]);
    let (slope_q, slope_r) = ((depths[1] - depths[0]) * scale, (depths[2] - depths[0]) * scale);
    let change = |i: usize| edges[1][i] as f32 * slope_q + edges[2][i] as f32 * slope_r;
    let (right, down) = (f32x4::splat(change(1)), f32x4::splat(change(2)));
    let mut inverse_depth = f32x4::splat(depths[0] + change(0)) + right * f32x4::new([0.0, 1.0, 2.0, 3.0]);

    let lanes = |[value, right, _]: [i32; 3]| i32x4::new([value, value + right, value + 2 * right, value + 3 * right]);
    let mut starts = edges.map(lanes);
    let down_edges = edges.map(|e| i32x4::splat(e[2]));
    let number = i32x4::splat(pixels.number);
    let mut row = (pixels.y0 - band.top) * band.width + pixels.x0;
    for _ in pixels.y0..=pixels.y1 {
        test(&starts, inverse_depth, number, row, band);
        for block in 1..blocks {
            let ahead = block * LANES;
            let values: [i32x4; 3] = std::array::from_fn(|i| starts[i] + i32x4::splat(edges[i][1] * ahead as i32));
            test(&values, inverse_depth + right * f32x4::splat(ahead as f32), number, row + ahead, band);
        }
        row += band.width;
        inverse_depth += down;
        for (start, down) in starts.iter_mut().zip(down_edges) {
            *start += down;
        }
    }
}

/// Replaces what is farther in the lanes whose edge functions are not negative.
#[inline(always)]
fn test(edges: &[i32x4; 3], inverse_depth: f32x4, number: i32x4, at: usize, band: &mut Band) {
    let (Some(numbers), Some(depths)) =
        (band.triangle_id[at..].first_chunk_mut::<LANES>(), band.depth[at..].first_chunk_mut::<LANES>())
    else {
        return;
    };
    let nearest = f32x4::new(*depths);
    let outside: f32x4 = bytemuck::cast((edges[0] | edges[1] | edges[2]).is_negative());
    let keep = outside | nearest.simd_ge(inverse_depth);
    *depths = keep.bitselect(nearest, inverse_depth).to_array();
    *numbers = bytemuck::cast::<_, i32x4>(keep).bitselect(i32x4::new(*numbers), number).to_array();
}

/// Draws any triangle, pixel by pixel.
fn fill_large(corners: &[Corner; 3], pixels: &Pixels, band: &mut Band) {
    let points = corners.map(|c| {
        let [x, y, ..] = c.fast_trunc_int().to_array();
        [x, y]
    });
    let wide = i64::from;
    let edges: [[i64; 3]; 3] = std::array::from_fn(|i| {
        let (a, b) = (points[(i + 1) % 3], points[(i + 2) % 3]);
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let value = wide(dx) * wide(centre(pixels.y0) - a[1]) - wide(dy) * wide(centre(pixels.x0) - a[0]);
        [value - wide(i32::from(leaves_out(dx, dy))), -wide(dy) * wide(STEPS), wide(dx) * wide(STEPS)]
    });
    let ([px, py], [qx, qy], [rx, ry]) = (points[0], points[1], points[2]);
    let scale = 1.0 / (wide(qx - px) * wide(ry - py) - wide(qy - py) * wide(rx - px)) as f32;
    let depths = corners.map(|c| c.to_array()[2]);
    let (slope_q, slope_r) = ((depths[1] - depths[0]) * scale, (depths[2] - depths[0]) * scale);
    let mut starts = edges.map(|e| e[0]);
    let mut row = (pixels.y0 - band.top) * band.width;
    for _ in pixels.y0..=pixels.y1 {
        let range = row + pixels.x0..row + pixels.x1 + 1;
        let [mut p, mut q, mut r] = starts;
        for (number, nearest) in band.triangle_id[range.clone()].iter_mut().zip(&mut band.depth[range]) {
            let inverse_depth = depths[0] + q as f32 * slope_q + r as f32 * slope_r;
            if (p | q | r) >= 0 && inverse_depth > *nearest {
                (*nearest, *number) = (inverse_depth, pixels.number);
            }
            (p, q, r) = (p + edges[0][1], q + edges[1][1], r + edges[2][1]);
        }
        row += band.width;
        for (start, edge) in starts.iter_mut().zip(edges) {
            *start += edge[2];
        }
    }
}

/// Turns numbers and inverse depths into the result; what is left of it is zero before.
#[inline(always)]
pub(super) fn resolve<'a>(facet: impl Fn(i32) -> &'a Facet, band: Band) {
    let rows = (band.triangle_id.chunks_mut(band.width).zip(band.face_id.chunks_mut(band.width)))
        .zip(band.depth.chunks_mut(band.width).zip(band.barycentric.chunks_mut(band.width)));
    for (row, ((triangle_id, face_id), (depth, barycentric))) in rows.enumerate() {
        let y = centre(band.top + row) as f32;
        let runs = triangle_id.chunks_mut(RUN).zip(face_id.chunks_mut(RUN));
        let runs = runs.zip(depth.chunks_mut(RUN).zip(barycentric.chunks_mut(RUN)));
        for (run, ((triangle_id, face_id), (depth, barycentric))) in runs.enumerate() {
            if triangle_id.iter().fold(0, |any, number| any | number) == 0 {
                triangle_id.fill(-1);
                face_id.fill(-1);
                continue;
            }
            let pixels = triangle_id.iter_mut().zip(face_id).zip(depth.iter_mut().zip(barycentric));
            for (column, ((triangle_id, face_id), (depth, barycentric))) in pixels.enumerate() {
                if *triangle_id == 0 {
                    (*triangle_id, *face_id) = (-1, -1);
                    continue;
                }
                let facet = facet(*triangle_id);
                [*face_id, *triangle_id] = facet.ids;
                (*barycentric, *depth) = weights(facet, centre(run * RUN + column) as f32, y);
            }
        }
    }
}

/// Weights of the corners a, b, c in space at a point of the image (steps), and the depth there.
///
/// In the image the weights are areas; multiplied by the corner's inverse depth they are those in space.
#[inline(always)]
fn weights(facet: &Facet, x: f32, y: f32) -> ([f32; 3], f32) {
    let [[ax, ay, a, _], [cx, cy, c, _], [bx, by, b, _]] = facet.corners.map(|p| p.to_array());
    let [ax, ay, bx, by, cx, cy] = [ax - x, ay - y, bx - x, by - y, cx - x, cy - y];
    // Exact either way, hence not negative, and positive in sum.
    let areas = if facet.longer_side < TINY {
        [by * cx - bx * cy, cy * ax - cx * ay, ay * bx - ax * by]
    } else {
        let [ax, ay, bx, by, cx, cy] = [ax, ay, bx, by, cx, cy].map(f64::from);
        [by * cx - bx * cy, cy * ax - cx * ay, ay * bx - ax * by].map(|area| area as f32)
    };
    let weights = [areas[0] * a, areas[1] * b, areas[2] * c];
    let scale = 1.0 / (weights[0] + weights[1] + weights[2]);
    (weights.map(|w| w * scale), (areas[0] + areas[1] + areas[2]) * scale)
}
