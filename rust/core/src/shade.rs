//! Faces drawn with their colours: albedo times light (CONVENTIONS.md §6), computed where a pixel sees it.
//!
//! A face in a photo shows a part of its vertices: half face away, and one of 100 px has more refined vertices than pixels. So
//! only triangles of which the raster shows something are shaded, on the stored mesh, at their corners and the midpoints of
//! their edges. The bits are those of the whole arrays, [`FaceModel::albedos`], [`FaceModel::normals`] and
//! [`crate::illumination::colors`], carried to the pixels.

use wide::f32x4;

use crate::check;
use crate::error::Result;
use crate::face_model::FaceModel;
use crate::illumination::{Frame, ILLUMINATION, Light};
use crate::mesh::{between, points};
use crate::raster::{self, Meshes, Patch, Raster, Shader, View};
use crate::simd::point;

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
/// Lengths that do not fit, a non-finite value, and those of [`raster::rasterize`].
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
    raster::render(&meshes, view, &shaded, threads)
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
    #[inline(always)]
    fn shade(&self, face: usize, triangle: usize) -> Patch {
        let (n, (corners, beyond)) = (self.model.n_stored(), self.model.stored_mesh());
        let (normals, albedo) = (&self.normals[face * n..][..n], &self.albedo[face * n..][..n]);
        let (normals, albedo, light) = (normals.as_flattened(), albedo.as_flattened(), &self.lights[face]);
        let [a, b, c] = corners[triangle];
        let reflected = points(albedo, [a, b, c, c]);
        let [a, b, c, _] = colored(light, reflected, points(normals, [a, b, c, c]));
        // Without midpoints nobody looks at them.
        let [p, q, r] = beyond.get(triangle).map_or([triangle as i32; 3], |others| others.map(|other| other as i32));
        let units = self.triangle_normals[face * corners.len()..][..corners.len()].as_flattened();
        let own = point(units, triangle).to_array();
        let own = [f32x4::splat(own[0]), f32x4::splat(own[1]), f32x4::splat(own[2])];
        let midpoints = reflected.map(|channel| {
            let [a, b, c, _] = channel.to_array();
            (channel + f32x4::new([b, c, a, a])) * f32x4::splat(0.5)
        });
        let [ab, bc, ca, _] = colored(light, midpoints, between(own, points(units, [p, q, r, r])));
        [a, b, c, ab, bc, ca]
    }
}

/// Albedo times light, clipped, of four points.
#[inline(always)]
fn colored(light: &Light, albedo: [f32x4; 3], normals: [f32x4; 3]) -> [[f32; 4]; 4] {
    let (shades, zero, one) = (light.shade_four(normals), f32x4::ZERO, f32x4::splat(1.0));
    let [red, green, blue] = std::array::from_fn(|k| (shades[k] * albedo[k]).fast_max(zero).fast_min(one));
    f32x4::transpose([red, green, blue, zero]).map(f32x4::to_array)
}
