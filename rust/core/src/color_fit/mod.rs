//! Albedo and light from the colours of a photo, for faces whose shape and pose are known (CONVENTIONS.md §6).
//!
//! A colour is albedo times light, and each of the two is linear in its coefficients (METHOD.md, texture and illumination):
//! with one given, the other is a least-squares problem with a closed solution. They are solved in turn, a few times.
//! Colours are compared in areas of [`AREA`] neighbouring vertices: their mean carries less of the photo's noise and of
//! a landmark's error than single vertices, and the problems become small. An area whose colour does not fit (hair, a
//! hand, glasses) counts little, first by what is expected, then by what was solved.

mod solve;

use crate::check;
use crate::error::Result;
use crate::face_model::FaceModel;
use crate::illumination::{ILLUMINATION, harmonics};
use crate::mesh::{normalised, points, write_four};
use crate::parallel;
use crate::patches::cut;
use crate::simd::{self, Kernel, Lanes, point};
use solve::{Areas, Seen, padded};
use wide::{f32x4, i32x4};

/// Vertices of an area.
const AREA: usize = 12;
/// Least cosine between a normal and the line of sight.
const GRAZING: f32 = 0.25;
/// Cells along the longer side of a face in the grid of nearest depths, and how far behind the nearest vertex of a cell
/// another is still seen, in shares of the face's depth (some 10 mm, at any scale).
const CELLS: usize = 48;
const BEHIND: f32 = 0.05;
/// Share of a face's box that its areas cover, about.
const FACE_IN_BOX: f32 = 0.6;
/// A face of which fewer areas are seen keeps its values.
const LEAST_AREAS: usize = 40;

/// A photo and its camera.
#[derive(Debug, Clone, Copy)]
pub struct Photo<'a> {
    /// `(H, W, 3)` RGB.
    pub pixels: &'a [[u8; 3]],
    /// Width and height.
    pub size: [usize; 2],
    /// Pixels.
    pub focal: f32,
    /// Pixels.
    pub principal_point: [f32; 2],
}

/// The areas of a face model in which colours are compared.
#[derive(Debug)]
pub struct ColorFitter {
    /// Stored vertices of the face model.
    vertices: usize,
    /// The vertices of each area, one area after the other, and where each begins and the last ends.
    members: Vec<u32>,
    bounds: Vec<usize>,
    /// What an area counts for each vertex of it that is seen.
    weights: Vec<f32>,
    areas: Areas,
}

/// What [`ColorFitter::fit`] returns.
#[derive(Debug, Clone, PartialEq)]
pub struct ColorFits {
    /// `(F, n_albedo)` standard deviations.
    pub albedo: Vec<f32>,
    /// `(F, 3, 9)`, the ambient term included.
    pub illumination: Vec<[f32; ILLUMINATION]>,
}

impl ColorFitter {
    /// Cuts a face model into areas. `weights` `(N0,)` says what each stored vertex counts; 0 leaves it out. Vertices of
    /// different regions are never in one area.
    ///
    /// # Errors
    /// Another length, a non-finite or negative weight.
    pub fn new(model: &FaceModel, weights: &[f32]) -> Result<Self> {
        let (mean_shape, regions) = (model.mean_shape(), model.regions());
        let stored = model.n_stored();
        check::length("weights", weights.len(), stored, "vertices")?;
        check::finite("weights", weights)?;
        check::not_negative("weights", weights)?;
        let mut groups = Vec::new();
        for region in 0..=u8::MAX {
            let mut order: Vec<_> = (0..stored).filter(|&v| regions[v] == region && weights[v] > 0.0).collect();
            if !order.is_empty() {
                cut(mean_shape, &mut order, AREA, &mut groups);
            }
        }
        let (columns, mean_albedo) = (model.n_albedo(), model.mean_albedo());
        let mut areas = Areas::new(columns);
        for group in &groups {
            let mut basis = vec![0.0; 3 * columns];
            for (channel, row) in basis.chunks_mut(columns.max(1)).enumerate() {
                for &vertex in group {
                    for (sum, value) in row.iter_mut().zip(model.albedo_row(vertex, channel)) {
                        *sum += value / group.len() as f32;
                    }
                }
            }
            areas.push(std::array::from_fn(|c| mean_of(group, |v| mean_albedo[v][c])), &basis);
        }
        let mut bounds = vec![0];
        for group in &groups {
            bounds.push(bounds[bounds.len() - 1] + group.len());
        }
        Ok(Self {
            vertices: stored,
            members: groups.iter().flatten().map(|&v| v as u32).collect(),
            bounds,
            weights: groups.iter().map(|group| mean_of(group, |v| weights[v])).collect(),
            areas,
        })
    }

    /// How many areas there are.
    pub fn n_areas(&self) -> usize {
        self.areas.len()
    }

    /// Fits F faces with stored `vertices_camera` and their unit `normals_camera` `(F, N0, 3)`, in mm and the camera frame. `albedo`
    /// `(F, n_albedo)` and `illumination` `(F, 3, 9)` are what is expected; a face of which too little is seen keeps them.
    ///
    /// # Errors
    /// Lengths that do not fit, a non-finite value, a camera without positive focal length, too many threads.
    pub fn fit(
        &self,
        photo: &Photo<'_>,
        (vertices_camera, normals_camera): (&[[f32; 3]], &[[f32; 3]]),
        (albedo, illumination): (&[f32], &[[f32; ILLUMINATION]]),
        threads: usize,
    ) -> Result<ColorFits> {
        let faces = illumination.len();
        check::camera(photo.focal, photo.principal_point)?;
        check::length("pixels", photo.pixels.len(), photo.size[0] * photo.size[1], "pixels")?;
        check::length("vertices_camera", vertices_camera.len(), faces * self.vertices, "rows")?;
        check::length("normals_camera", normals_camera.len(), faces * self.vertices, "rows")?;
        check::length("albedo", albedo.len(), faces * self.areas.columns(), "values")?;
        check::finite("albedo", albedo)?;
        check::finite("illumination", illumination.as_flattened())?;
        let mut out = ColorFits { albedo: albedo.to_vec(), illumination: illumination.to_vec() };
        if faces == 0 {
            return Ok(out);
        }
        let mut projected = vec![Projected::default(); faces];
        let (points, directions) = (check::Parts::new(), check::Parts::new());
        let meshes = vertices_camera.chunks(self.vertices).zip(normals_camera.chunks(self.vertices)).enumerate();
        parallel::for_each(threads, projected.iter_mut().zip(meshes), |(out, (face, (vertices, normals)))| {
            let first = 3 * self.vertices * face;
            if points.finite(first, vertices.as_flattened()) & directions.finite(first, normals.as_flattened()) {
                *out = Projected::new(vertices, photo);
            }
        })?;
        points.result("vertices_camera")?;
        directions.result("normals_camera")?;
        let normals = normals_camera.chunks(self.vertices);
        let coefficients = out.albedo.chunks_mut(self.areas.columns().max(1)).zip(&mut out.illumination);
        let parts = projected.iter().zip(vertices_camera.chunks(self.vertices).zip(normals)).zip(coefficients);
        parallel::for_each(threads, parts, |((own, (vertices, normals)), (albedo, illumination))| {
            let seen = self.seen(photo, own, &projected, (vertices, normals));
            if seen.len() >= LEAST_AREAS {
                self.areas.solve(&seen, albedo, illumination);
            }
        })?;
        Ok(out)
    }

    /// The areas that are seen, with what the photo shows of them.
    fn seen(
        &self,
        photo: &Photo<'_>,
        own: &Projected,
        all: &[Projected],
        (vertices, normals): (&[[f32; 3]], &[[f32; 3]]),
    ) -> Vec<Seen> {
        // An area carries as much as the pixels that it covers, at most as much as its vertices.
        let pixels = FACE_IN_BOX * (own.high[0] - own.low[0]) * (own.high[1] - own.low[1]) / self.n_areas() as f32;
        let share = (pixels / AREA as f32).min(1.0);
        let mut out = Vec::with_capacity(self.n_areas());
        let grid = Grid::new(own, all);
        simd::run(Look {
            fitter: self,
            photo,
            places: &own.places,
            grid: &grid,
            vertices,
            normals,
            share,
            out: &mut out,
        });
        out
    }
}

/// Looks at the areas of a face.
struct Look<'a> {
    fitter: &'a ColorFitter,
    photo: &'a Photo<'a>,
    places: &'a [[f32; 3]],
    grid: &'a Grid,
    vertices: &'a [[f32; 3]],
    normals: &'a [[f32; 3]],
    /// What an area carries.
    share: f32,
    out: &'a mut Vec<Seen>,
}

impl Kernel for Look<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { fitter, photo, places, grid, vertices, normals, share, out } = self;
        let facing = facing(vertices.as_flattened(), normals.as_flattened());
        let normals = normals.as_flattened();
        for (area, bounds) in fitter.bounds.windows(2).enumerate() {
            // Sums over the vertices that are seen, each times how squarely it faces the camera: RGB and 1, and the normal.
            let (mut color, mut normal) = (f32x4::ZERO, f32x4::ZERO);
            for &vertex in &fitter.members[bounds[0]..bounds[1]] {
                let vertex = vertex as usize;
                let facing = facing[vertex];
                // Not a number where the vertex is at the camera: never seen.
                if facing > GRAZING {
                    let place = places[vertex];
                    if photo.contains(place) && grid.shows(vertex, place[2]) {
                        let facing = f32x4::splat(facing);
                        color += facing * photo.color(place);
                        normal += facing * point(normals, vertex);
                    }
                }
            }
            let ([red, green, blue, weight], [x, y, z, _]) = (color.to_array(), normal.to_array());
            if weight > 0.0 {
                let [x, y, z] = normalised([x, y, z], f32::MIN_POSITIVE);
                out.push(Seen {
                    area,
                    weight: share * fitter.weights[area] * weight,
                    color: [red, green, blue].map(|c| c / (255.0 * weight)),
                    bands: padded(harmonics([x, -y, -z])), // of the OpenGL frame
                });
            }
        }
    }
}

/// The cosine between each normal and the line of sight; both flat, three coordinates each.
#[inline(always)]
fn facing(vertices: &[f32], normals: &[f32]) -> Vec<f32> {
    let dot = |a: [f32x4; 3], b: [f32x4; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    let count = vertices.len() / 3;
    let mut out = Vec::with_capacity(count + 4);
    for first in (0..count).step_by(4) {
        let four = four(first, count - first);
        let (point, normal) = (points(vertices, four), points(normals, four));
        out.extend((-(dot(point, normal) / dot(point, point).sqrt())).to_array());
    }
    out
}

impl Photo<'_> {
    /// Whether the pixels around a place are there.
    fn contains(&self, [x, y, _]: [f32; 3]) -> bool {
        (x > 1.0) & (y > 1.0) & (x < self.size[0] as f32 - 1.0) & (y < self.size[1] as f32 - 1.0)
    }

    /// The colour at a place inside, interpolated between pixel centres, 0 to 255; and 1.
    #[inline(always)]
    fn color(&self, [x, y, _]: [f32; 3]) -> f32x4 {
        let (x, y) = (x - 0.5, y - 0.5);
        let (column, row) = (x as i32, y as i32);
        let (u, v) = (x - column as f32, y - row as f32);
        let first = row as usize * self.size[0] + column as usize;
        let below = first + self.size[0];
        let [a, b] = [(1.0 - u) * (1.0 - v), u * (1.0 - v)];
        let [c, d] = [(1.0 - u) * v, u * v];
        let pixels = self.pixels.as_flattened();
        let value = |weight: f32, pixel: usize| f32x4::splat(weight) * pixel_at(pixels, pixel);
        let [red, green, blue, _] =
            ((value(a, first) + value(b, first + 1)) + (value(c, below) + value(d, below + 1))).to_array();
        f32x4::new([red, green, blue, 1.0])
    }
}

/// A pixel's channels, and anything.
#[inline(always)]
fn pixel_at(channels: &[u8], pixel: usize) -> f32x4 {
    match channels[3 * pixel..].first_chunk::<4>() {
        Some(&four) => i32x4::new(four.map(i32::from)).round_float(),
        None => last_pixel(channels),
    }
}

/// Apart, as [`crate::simd::point`]'s last one.
#[cold]
#[inline(never)]
fn last_pixel(channels: &[u8]) -> f32x4 {
    channels.last_chunk::<3>().map_or(f32x4::ZERO, |&[r, g, b]| f32x4::new([r, g, b, 0].map(f32::from)))
}

/// The stored vertices of a face in the photo.
#[derive(Debug, Clone, Default)]
struct Projected {
    /// x and y in pixels, Z in mm; not a number where Z ≤ 0.
    places: Vec<[f32; 3]>,
    /// Of all that are numbers.
    low: [f32; 2],
    high: [f32; 2],
}

impl Projected {
    fn new(vertices: &[[f32; 3]], photo: &Photo<'_>) -> Self {
        let mut out = Self { places: vec![[0.0; 3]; vertices.len()], ..Self::default() };
        simd::run(Place { vertices: vertices.as_flattened(), photo, out: &mut out });
        out
    }

    fn meets(&self, other: &Self) -> bool {
        (0..2).all(|axis| self.low[axis] <= other.high[axis] && other.low[axis] <= self.high[axis])
    }
}

/// Projects the vertices of a face.
struct Place<'a> {
    vertices: &'a [f32],
    photo: &'a Photo<'a>,
    out: &'a mut Projected,
}

impl Kernel for Place<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { vertices, photo, out } = self;
        let (focal, [cx, cy]) = (f32x4::splat(photo.focal), photo.principal_point);
        let (cx, cy, nowhere) = (f32x4::splat(cx), f32x4::splat(cy), f32x4::splat(f32::NAN));
        let (mut low, mut high) = ([f32x4::splat(f32::INFINITY); 2], [f32x4::splat(f32::NEG_INFINITY); 2]);
        for (k, out) in out.places.chunks_mut(4).enumerate() {
            let [x, y, z] = points(vertices, four(4 * k, out.len()));
            let there = z.simd_gt(f32x4::ZERO);
            let scale = focal / z;
            let (x, y) = (there.select(cx + scale * x, nowhere), there.select(cy + scale * y, nowhere));
            for (axis, value) in [x, y].into_iter().enumerate() {
                low[axis] = value.simd_lt(low[axis]).select(value, low[axis]);
                high[axis] = value.simd_gt(high[axis]).select(value, high[axis]);
            }
            write_four([x, y, there.select(z, nowhere)], out);
        }
        let low = |axis: usize| low[axis].to_array().into_iter().fold(f32::INFINITY, f32::min);
        let high = |axis: usize| high[axis].to_array().into_iter().fold(f32::NEG_INFINITY, f32::max);
        (out.low, out.high) = ([low(0), low(1)], [high(0), high(1)]);
    }
}

/// Numbers of four vertices from the `first` on; beyond so many, the last one again.
#[inline(always)]
fn four(first: usize, count: usize) -> [i32; 4] {
    let at = |l: usize| (first + l.min(count - 1)) as i32;
    [at(0), at(1), at(2), at(3)]
}

/// The nearest depth of any face in each cell around one face.
struct Grid {
    low: [f32; 2],
    scale: f32,
    /// `(CELLS, CELLS)` mm, and that of [`NO_CELL`].
    nearest: Vec<f32>,
    /// The cell of each vertex of the face.
    cells: Vec<u16>,
    tolerance: f32,
}

/// The cell of what is not in the grid.
const NO_CELL: u16 = (CELLS * CELLS) as u16;

impl Grid {
    fn new(own: &Projected, all: &[Projected]) -> Self {
        let side = (own.high[0] - own.low[0]).max(own.high[1] - own.low[1]);
        let mut grid = Self {
            low: own.low,
            scale: CELLS as f32 / side,
            nearest: vec![f32::INFINITY; CELLS * CELLS + 1],
            cells: Vec::new(),
            tolerance: 0.0,
        };
        let (cells, [near, far]) = grid.drawn(own);
        grid.cells = cells;
        grid.tolerance = BEHIND * (far - near);
        for face in all.iter().filter(|face| !std::ptr::eq(*face, own) && face.meets(own)) {
            grid.drawn(face);
        }
        grid.nearest[usize::from(NO_CELL)] = f32::NEG_INFINITY;
        grid
    }

    /// Notes the depths of a face; returns the cells of its vertices, and the least and greatest depth in the grid.
    fn drawn(&mut self, face: &Projected) -> (Vec<u16>, [f32; 2]) {
        let (mut cells, mut depths) = (vec![NO_CELL; face.places.len()], [f32::INFINITY, 0.0]);
        let places = face.places.as_flattened();
        simd::run(Cells { low: self.low, scale: self.scale, places, out: &mut cells, depths: &mut depths });
        for (&cell, &[_, _, depth]) in cells.iter().zip(&face.places) {
            let nearest = &mut self.nearest[usize::from(cell)];
            *nearest = if depth < *nearest { depth } else { *nearest };
        }
        (cells, depths)
    }

    /// Whether a vertex of the face is seen.
    fn shows(&self, vertex: usize, depth: f32) -> bool {
        depth <= self.nearest[usize::from(self.cells[vertex])] + self.tolerance
    }
}

/// Finds the cells of places.
struct Cells<'a> {
    low: [f32; 2],
    scale: f32,
    places: &'a [f32],
    out: &'a mut [u16],
    /// The least and greatest depth of those that have a cell.
    depths: &'a mut [f32; 2],
}

impl Kernel for Cells<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (low_x, low_y) = (f32x4::splat(self.low[0]), f32x4::splat(self.low[1]));
        let (scale, side, last) =
            (f32x4::splat(self.scale), f32x4::splat(CELLS as f32), i32x4::splat(CELLS as i32 - 1));
        let inside = |at: f32x4| at.simd_ge(f32x4::ZERO) & at.simd_le(side);
        let [mut near, mut far] = self.depths.map(f32x4::splat);
        for (k, out) in self.out.chunks_mut(4).enumerate() {
            let [x, y, z] = points(self.places, four(4 * k, out.len()));
            let (x, y) = ((x - low_x) * scale, (y - low_y) * scale);
            let there = inside(x) & inside(y);
            near = (there & z.simd_lt(near)).select(z, near);
            far = (there & z.simd_gt(far)).select(z, far);
            let there: i32x4 = bytemuck::cast(there);
            // What is not inside is no number, perhaps, but not looked at either.
            let (column, row) = (x.fast_trunc_int().min(last), y.fast_trunc_int().min(last));
            let cells = there.select(row * i32x4::splat(CELLS as i32) + column, i32x4::splat(i32::from(NO_CELL)));
            for (out, cell) in out.iter_mut().zip(cells.to_array()) {
                *out = cell as u16;
            }
        }
        *self.depths =
            [near.to_array().into_iter().fold(f32::INFINITY, f32::min), far.to_array().into_iter().fold(0.0, f32::max)];
    }
}

fn mean_of(vertices: &[usize], value: impl Fn(usize) -> f32) -> f32 {
    vertices.iter().map(|&v| value(v)).sum::<f32>() / vertices.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_read_between_pixels() {
        let pixels: Vec<[u8; 3]> = (0..12).map(|i| [10 * i as u8, 255, 20 * (i / 4) as u8]).collect();
        let photo = Photo { pixels: &pixels, size: [4, 3], focal: 1.0, principal_point: [0.0; 2] };
        let [red, green, blue, one] = photo.color([1.75, 1.5, 9.0]).to_array();
        assert!((red - 52.5).abs() < 1e-4 && green == 255.0 && (blue - 20.0).abs() < 1e-4 && one == 1.0);
        let [red, green, blue, one] = photo.color([2.99, 1.99, 9.0]).to_array(); // the last pixel among them
        assert!((red - 84.5).abs() < 1e-3 && (green - 255.0).abs() < 1e-3 && (blue - 29.8).abs() < 1e-3 && one == 1.0);
        assert!(photo.contains([1.01, 1.9, 0.0]) && !photo.contains([3.2, 1.5, 0.0]) && !photo.contains([f32::NAN; 3]));
    }
}
