//! The hot loops of the rasterizer. Slices in, slices out; nothing here allocates or fails.

use wide::{f32x4, i32x4};

/// Steps per pixel of the snapped coordinates.
const STEPS: i32 = 256;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Snapped coordinates stay within ±2 million pixels, so that products of differences fit 64 bits.
const FARTHEST: f32 = (1 << 29) as f32;

/// In a triangle whose box is smaller than this (steps), edge functions fit 32 bits, [`LANES`] pixels beyond the box too.
const SMALL: i32 = 1 << 14;

/// Pixels of a row that are tested together: one register on every target.
const LANES: usize = 4;

/// Marks a corner in front of the near plane.
const DROPPED: i32 = i32::MIN;

/// Pinhole of the raster.
pub(super) struct Camera {
    pub(super) focal: f32,
    pub(super) principal_point: [f32; 2],
}

/// A projected vertex, as it is drawn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Corner {
    /// Pixels, snapped, in steps.
    x: i32,
    y: i32,
    /// 1/mm.
    inverse_depth: f32,
}

/// A triangle that is to be drawn. Its corners are copied, in the order that makes the area and the inside of every edge
/// positive: drawing then reads memory in order, where gathering corners again would miss the cache.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Facet {
    corners: [Corner; 3],
    /// 1 + face · triangles + triangle.
    number: i32,
}

/// A projected vertex, as it is measured: pixels, and 1/mm.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Point {
    u: f32,
    v: f32,
    inverse_depth: f32,
}

/// What is drawn: the triangles of every face.
pub(super) struct Scene<'a> {
    /// `(faces, vertices)`.
    pub(super) points: &'a [Point],
    pub(super) vertices: usize,
    pub(super) triangles: &'a [[i32; 3]],
}

/// Some rows of the raster while they are drawn, a little wider than the image so that lanes may overhang.
pub(super) struct Band {
    top: usize,
    width: usize,
    rows: usize,
    stride: usize,
    /// 1 + face · triangles + triangle, 0 where there is nothing.
    number: Vec<i32>,
    /// 0 where there is nothing.
    inverse_depth: Vec<f32>,
}

impl Band {
    /// An empty band.
    pub(super) fn new(top: usize, width: usize, rows: usize) -> Self {
        let stride = width + LANES;
        let (number, inverse_depth) = (vec![0; rows * stride], vec![0.0; rows * stride]);
        Self { top, width, rows, stride, number, inverse_depth }
    }
}

/// The same rows of the result.
pub(super) struct Rows<'a> {
    pub(super) triangle_id: &'a mut [i32],
    pub(super) face_id: &'a mut [i32],
    pub(super) depth: &'a mut [f32],
    pub(super) barycentric: &'a mut [[f32; 3]],
}

/// The nearest step (ties to even). Adding 1.5 · 2^52 leaves the integer in the low bits; `round` is a library call on some
/// targets.
#[inline(always)]
fn snap(pixels: f32) -> i32 {
    const INTEGER_IN_LOW_BITS: f64 = 1.5 * (1u64 << 52) as f64;
    let steps = (pixels * STEPS as f32).clamp(-FARTHEST, FARTHEST);
    (f64::from(steps) + INTEGER_IN_LOW_BITS).to_bits() as i32
}

/// Projects camera-frame vertices.
pub(super) fn project(vertices: &[[f32; 3]], camera: &Camera, points: &mut [Point], corners: &mut [Corner]) {
    let [cx, cy] = camera.principal_point;
    for ((point, corner), &[x, y, z]) in points.iter_mut().zip(corners).zip(vertices) {
        let inverse_depth = 1.0 / z;
        let (u, v) = (cx + camera.focal * x * inverse_depth, cy + camera.focal * y * inverse_depth);
        *point = Point { u, v, inverse_depth };
        *corner = Corner { x: if z < super::NEAR_MM { DROPPED } else { snap(u) }, y: snap(v), inverse_depth };
    }
}

/// First and last pixel whose centres lie in `low..=high` steps, cut to `0..end`; empty when first > last.
#[inline(always)]
fn centres(low: i32, high: i32, end: i32) -> (i32, i32) {
    let half = STEPS / 2;
    (((low + half - 1) >> STEP_BITS).max(0), ((high - half) >> STEP_BITS).min(end - 1))
}

/// The facet of a triangle, the rows (first, last) that it may touch, and whether it is to be drawn: it is not if it faces
/// away, is cut by the near plane or misses every pixel centre of the image.
#[inline(always)]
pub(super) fn facet(
    corners: &[Corner],
    triangle: &[i32; 3],
    number: i32,
    [width, height]: [i32; 2],
) -> (Facet, [i32; 2], bool) {
    let [a, b, c] = triangle.map(|v| corners[v as usize]);
    let (x0, x1) = centres(a.x.min(b.x).min(c.x), a.x.max(b.x).max(c.x), width);
    let (y0, y1) = centres(a.y.min(b.y).min(c.y), a.y.max(b.y).max(c.y), height);
    // Counter-clockwise seen from outside is clockwise in coordinates whose y points down: a negative area.
    let wide = i64::from;
    let area = (wide(b.x) - wide(a.x)) * (wide(c.y) - wide(a.y)) - (wide(b.y) - wide(a.y)) * (wide(c.x) - wide(a.x));
    // No short circuits: the answers are as good as random, and a mispredicted branch costs more than all of them.
    let dropped = (a.x == DROPPED) | (b.x == DROPPED) | (c.x == DROPPED);
    let drawn = !dropped & (x0 <= x1) & (y0 <= y1) & (area < 0);
    (Facet { corners: [a, c, b], number }, [y0, y1], drawn)
}

/// Draws the part of a facet that lies in a band.
#[inline(always)]
pub(super) fn draw(facet: &Facet, band: &mut Band) {
    let [p, q, r] = &facet.corners;
    let (low, high) = ([p.x.min(q.x).min(r.x), p.y.min(q.y).min(r.y)], [p.x.max(q.x).max(r.x), p.y.max(q.y).max(r.y)]);
    let (x0, x1) = centres(low[0], high[0], band.width as i32);
    let (y0, y1) = centres(low[1], high[1], (band.top + band.rows) as i32);
    let y0 = y0.max(band.top as i32);
    if x0 > x1 || y0 > y1 {
        return;
    }
    let pixels = Pixels { x0: x0 as usize, x1: x1 as usize, y0: y0 as usize, y1: y1 as usize, number: facet.number };
    if high[0] - low[0] < SMALL && high[1] - low[1] < SMALL {
        fill_small([p, q, r], &pixels, band);
    } else {
        fill_large([p, q, r], &pixels, band);
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

/// One edge: its value at a pixel centre and the change to the next pixel and row.
#[derive(Clone, Copy)]
struct Edge {
    value: i64,
    right: i64,
    down: i64,
}

impl Edge {
    /// The edge from `a` to `b` at the centre of pixel (x, y). Not negative = inside, by the top-left rule: a centre on the
    /// edge is inside where the edge goes up (a left one) or runs to the right (a top one).
    #[inline(always)]
    fn new(a: &Corner, b: &Corner, pixels: &Pixels) -> Self {
        let centre = |pixel: usize| pixel as i64 * i64::from(STEPS) + i64::from(STEPS / 2);
        let (dx, dy) = (i64::from(b.x - a.x), i64::from(b.y - a.y));
        let outside = i64::from(!((dy < 0) | ((dy == 0) & (dx > 0))));
        let value = dx * (centre(pixels.y0) - i64::from(a.y)) - dy * (centre(pixels.x0) - i64::from(a.x)) - outside;
        Self { value, right: -dy * i64::from(STEPS), down: dx * i64::from(STEPS) }
    }
}

/// The three edges of a triangle, and its inverse depth, which is linear in the image.
struct Setup {
    edges: [Edge; 3],
    inverse_depth: f32,
    /// Its change per unit of the second and the third edge's value.
    slopes: [f32; 2],
}

impl Setup {
    #[inline(always)]
    fn new([p, q, r]: [&Corner; 3], pixels: &Pixels) -> Self {
        let (dx, dy) = (i64::from(q.x - p.x), i64::from(q.y - p.y));
        let area = dx * i64::from(r.y - p.y) - dy * i64::from(r.x - p.x);
        let scale = 1.0 / area as f32;
        Self {
            edges: [Edge::new(q, r, pixels), Edge::new(r, p, pixels), Edge::new(p, q, pixels)],
            inverse_depth: p.inverse_depth,
            slopes: [q, r].map(|c| (c.inverse_depth - p.inverse_depth) * scale),
        }
    }
}

/// Draws a triangle whose edge functions fit 32 bits, [`LANES`] pixels at a time and without branches within them: most
/// triangles of a face are a few pixels large, and a mispredicted branch costs as much as four pixels.
#[inline(always)]
fn fill_small(corners: [&Corner; 3], pixels: &Pixels, band: &mut Band) {
    let setup = Setup::new(corners, pixels);
    let lanes = i32x4::new([0, 1, 2, 3]);
    let right = setup.edges.map(|e| i32x4::splat(e.right as i32));
    let across = right.map(|r| r << 2);
    let down = setup.edges.map(|e| i32x4::splat(e.down as i32));
    let mut starts: [i32x4; 3] = std::array::from_fn(|i| i32x4::splat(setup.edges[i].value as i32) + right[i] * lanes);
    let [slope_b, slope_c] = setup.slopes.map(f32x4::splat);
    let first = f32x4::splat(setup.inverse_depth);
    let new_number = i32x4::splat(pixels.number);
    let mut row = (pixels.y0 - band.top) * band.stride + pixels.x0;
    for _ in pixels.y0..=pixels.y1 {
        let [mut a, mut b, mut c] = starts;
        let numbers = band.number[row..].as_chunks_mut::<LANES>().0;
        let depths = band.inverse_depth[row..].as_chunks_mut::<LANES>().0;
        let blocks = (pixels.x1 - pixels.x0) / LANES + 1;
        for (number, depth) in numbers.iter_mut().zip(depths).take(blocks) {
            let old = f32x4::new(*depth);
            let new = first + b.round_float() * slope_b + c.round_float() * slope_c;
            // Negative lanes of a | b | c are outside.
            let inside: f32x4 = bytemuck::cast(!(a | b | c).is_negative());
            let nearer = new.simd_gt(old) & inside;
            *depth = nearer.bitselect(new, old).to_array();
            *number = bytemuck::cast::<_, i32x4>(nearer).bitselect(new_number, i32x4::new(*number)).to_array();
            (a, b, c) = (a + across[0], b + across[1], c + across[2]);
        }
        row += band.stride;
        for (start, down) in starts.iter_mut().zip(down) {
            *start += down;
        }
    }
}

/// Draws any triangle, pixel by pixel.
fn fill_large(corners: [&Corner; 3], pixels: &Pixels, band: &mut Band) {
    let setup = Setup::new(corners, pixels);
    let mut starts = setup.edges.map(|e| e.value);
    let mut row = (pixels.y0 - band.top) * band.stride;
    for _ in pixels.y0..=pixels.y1 {
        let range = row + pixels.x0..row + pixels.x1 + 1;
        let [mut a, mut b, mut c] = starts;
        for (number, nearest) in band.number[range.clone()].iter_mut().zip(&mut band.inverse_depth[range]) {
            let inverse_depth = setup.inverse_depth + b as f32 * setup.slopes[0] + c as f32 * setup.slopes[1];
            if (a | b | c) >= 0 && inverse_depth > *nearest {
                (*nearest, *number) = (inverse_depth, pixels.number);
            }
            a += setup.edges[0].right;
            b += setup.edges[1].right;
            c += setup.edges[2].right;
        }
        row += band.stride;
        for (start, edge) in starts.iter_mut().zip(setup.edges) {
            *start += edge.down;
        }
    }
}

/// Turns numbers and inverse depths into the band's part of the result, which is zero before.
pub(super) fn resolve(scene: &Scene, band: &Band, rows: Rows) {
    let out = (rows.triangle_id.chunks_mut(band.width).zip(rows.face_id.chunks_mut(band.width)))
        .zip(rows.depth.chunks_mut(band.width).zip(rows.barycentric.chunks_mut(band.width)));
    for ((row, number), ((triangle_id, face_id), (depth, barycentric))) in
        band.number.chunks(band.stride).enumerate().zip(out)
    {
        let v = (band.top + row) as f32 + 0.5;
        let pixels = triangle_id.iter_mut().zip(face_id).zip(depth.iter_mut().zip(barycentric));
        for ((column, &number), ((triangle_id, face_id), (depth, barycentric))) in number.iter().enumerate().zip(pixels)
        {
            if number == 0 {
                (*triangle_id, *face_id) = (-1, -1);
                continue;
            }
            let (face, triangle) = split(number as usize - 1, scene.triangles.len());
            let points = &scene.points[face * scene.vertices..];
            let corners = scene.triangles[triangle].map(|v| &points[v as usize]);
            (*triangle_id, *face_id) = (triangle as i32, face as i32);
            (*barycentric, *depth) = weights(corners, column as f32 + 0.5, v);
        }
    }
}

/// Face and triangle of a number.
#[inline(always)]
fn split(number: usize, triangles: usize) -> (usize, usize) {
    if number < triangles { (0, number) } else { (number / triangles, number % triangles) }
}

/// Perspective-correct weights of the corners at (u, v), and the depth.
///
/// They are those of the projected triangle, not the snapped one; a centre that only the snapped triangle covers takes the
/// nearest point of the edge.
#[inline(always)]
fn weights([a, b, c]: [&Point; 3], u: f32, v: f32) -> ([f32; 3], f32) {
    let (ax, ay, bx, by, cx, cy) = (a.u - u, a.v - v, b.u - u, b.v - v, c.u - u, c.v - v);
    let areas = [by * cx - bx * cy, cy * ax - cx * ay, ay * bx - ax * by];
    let turned = if areas[0] + areas[1] + areas[2] < 0.0 { -1.0 } else { 1.0 };
    let mut areas = areas.map(|e| (e * turned).max(0.0));
    if areas == [0.0; 3] {
        areas = [1.0; 3];
    }
    let inverse = [a.inverse_depth, b.inverse_depth, c.inverse_depth];
    let inverse = [areas[0] * inverse[0], areas[1] * inverse[1], areas[2] * inverse[2]];
    let scale = 1.0 / (inverse[0] + inverse[1] + inverse[2]);
    (inverse.map(|w| w * scale), (areas[0] + areas[1] + areas[2]) * scale)
}
