//! The hot loops of the rasterizer. Slices in, slices out; nothing here allocates or fails.

/// Steps per pixel of the snapped coordinates.
const STEPS: i32 = 256;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Snapped coordinates stay within ±2 million pixels, so that products of differences fit 64 bits.
const FARTHEST: f32 = (1 << 29) as f32;

/// In a triangle whose box is smaller than this (steps), edge functions fit 32 bits: they are at most its square.
const SMALL: i32 = 1 << 15;

/// Marks a corner in front of the near plane.
const DROPPED: i32 = i32::MIN;

/// Pinhole of the raster.
pub(super) struct Camera {
    pub(super) focal: f32,
    pub(super) principal_point: [f32; 2],
}

/// A projected vertex.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Corner {
    /// Pixels, snapped, in steps.
    x: i32,
    y: i32,
    /// Pixels, as projected.
    u: f32,
    v: f32,
    /// 1/mm.
    inverse_depth: f32,
}

/// What is drawn: the triangles of every face.
pub(super) struct Scene<'a> {
    /// `(faces, vertices)`.
    pub(super) corners: &'a [Corner],
    pub(super) vertices: usize,
    pub(super) triangles: &'a [[i32; 3]],
}

/// Some rows of the raster while they are drawn.
pub(super) struct Band<'a> {
    pub(super) top: usize,
    pub(super) width: usize,
    /// 1 + face · triangles + triangle, 0 where there is nothing.
    pub(super) number: &'a mut [i32],
    /// 0 where there is nothing.
    pub(super) inverse_depth: &'a mut [f32],
}

impl Scene<'_> {
    /// The corners of triangle `number` = face · triangles + triangle.
    #[inline(always)]
    fn corners_of(&self, number: usize) -> [&Corner; 3] {
        let (face, triangle) = self.split(number);
        let corners = &self.corners[face * self.vertices..];
        self.triangles[triangle].map(|v| &corners[v as usize])
    }

    #[inline(always)]
    fn split(&self, number: usize) -> (usize, usize) {
        if number < self.triangles.len() {
            return (0, number);
        }
        (number / self.triangles.len(), number % self.triangles.len())
    }
}

/// Projects camera-frame vertices.
pub(super) fn project(vertices: &[[f32; 3]], camera: &Camera, corners: &mut [Corner]) {
    let [cx, cy] = camera.principal_point;
    for (corner, &[x, y, z]) in corners.iter_mut().zip(vertices) {
        let inverse_depth = 1.0 / z;
        let (u, v) = (cx + camera.focal * x * inverse_depth, cy + camera.focal * y * inverse_depth);
        let snap = |p: f32| (p * STEPS as f32).clamp(-FARTHEST, FARTHEST).round_ties_even() as i32;
        let x = if z < super::NEAR_MM { DROPPED } else { snap(u) };
        *corner = Corner { x, y: snap(v), u, v, inverse_depth };
    }
}

/// First and last pixel whose centres lie in `low..=high` steps, cut to `0..end`; empty when first > last.
#[inline(always)]
fn centres(low: i32, high: i32, end: i32) -> (i32, i32) {
    let half = STEPS / 2;
    (((low + half - 1) >> STEP_BITS).max(0), ((high - half) >> STEP_BITS).min(end - 1))
}

/// The rows (first, last) that a triangle may touch; none if it faces away, is cut by the near plane or misses every
/// pixel centre of the image.
#[inline(always)]
pub(super) fn rows([a, b, c]: [&Corner; 3], [width, height]: [i32; 2]) -> Option<(i32, i32)> {
    if a.x == DROPPED || b.x == DROPPED || c.x == DROPPED {
        return None;
    }
    let (x0, x1) = centres(a.x.min(b.x).min(c.x), a.x.max(b.x).max(c.x), width);
    let (y0, y1) = centres(a.y.min(b.y).min(c.y), a.y.max(b.y).max(c.y), height);
    if x0 > x1 || y0 > y1 {
        return None;
    }
    // Counter-clockwise seen from outside is clockwise in coordinates whose y points down: a negative area.
    let wide = i64::from;
    let area = wide(b.x - a.x) * wide(c.y - a.y) - wide(b.y - a.y) * wide(c.x - a.x);
    (area < 0).then_some((y0, y1))
}

/// Corners of a mesh by triangle, for [`rows`].
#[inline(always)]
pub(super) fn corners_of<'a>(corners: &'a [Corner], triangle: &[i32; 3]) -> [&'a Corner; 3] {
    triangle.map(|v| &corners[v as usize])
}

/// Draws the part of a triangle that lies in a band. The triangle passed [`rows`].
#[inline(always)]
pub(super) fn draw(scene: &Scene, number: u32, band: &mut Band) {
    // Turned round, so that the area and the inside of every edge are positive.
    let [p, r, q] = scene.corners_of(number as usize);
    let (low, high) = ([p.x.min(q.x).min(r.x), p.y.min(q.y).min(r.y)], [p.x.max(q.x).max(r.x), p.y.max(q.y).max(r.y)]);
    let (x0, x1) = centres(low[0], high[0], band.width as i32);
    let (y0, y1) = centres(low[1], high[1], (band.top + band.number.len() / band.width) as i32);
    let y0 = y0.max(band.top as i32);
    if x0 > x1 || y0 > y1 {
        return;
    }
    let pixels =
        Pixels { x0: x0 as usize, x1: x1 as usize, y0: y0 as usize, y1: y1 as usize, number: number as i32 + 1 };
    if high[0] - low[0] < SMALL && high[1] - low[1] < SMALL {
        fill::<i32>([p, q, r], &pixels, band);
    } else {
        fill::<i64>([p, q, r], &pixels, band);
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

/// Integers wide enough for the edge functions of a triangle.
trait Wide: Copy + std::ops::BitOr<Output = Self> {
    fn of(v: i32) -> Self;
    fn times(self, v: Self) -> Self;
    fn plus(self, v: Self) -> Self;
    fn minus(self, v: Self) -> Self;
    fn negative(self) -> bool;
    fn real(self) -> f32;
}

macro_rules! wide {
    ($($t:ty)+) => {$(
        // Wrapping: in 32 bits a product may overflow where the difference of two does not.
        impl Wide for $t {
            #[inline(always)]
            fn of(v: i32) -> Self { Self::from(v) }
            #[inline(always)]
            fn times(self, v: Self) -> Self { self.wrapping_mul(v) }
            #[inline(always)]
            fn plus(self, v: Self) -> Self { self.wrapping_add(v) }
            #[inline(always)]
            fn minus(self, v: Self) -> Self { self.wrapping_sub(v) }
            #[inline(always)]
            fn negative(self) -> bool { self < 0 }
            #[inline(always)]
            fn real(self) -> f32 { self as f32 }
        }
    )+};
}

wide!(i32 i64);

/// One edge: its value at a pixel centre and the change to the next pixel and row.
struct Edge<I> {
    value: I,
    right: I,
    down: I,
}

impl<I: Wide> Edge<I> {
    /// The edge from `a` to `b` at the centre of pixel (x, y). Not negative = inside, by the top-left rule: a centre on the
    /// edge is inside where the edge goes up (a left one) or runs to the right (a top one).
    #[inline(always)]
    fn new(a: &Corner, b: &Corner, x: i32, y: i32) -> Self {
        let (dx, dy) = (b.x - a.x, b.y - a.y);
        let outside = i32::from(!(dy < 0 || dy == 0 && dx > 0));
        let (px, py) = (x - a.x, y - a.y);
        let value = I::of(dx).times(I::of(py)).minus(I::of(dy).times(I::of(px))).minus(I::of(outside));
        Self { value, right: I::of(dy).times(I::of(-STEPS)), down: I::of(dx).times(I::of(STEPS)) }
    }
}

#[inline(always)]
fn fill<I: Wide>([p, q, r]: [&Corner; 3], pixels: &Pixels, band: &mut Band) {
    let (x, y) = (pixels.x0 as i32 * STEPS + STEPS / 2, pixels.y0 as i32 * STEPS + STEPS / 2);
    let (mut qr, mut rp, mut pq) = (Edge::<I>::new(q, r, x, y), Edge::<I>::new(r, p, x, y), Edge::<I>::new(p, q, x, y));
    let area = I::of(q.x - p.x).times(I::of(r.y - p.y)).minus(I::of(q.y - p.y).times(I::of(r.x - p.x)));
    // Inverse depth is linear in the image.
    let scale = 1.0 / area.real();
    let to_q = (q.inverse_depth - p.inverse_depth) * scale;
    let to_r = (r.inverse_depth - p.inverse_depth) * scale;
    let mut row = (pixels.y0 - band.top) * band.width;
    for _ in pixels.y0..=pixels.y1 {
        let range = row + pixels.x0..row + pixels.x1 + 1;
        let (mut w, mut wq, mut wr) = (qr.value, rp.value, pq.value);
        for (number, nearest) in band.number[range.clone()].iter_mut().zip(&mut band.inverse_depth[range]) {
            if !(w | wq | wr).negative() {
                let inverse_depth = p.inverse_depth + wq.real() * to_q + wr.real() * to_r;
                if inverse_depth > *nearest {
                    *nearest = inverse_depth;
                    *number = pixels.number;
                }
            }
            w = w.plus(qr.right);
            wq = wq.plus(rp.right);
            wr = wr.plus(pq.right);
        }
        qr.value = qr.value.plus(qr.down);
        rp.value = rp.value.plus(rp.down);
        pq.value = pq.value.plus(pq.down);
        row += band.width;
    }
}

/// Turns numbers and inverse depths into the band's part of the result.
pub(super) fn resolve(scene: &Scene, band: Band, face_id: &mut [i32], barycentric: &mut [[f32; 3]]) {
    let triangles = band.number.chunks_mut(band.width).zip(band.inverse_depth.chunks_mut(band.width));
    let rows = face_id.chunks_mut(band.width).zip(barycentric.chunks_mut(band.width));
    for (row, ((triangle_id, depth), (face_id, barycentric))) in triangles.zip(rows).enumerate() {
        let v = (band.top + row) as f32 + 0.5;
        let pixels = triangle_id.iter_mut().zip(depth).zip(face_id.iter_mut().zip(barycentric));
        for (column, ((triangle_id, depth), (face_id, barycentric))) in pixels.enumerate() {
            if *triangle_id == 0 {
                (*triangle_id, *face_id) = (-1, -1);
                continue;
            }
            let (face, triangle) = scene.split(*triangle_id as usize - 1);
            let corners = corners_of(&scene.corners[face * scene.vertices..], &scene.triangles[triangle]);
            (*triangle_id, *face_id) = (triangle as i32, face as i32);
            (*barycentric, *depth) = weights(corners, column as f32 + 0.5, v);
        }
    }
}

/// Perspective-correct weights of the corners at (u, v), and the depth.
///
/// They are those of the projected triangle, not the snapped one; a centre that only the snapped triangle covers takes the
/// nearest point of the edge.
#[inline(always)]
fn weights([a, b, c]: [&Corner; 3], u: f32, v: f32) -> ([f32; 3], f32) {
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
