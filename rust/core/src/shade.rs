//! Faces drawn with their colours: albedo times light (CONVENTIONS.md §6), computed where a pixel sees it.
//!
//! A face in a photo shows a part of its vertices: half face away, and one of 100 px has more refined vertices than pixels. So
//! the raster goes first, and only triangles of which it shows something are shaded, on the stored mesh, at their corners and
//! the midpoints of their edges. The bits are those of the whole arrays, [`FaceModel::albedos`], [`FaceModel::normals`] and
//! [`crate::illumination::colors`], carried to the pixels.

use wide::f32x4;

use crate::check;
use crate::error::Result;
use crate::face_model::FaceModel;
use crate::illumination::{Frame, ILLUMINATION, LANES, Light};
use crate::mesh::CANCELLED;
use crate::raster::{self, Meshes, Patch, Raster, Shader, View};
use crate::simd::{self, Kernel, Lanes};

/// The stored meshes of F faces in the camera frame.
#[derive(Debug, Clone, Copy)]
pub struct Surfaces<'a> {
    /// `(F, N0, 3)` mm.
    pub vertices: &'a [[f32; 3]],
    /// `(F, N0, 3)` unit normals of the vertices, as [`FaceModel::stored_normals`] returns them.
    pub normals: &'a [[f32; 3]],
    /// `(F, T0, 3)` unit normals of the triangles, from there, too.
    pub triangle_normals: &'a [[f32; 3]],
}

/// Draws F faces with `albedo` `(F, n_albedo)` under `illumination` `(F, 3, 9)`: the raster, and RGB `(H, W)`, 0 where there is
/// nothing.
///
/// # Errors
/// Lengths that do not fit, a non-finite value, and those of [`raster::draw`].
pub fn render(
    model: &FaceModel,
    surfaces: &Surfaces<'_>,
    (albedo, illumination): (&[f32], &[[f32; ILLUMINATION]]),
    view: &View,
    threads: usize,
) -> Result<(Raster, Vec<[u8; 3]>)> {
    let faces = illumination.len();
    let (n, (triangles, _)) = (model.n_stored(), model.stored_mesh());
    check::length("vertices", surfaces.vertices.len(), faces * n, "rows")?;
    check::length("normals", surfaces.normals.len(), faces * n, "rows")?;
    check::length("triangle_normals", surfaces.triangle_normals.len(), faces * triangles.len(), "rows")?;
    check::finite("normals", surfaces.normals.as_flattened())?;
    check::finite("triangle_normals", surfaces.triangle_normals.as_flattened())?;
    check::finite("illumination", illumination.as_flattened())?;
    let shaded = Shaded {
        model,
        normals: surfaces.normals,
        triangle_normals: surfaces.triangle_normals,
        albedo: model.stored_albedos(faces, albedo, threads)?,
        lights: illumination.iter().map(|i| Light::new(i, Frame::Camera)).collect(),
    };
    let meshes = Meshes { vertices_camera: surfaces.vertices, faces, triangles, split: model.is_refined() };
    raster::draw(&meshes, view, Some(&shaded), threads)
}

/// The colours of F faces.
struct Shaded<'a> {
    model: &'a FaceModel,
    normals: &'a [[f32; 3]],
    triangle_normals: &'a [[f32; 3]],
    /// `(F, N0, 3)`
    albedo: Vec<[f32; 3]>,
    lights: Vec<Light>,
}

impl Shader for Shaded<'_> {
    fn shade(&self, face: usize, triangles: &[u32], out: &mut Vec<Patch>) {
        let (n, (corners, beyond)) = (self.model.n_stored(), self.model.stored_mesh());
        simd::run(Shade {
            triangles,
            corners,
            beyond,
            normals: &self.normals[face * n..][..n],
            triangle_normals: &self.triangle_normals[face * corners.len()..][..corners.len()],
            albedo: &self.albedo[face * n..][..n],
            light: &self.lights[face],
            out,
        });
    }
}

/// Shades triangles of one face.
struct Shade<'a> {
    triangles: &'a [u32],
    corners: &'a [[i32; 3]],
    /// Empty for a mesh that is not refined.
    beyond: &'a [[u32; 3]],
    normals: &'a [[f32; 3]],
    triangle_normals: &'a [[f32; 3]],
    albedo: &'a [[f32; 3]],
    light: &'a Light,
    out: &'a mut Vec<Patch>,
}

/// Points of as many triangles: coordinates or channels apart, so that the compiler fills registers with them.
type Points = [[f32; LANES]; 3];

impl Kernel for Shade<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Self { triangles, corners, beyond, normals, triangle_normals, albedo, light, out } = self;
        for some in triangles.chunks(LANES) {
            // Beyond the end, the last one again.
            let numbers: [usize; LANES] = std::array::from_fn(|l| some[l.min(some.len() - 1)] as usize);
            let corner = |k: usize| numbers.map(|t| corners[t][k] as usize);
            let places = [corner(0), corner(1), corner(2)];
            let albedos = places.map(|place| gathered(albedo, place));
            let mut points = [[[0.0; LANES]; 3]; 6];
            for k in 0..3 {
                points[k] = colors(light, &albedos[k], &gathered(normals, places[k]));
            }
            if !beyond.is_empty() {
                let own = gathered(triangle_normals, numbers);
                for k in 0..3 {
                    let other = gathered(triangle_normals, numbers.map(|t| beyond[t][k] as usize));
                    let reflected = middles(&albedos[k], &albedos[(k + 1) % 3]);
                    points[3 + k] = colors(light, &reflected, &normalised_sums(&own, &other));
                }
            }
            for first in (0..some.len()).step_by(4) {
                let [a, b, c, d, e, f] = points.map(|point| rows(&point, first));
                let patches: [Patch; 4] = std::array::from_fn(|l| [a[l], b[l], c[l], d[l], e[l], f[l]]);
                out.extend_from_slice(&patches[..(some.len() - first).min(4)]);
            }
        }
    }
}

#[inline(always)]
fn gathered(points: &[[f32; 3]], places: [usize; LANES]) -> Points {
    let points = places.map(|place| points[place]);
    std::array::from_fn(|axis| std::array::from_fn(|l| points[l][axis]))
}

#[inline(always)]
fn middles(a: &Points, b: &Points) -> Points {
    std::array::from_fn(|axis| std::array::from_fn(|l| (a[axis][l] + b[axis][l]) * 0.5))
}

/// Normals of midpoints from those of the triangles on both sides. Twice the same one gives itself.
#[inline(always)]
fn normalised_sums(a: &Points, b: &Points) -> Points {
    let [x, y, z]: Points = std::array::from_fn(|axis| std::array::from_fn(|l| a[axis][l] + b[axis][l]));
    let scale: [f32; LANES] = std::array::from_fn(|l| {
        let square = x[l] * x[l] + y[l] * y[l] + z[l] * z[l];
        let scale = 1.0 / square.sqrt();
        if square >= CANCELLED * CANCELLED { scale } else { 0.0 }
    });
    [x, y, z].map(|axis| std::array::from_fn(|l| axis[l] * scale[l]))
}

/// Albedo times light, clipped.
#[inline(always)]
fn colors(light: &Light, albedo: &Points, normals: &Points) -> Points {
    let shades = light.shades(normals);
    std::array::from_fn(|c| std::array::from_fn(|l| (shades[c][l] * albedo[c][l]).clamp(0.0, 1.0)))
}

/// Four points from the `first` on, channels together.
#[inline(always)]
fn rows(points: &Points, first: usize) -> [[f32; 4]; 4] {
    let channel = |k: usize| points[k][first..].first_chunk().map_or(f32x4::ZERO, |four| f32x4::new(*four));
    f32x4::transpose([channel(0), channel(1), channel(2), f32x4::ZERO]).map(f32x4::to_array)
}
