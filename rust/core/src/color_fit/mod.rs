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
use crate::mesh::normalised;
use crate::patches::cut;
use crate::{camera, parallel};
use solve::{Areas, Seen};

/// Vertices of an area.
const AREA: usize = 12;
/// Least cosine between a normal and the line of sight.
const GRAZING: f32 = 0.25;
/// Cells along the longer side of a face in the grid of nearest depths, and how far behind the nearest vertex of a cell
/// another is still seen, in shares of that side (10 mm of a face).
const CELLS: usize = 48;
const BEHIND: f32 = 0.05;
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
    /// Vertices of the mesh.
    vertices: usize,
    /// Of these the first are stored, the others midpoints.
    stored: usize,
    /// Vertex and its area.
    members: Vec<(u32, u32)>,
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
        Ok(Self {
            vertices: model.n_vertices(),
            stored,
            members: groups.iter().zip(0..).flat_map(|(group, k)| group.iter().map(move |&v| (v as u32, k))).collect(),
            weights: groups.iter().map(|group| mean_of(group, |v| weights[v])).collect(),
            areas,
        })
    }

    /// How many areas there are.
    pub fn n_areas(&self) -> usize {
        self.areas.len()
    }

    /// Fits F faces with `vertices_camera` and unit `normals_camera` `(F, N, 3)`, in mm and the camera frame. `albedo`
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
        check::finite("vertices_camera", vertices_camera.as_flattened())?;
        check::finite("normals_camera", normals_camera.as_flattened())?;
        check::finite("albedo", albedo)?;
        check::finite("illumination", illumination.as_flattened())?;
        let mut out = ColorFits { albedo: albedo.to_vec(), illumination: illumination.to_vec() };
        if faces == 0 {
            return Ok(out);
        }
        let mut projected = vec![Projected::default(); faces];
        let meshes = vertices_camera.chunks(self.vertices).map(|mesh| &mesh[..self.stored]);
        parallel::for_each(threads, projected.iter_mut().zip(meshes), |(out, mesh)| {
            *out = Projected::new(mesh, photo)
        })?;
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
        let grid = Grid::new(own, all);
        let mut sums = vec![Sum::default(); self.n_areas()];
        for &(vertex, area) in &self.members {
            let vertex = vertex as usize;
            let (point, place, normal) = (vertices[vertex], own.places[vertex], normals[vertex]);
            let dot = |a: [f32; 3], b: [f32; 3]| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
            let facing = -dot(point, normal) / dot(point, point).sqrt();
            // Not a number where the vertex is at the camera: never seen.
            if facing > GRAZING && photo.contains(place) && grid.shows(place) {
                sums[area as usize].add(facing, photo.color(place), normal);
            }
        }
        let seen = |(area, sum): (usize, Sum)| {
            let [x, y, z] = normalised(sum.normal, f32::MIN_POSITIVE);
            Seen {
                area,
                weight: self.weights[area] * sum.weight,
                color: sum.color.map(|c| c / sum.weight),
                bands: harmonics([x, -y, -z]), // of the OpenGL frame
            }
        };
        sums.into_iter().enumerate().filter(|(_, sum)| sum.weight > 0.0).map(seen).collect()
    }
}

/// Sums over the vertices of an area that are seen, each times how squarely it faces the camera.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    weight: f32,
    color: [f32; 3],
    normal: [f32; 3],
}

impl Sum {
    fn add(&mut self, facing: f32, color: [f32; 3], normal: [f32; 3]) {
        self.weight += facing;
        for axis in 0..3 {
            self.color[axis] += facing * color[axis];
            self.normal[axis] += facing * normal[axis];
        }
    }
}

impl Photo<'_> {
    /// Whether the pixels around a place are there.
    fn contains(&self, [x, y, _]: [f32; 3]) -> bool {
        x > 1.0 && y > 1.0 && x < self.size[0] as f32 - 1.0 && y < self.size[1] as f32 - 1.0
    }

    /// The colour at a place inside, interpolated between pixel centres, in [0, 1].
    fn color(&self, [x, y, _]: [f32; 3]) -> [f32; 3] {
        let (x, y) = (x - 0.5, y - 0.5);
        let (column, row) = (x as usize, y as usize);
        let (u, v) = (x - column as f32, y - row as f32);
        let upper = &self.pixels[row * self.size[0] + column..][..2];
        let lower = &self.pixels[(row + 1) * self.size[0] + column..][..2];
        std::array::from_fn(|c| {
            let mix = |pair: &[[u8; 3]]| f32::from(pair[0][c]) * (1.0 - u) + f32::from(pair[1][c]) * u;
            (mix(upper) * (1.0 - v) + mix(lower) * v) / 255.0
        })
    }
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
        let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
        let place = |&vertex: &[f32; 3]| {
            if vertex[2] <= 0.0 {
                return [f32::NAN; 3];
            }
            let [x, y] = camera::projected(vertex, photo.focal, photo.principal_point);
            (low, high) = ([low[0].min(x), low[1].min(y)], [high[0].max(x), high[1].max(y)]);
            [x, y, vertex[2]]
        };
        let places = vertices.iter().map(place).collect();
        Self { places, low, high }
    }

    fn meets(&self, other: &Self) -> bool {
        (0..2).all(|axis| self.low[axis] <= other.high[axis] && other.low[axis] <= self.high[axis])
    }
}

/// The nearest depth of any face in each cell around one face.
struct Grid {
    low: [f32; 2],
    scale: f32,
    tolerance: f32,
    /// `(CELLS, CELLS)` mm.
    nearest: Vec<f32>,
}

impl Grid {
    fn new(own: &Projected, all: &[Projected]) -> Self {
        let side = (own.high[0] - own.low[0]).max(own.high[1] - own.low[1]);
        let nearest_z = own.places.iter().fold(f32::INFINITY, |z, p| z.min(p[2]));
        let mut grid = Self {
            low: own.low,
            scale: CELLS as f32 / side,
            tolerance: 0.0,
            nearest: vec![f32::INFINITY; CELLS * CELLS],
        };
        // mm per pixel at the face is Z / f; Z spans about as much as the face is wide.
        let farthest_z = own.places.iter().fold(0.0, |z: f32, p| z.max(p[2]));
        grid.tolerance = BEHIND * (farthest_z - nearest_z);
        for face in all.iter().filter(|face| face.meets(own)) {
            for place in &face.places {
                if let Some(cell) = grid.cell(*place) {
                    grid.nearest[cell] = grid.nearest[cell].min(place[2]);
                }
            }
        }
        grid
    }

    fn cell(&self, [x, y, _]: [f32; 3]) -> Option<usize> {
        let (x, y) = ((x - self.low[0]) * self.scale, (y - self.low[1]) * self.scale);
        let inside = |v: f32| (0.0..=CELLS as f32).contains(&v);
        (inside(x) && inside(y)).then(|| (y as usize).min(CELLS - 1) * CELLS + (x as usize).min(CELLS - 1))
    }

    fn shows(&self, place: [f32; 3]) -> bool {
        self.cell(place).is_some_and(|cell| place[2] <= self.nearest[cell] + self.tolerance)
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
        let [red, green, blue] = photo.color([1.75, 1.5, 9.0]);
        assert!((red * 255.0 - 52.5).abs() < 1e-4 && green == 1.0 && (blue * 255.0 - 20.0).abs() < 1e-4);
        assert!(photo.contains([1.01, 1.9, 0.0]) && !photo.contains([3.2, 1.5, 0.0]) && !photo.contains([f32::NAN; 3]));
    }
}
