//! From the facets that pixels see to what is known about them.

use std::mem::MaybeUninit;

use wide::{f32x4, i32x4};

use super::bins::Bins;
use super::facet::{Facet, STEPS, floats, transposed};
use super::kernel::{self, Band};
use super::split::part;
use super::{Shader, TRIANGLES_PER_PART};
use crate::simd::{Kernel, Lanes};

/// Pixels of a row that are passed over together where all are empty.
const RUN: usize = 16;

/// Pixels that are resolved together.
const TOGETHER: usize = 4;

/// Rows of the result, every pixel of which is written.
pub(super) struct Rows<'a> {
    pub(super) triangle_id: &'a mut [MaybeUninit<i32>],
    pub(super) face_id: &'a mut [MaybeUninit<i32>],
    pub(super) depth: &'a mut [MaybeUninit<f32>],
    pub(super) barycentric: &'a mut [MaybeUninit<[f32; 3]>],
    /// Empty without colours.
    pub(super) color: &'a mut [MaybeUninit<[u8; 3]>],
}

/// Draws a band and resolves it while it is in the cache.
pub(super) struct Draw<'a, S> {
    pub(super) bins: &'a [Bins],
    /// Number of the band.
    pub(super) number: usize,
    /// Its first row.
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) out: Rows<'a>,
    /// Whether triangles become the parts of a refined mesh.
    pub(super) split: bool,
    /// What the triangles look like.
    pub(super) shader: Option<&'a S>,
}

impl<S: Shader> Kernel for Draw<'_, S> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut band = Band::new(self.top, self.out.depth.len() / self.width, self.width);
        for (run, bins) in self.bins.iter().enumerate() {
            for (position, facet) in bins.band(self.number) {
                let number = (run * TRIANGLES_PER_PART + position) as i32 + 1;
                match facet.large() {
                    None => kernel::draw::<L>(facet, number, &mut band),
                    Some(k) => kernel::draw_large(facet, bins.large(k), number, &mut band),
                }
            }
        }
        self.resolve(&band);
    }
}

/// What four pixels of a row see; where there is nothing, anything.
struct Quad {
    face: i32x4,
    triangle: i32x4,
    weights: [f32x4; 3],
    depth: f32x4,
}

impl<S: Shader> Draw<'_, S> {
    #[inline(always)]
    fn resolve(self, band: &Band) {
        let Self { width, bins, split, shader, .. } = self;
        let Rows { triangle_id, face_id, depth, barycentric, color } = self.out;
        let maps = triangle_id.chunks_mut(width).zip(face_id.chunks_mut(width));
        let maps =
            maps.zip(depth.chunks_mut(width).zip(barycentric.chunks_mut(width))).zip(band.number.chunks(band.stride));
        let mut colored_rows = color.chunks_mut(width);
        let mut patches = shader.map(Patches::new);
        for (row, (((triangle_id, face_id), (depth, barycentric)), numbers)) in maps.enumerate() {
            let y = kernel::centre(self.top + row);
            let color = colored_rows.next().unwrap_or_default();
            for start in (0..width).step_by(RUN) {
                let end = (start + RUN).min(width);
                if numbers[start..end].iter().fold(0, |any, number| any | number) == 0 {
                    put(&mut triangle_id[start..end], -1);
                    put(&mut face_id[start..end], -1);
                    put(&mut depth[start..end], 0.0);
                    put(&mut barycentric[start..end], [0.0; 3]);
                    put(color.get_mut(start..end).unwrap_or_default(), [0; 3]);
                    continue;
                }
                let mut run = Run::default();
                for (quad, x) in (start..end).step_by(TOGETHER).enumerate() {
                    // A row of the band has room beyond the image.
                    let Some(&four) = numbers[x..].first_chunk::<TOGETHER>() else { continue };
                    let mut seen = see(bins, four, x, y);
                    if split {
                        (seen.triangle, seen.weights) = part(seen.triangle, seen.weights);
                    }
                    let last = (x + TOGETHER).min(width);
                    let empty = i32x4::new(four).simd_eq(i32x4::splat(0));
                    let drawn = floats(!empty);
                    write(&mut face_id[x..last], (seen.face | empty).to_array());
                    write(&mut triangle_id[x..last], (seen.triangle | empty).to_array());
                    write(&mut depth[x..last], (seen.depth & drawn).to_array());
                    let [a, b, c] = seen.weights;
                    let [a, b, c] = [(a & drawn).to_array(), (b & drawn).to_array(), (c & drawn).to_array()];
                    let weights = [[a[0], b[0], c[0]], [a[1], b[1], c[1]], [a[2], b[2], c[2]], [a[3], b[3], c[3]]];
                    write(&mut barycentric[x..last], weights);
                    if shader.is_some() {
                        run.face[quad] = seen.face.to_array();
                        run.triangle[quad] = seen.triangle.to_array();
                        run.weights[quad] = weights;
                    }
                }
                if let Some(patches) = &mut patches {
                    run.paint(patches, &numbers[start..end], split, &mut color[start..end]);
                }
            }
        }
    }
}

/// What the pixels of a run see. Colours come from here and there: in a loop of its own, which does little else, the
/// processor waits for many of them at once.
#[derive(Default)]
struct Run {
    face: [[i32; TOGETHER]; RUN / TOGETHER],
    triangle: [[i32; TOGETHER]; RUN / TOGETHER],
    weights: [[[f32; 3]; TOGETHER]; RUN / TOGETHER],
}

impl Run {
    #[inline(always)]
    fn paint(
        &self,
        patches: &mut Patches<'_, impl Shader>,
        numbers: &[i32],
        split: bool,
        out: &mut [MaybeUninit<[u8; 3]>],
    ) {
        let pixels = self.face.as_flattened().iter().zip(self.triangle.as_flattened()).zip(self.weights.as_flattened());
        for ((out, &number), ((&face, &triangle), &weights)) in out.iter_mut().zip(numbers).zip(pixels) {
            let (face, triangle) = (face as u32 as usize, triangle as u32 as usize);
            let (whole, corners) = match split {
                true => (triangle / CORNERS.len(), CORNERS[triangle % CORNERS.len()]),
                false => (triangle, [0, 1, 2]),
            };
            let color = match number {
                0 => [0; 3],
                _ => color(patches.of(number, [face, whole]), corners, weights),
            };
            out.write(color);
        }
    }
}

/// The patches of facets that were seen of late: pixels of some rows see the same triangle of a large face.
struct Patches<'a, S> {
    shader: &'a S,
    /// The facet that has each place, 0 where none has.
    numbers: [i32; PLACES],
    patches: [[[f32; 4]; CORNERS_OF_PATCH]; PLACES],
}

/// A power of two: some times what a row of a large face shows.
const PLACES: usize = 512;
/// Those of a patch, and some to spare, so that no index needs a check.
const CORNERS_OF_PATCH: usize = 8;

impl<'a, S: Shader> Patches<'a, S> {
    fn new(shader: &'a S) -> Self {
        Self { shader, numbers: [0; PLACES], patches: [[[0.0; 4]; CORNERS_OF_PATCH]; PLACES] }
    }

    /// That of the facet with this number, which is this triangle of this face.
    #[inline(always)]
    fn of(&mut self, number: i32, [face, triangle]: [usize; 2]) -> &[[f32; 4]; CORNERS_OF_PATCH] {
        let place = number as u32 as usize % PLACES;
        if self.numbers[place] != number {
            self.numbers[place] = number;
            let [a, b, c, d, e, f] = self.shader.shade(face, triangle);
            self.patches[place] = [a, b, c, d, e, f, [0.0; 4], [0.0; 4]];
        }
        &self.patches[place]
    }
}

/// The corners in a patch of the four parts of a triangle (CONVENTIONS.md §5).
const CORNERS: [[usize; 3]; 4] = [[0, 3, 5], [1, 4, 3], [2, 5, 4], [3, 4, 5]];

/// The colour between three of a patch, in 255ths, rounded to the nearest, ties to even.
#[inline(always)]
fn color(patch: &[[f32; 4]; CORNERS_OF_PATCH], corners: [usize; 3], [u, v, w]: [f32; 3]) -> [u8; 3] {
    let corner = |k: usize| f32x4::new(patch[corners[k] % CORNERS_OF_PATCH]);
    let (a, b, c) = (corner(0), corner(1), corner(2));
    let color = f32x4::splat(u) * a + f32x4::splat(v) * b + f32x4::splat(w) * c;
    let color = color.fast_max(f32x4::splat(0.0)).fast_min(f32x4::splat(1.0));
    // Adding 1.5 · 2^23 rounds to whole numbers, which are then the last bits.
    let [r, g, b, _] = (color * f32x4::splat(255.0) + f32x4::splat(12_582_912.0)).to_array();
    [r.to_bits() as u8, g.to_bits() as u8, b.to_bits() as u8]
}

/// Writes as many of four values as there are pixels.
#[inline(always)]
fn write<T: Copy>(out: &mut [MaybeUninit<T>], [a, b, c, d]: [T; TOGETHER]) {
    let values = [MaybeUninit::new(a), MaybeUninit::new(b), MaybeUninit::new(c), MaybeUninit::new(d)];
    match out.first_chunk_mut::<TOGETHER>() {
        Some(four) => *four = values,
        None => out.iter_mut().zip(values).for_each(|(out, value)| *out = value),
    }
}

#[inline(always)]
fn put<T: Copy>(out: &mut [MaybeUninit<T>], value: T) {
    out.fill(MaybeUninit::new(value));
}

/// What the pixels from column `x` on see.
#[inline(always)]
fn see(bins: &[Bins], numbers: [i32; TOGETHER], x: usize, y: i32) -> Quad {
    let [a, b, c, d] = numbers;
    let any = a.max(b).max(c).max(d);
    if any == 0 {
        let zero = f32x4::splat(0.0);
        return Quad { face: i32x4::splat(0), triangle: i32x4::splat(0), weights: [zero; 3], depth: zero };
    }
    let facets = [find(bins, a, any), find(bins, b, any), find(bins, c, any), find(bins, d, any)];
    let [f, g, h, i] = facets;
    let [face, triangle, columns, rows] = transposed([f.lines[3], g.lines[3], h.lines[3], i.lines[3]]);
    let first = kernel::centre(x);
    let at = i32x4::splat(first) + i32x4::new([0, STEPS, 2 * STEPS, 3 * STEPS]);
    let (mut weights, mut depth) = kernel::weights(facets, [columns, rows], at, y);
    if columns.is_negative().any() {
        (weights, depth) = see_large(bins, numbers, [first, y], weights, depth);
    }
    Quad { face, triangle, weights, depth }
}

/// The facet of a pixel, or, where there is nothing, another one.
#[inline(always)]
fn find(bins: &[Bins], number: i32, other: i32) -> &Facet {
    let number = if number == 0 { other } else { number } as usize - 1;
    bins[number / TRIANGLES_PER_PART].facet(number % TRIANGLES_PER_PART)
}

/// Sees again where large triangles are, pixel by pixel.
#[cold]
fn see_large(
    bins: &[Bins],
    numbers: [i32; TOGETHER],
    [x, y]: [i32; 2],
    weights: [f32x4; 3],
    depth: f32x4,
) -> ([f32x4; 3], f32x4) {
    let (mut weights, mut depth) = (weights.map(f32x4::to_array), depth.to_array());
    for (l, number) in numbers.into_iter().enumerate().filter(|&(_, number)| number > 0) {
        let (run, position) = ((number as usize - 1) / TRIANGLES_PER_PART, (number as usize - 1) % TRIANGLES_PER_PART);
        if let Some(k) = bins[run].facet(position).large() {
            let (of_corners, at) = kernel::weights_large(bins[run].large(k), x + l as i32 * STEPS, y);
            for (all, weight) in weights.iter_mut().zip(of_corners) {
                all[l] = weight;
            }
            depth[l] = at;
        }
    }
    (weights.map(f32x4::new), f32x4::new(depth))
}
