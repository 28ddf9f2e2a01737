//! The hot loops of the rasterizer. Slices in, slices out; nothing here fails.
//!
//! A face has about as many triangles as it covers pixels, so what counts is the work per triangle: few instructions, no
//! unpredictable branches, memory in order.

use wide::{f32x4, i32x4};

use super::facet::{Facet, Large, STEPS, floats, transposed};
use crate::simd::Lanes;

/// Pixels of a row that are tested together at most.
const MAX_LANES: usize = 8;

/// Some rows of the image while they are drawn.
pub(super) struct Band {
    pub(super) top: usize,
    rows: usize,
    /// From one row to the next: room for pixels that are tested beyond the image.
    pub(super) stride: usize,
    /// The number of the facet that a pixel sees, from 1; 0 where there is nothing.
    pub(super) number: Vec<i32>,
    /// Its inverse depth, 0 where there is nothing.
    nearest: Vec<f32>,
}

impl Band {
    pub(super) fn new(top: usize, rows: usize, width: usize) -> Self {
        let stride = width + MAX_LANES;
        Self { top, rows, stride, number: vec![0; stride * rows], nearest: vec![0.0; stride * rows] }
    }
}

/// A pixel's centre, in steps.
#[inline(always)]
pub(super) fn centre(pixel: usize) -> i32 {
    pixel as i32 * STEPS + STEPS / 2
}

/// Whether the top-left rule leaves out an edge with this direction. It keeps edges that go up (left ones) and those that
/// run to the right (top ones).
#[inline(always)]
fn leaves_out(dx: i32, dy: i32) -> bool {
    !((dy < 0) | ((dy == 0) & (dx > 0)))
}

/// −1 for the edges that [`leaves_out`] names.
#[inline(always)]
fn left_out(dx: i32x4, dy: i32x4) -> i32x4 {
    let zero = i32x4::splat(0);
    !(dy.is_negative() | (dy.simd_eq(zero) & dx.simd_gt(zero)))
}

/// Draws the part of a facet that lies in a band, under the given number: some pixels of a row at a time and without branches
/// within them, since most triangles of a face are a few pixels large and a mispredicted branch costs as much as a row.
#[inline(always)]
pub(super) fn draw<L: Lanes>(facet: &Facet, number: i32, band: &mut Band) {
    let [x0, x1, first, last] = facet.pixel_box();
    let (y0, y1) = (first.max(band.top), last.min(band.top + band.rows - 1));
    let [values, dx, dy, _] = facet.lines;
    let (right, down): (i32x4, i32x4) = (i32x4::splat(0) - (dy << 8), dx << 8);
    let [p, q, r, _] = values.to_array();
    // The edge functions at any point add up to twice the area. Inverse depth is linear in the image.
    let scale = 1.0 / (p + q + r) as f32;
    let depths = [floats(values).to_array()[3], floats(dx).to_array()[3], floats(dy).to_array()[3]];
    let (slope_q, slope_r) = ((depths[1] - depths[0]) * scale, (depths[2] - depths[0]) * scale);
    let values: i32x4 = values + left_out(dx, dy) + down * i32x4::splat((y0 - first) as i32);
    let (values, right, down) = (values.to_array(), right.to_array(), down.to_array());
    let start_depth = depths[0] + (values[1] as f32 * slope_q + values[2] as f32 * slope_r);
    let right_depth = right[1] as f32 * slope_q + right[2] as f32 * slope_r;
    let down_depth = L::floats(down[1] as f32 * slope_q + down[2] as f32 * slope_r, 0.0);
    let number = L::ints(number, 0);
    let (down_p, down_q, down_r) = (L::ints(down[0], 0), L::ints(down[1], 0), L::ints(down[2], 0));
    let mut at = (y0 - band.top) * band.stride + x0;
    let length = (y1 - y0) * band.stride + L::COUNT;
    let mut ahead = 0;
    // Most triangles are no wider than the lanes.
    loop {
        let mut p = L::ints(values[0] + right[0] * ahead, right[0]);
        let mut q = L::ints(values[1] + right[1] * ahead, right[1]);
        let mut r = L::ints(values[2] + right[2] * ahead, right[2]);
        let mut inverse_depth = L::floats(start_depth + right_depth * ahead as f32, right_depth);
        let (Some(nearest), Some(numbers)) =
            (band.nearest.get_mut(at..at + length), band.number.get_mut(at..at + length))
        else {
            return;
        };
        for (nearest, numbers) in nearest.chunks_mut(band.stride).zip(numbers.chunks_mut(band.stride)) {
            L::replace([p, q, r], inverse_depth, number, nearest, numbers);
            (p, q, r) = (L::add_ints(p, down_p), L::add_ints(q, down_q), L::add_ints(r, down_r));
            inverse_depth = L::add_floats(inverse_depth, down_depth);
        }
        at += L::COUNT;
        ahead += L::COUNT as i32;
        if ahead > (x1 - x0) as i32 {
            return;
        }
    }
}

/// Draws any triangle, pixel by pixel.
pub(super) fn draw_large(facet: &Facet, large: &Large, number: i32, band: &mut Band) {
    let [x0, x1, y0, y1] = facet.pixel_box();
    let (y0, y1) = (y0.max(band.top), y1.min(band.top + band.rows - 1));
    let Large { points, inverse_depths } = large;
    let wide = i64::from;
    let edges: [[i64; 3]; 3] = std::array::from_fn(|i| {
        let (a, b) = (points[(i + 1) % 3], points[(i + 2) % 3]);
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let value = wide(dx) * wide(centre(y0) - a[1]) - wide(dy) * wide(centre(x0) - a[0]);
        [value - wide(i32::from(leaves_out(dx, dy))), -wide(dy) * wide(STEPS), wide(dx) * wide(STEPS)]
    });
    let ([px, py], [qx, qy], [rx, ry]) = (points[0], points[1], points[2]);
    let scale = 1.0 / (wide(qx - px) * wide(ry - py) - wide(qy - py) * wide(rx - px)) as f32;
    let [first, second, third] = inverse_depths;
    let (slope_q, slope_r) = ((second - first) * scale, (third - first) * scale);
    let mut starts = edges.map(|e| e[0]);
    let mut row = (y0 - band.top) * band.stride;
    for _ in y0..=y1 {
        let range = row + x0..row + x1 + 1;
        let [mut p, mut q, mut r] = starts;
        for (seen, nearest) in band.number[range.clone()].iter_mut().zip(&mut band.nearest[range]) {
            let inverse_depth = first + q as f32 * slope_q + r as f32 * slope_r;
            if (p | q | r) >= 0 && inverse_depth > *nearest {
                (*nearest, *seen) = (inverse_depth, number);
            }
            (p, q, r) = (p + edges[0][1], q + edges[1][1], r + edges[2][1]);
        }
        row += band.stride;
        for (start, edge) in starts.iter_mut().zip(edges) {
            *start += edge[2];
        }
    }
}

/// Weights of the corners a, b, c in space and the depth at four points of a row, `x` and `y` in steps, of one facet each (not
/// large) with these boxes.
///
/// In the image the weights are areas; multiplied by the corner's inverse depth they are those in space. The areas are
/// exact or rounded once, hence not negative, and positive in sum.
#[inline(always)]
pub(super) fn weights([f, g, h, i]: [&Facet; 4], [columns, rows]: [i32x4; 2], x: i32x4, y: i32) -> ([f32x4; 3], f32x4) {
    let [p, q, r, a] = transposed([f.lines[0], g.lines[0], h.lines[0], i.lines[0]]);
    let [dx_p, dx_q, dx_r, c] = transposed([f.lines[1], g.lines[1], h.lines[1], i.lines[1]]);
    let [dy_p, dy_q, dy_r, b] = transposed([f.lines[2], g.lines[2], h.lines[2], i.lines[2]]);
    let across = x - first_centre(columns);
    let along = i32x4::splat(y) - first_centre(rows);
    let area_a = (p + dx_p * along - dy_p * across).round_float();
    let area_b = (r + dx_r * along - dy_r * across).round_float();
    let area_c = (q + dx_q * along - dy_q * across).round_float();
    let (a, b, c) = (area_a * floats(a), area_b * floats(b), area_c * floats(c));
    let scale = f32x4::splat(1.0) / (a + b + c);
    ([a * scale, b * scale, c * scale], (area_a + area_b + area_c) * scale)
}

/// Centres of the first columns or rows of boxes, in steps.
#[inline(always)]
fn first_centre(span: i32x4) -> i32x4 {
    let first: i32x4 = span & i32x4::splat(0xffff);
    (first << 8) + i32x4::splat(STEPS / 2)
}

/// [`weights`] for one pixel of a large triangle.
pub(super) fn weights_large(large: &Large, x: i32, y: i32) -> ([f32; 3], f32) {
    let [[ax, ay], [cx, cy], [bx, by]] = large.points.map(|[px, py]| [px - x, py - y].map(f64::from));
    let [a, c, b] = large.inverse_depths;
    let areas = [by * cx - bx * cy, cy * ax - cx * ay, ay * bx - ax * by].map(|area| area as f32);
    let weights = [areas[0] * a, areas[1] * b, areas[2] * c];
    let scale = 1.0 / (weights[0] + weights[1] + weights[2]);
    (weights.map(|w| w * scale), (areas[0] + areas[1] + areas[2]) * scale)
}
