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
use crate::mesh::{between, four_normals, points};
use crate::raster::{self, Meshes, Patch, Raster, Shader, View};

/// The stored meshes of F faces in the camera frame.
#[derive(Debug, Clone, Copy)]
pub struct Surfaces<'a> {
    /// `(F, N0, 3)` mm.
    pub vertices: &'a [[f32; 3]],
    /// `(F, N0, 3)` unit normals of the vertices, as [`FaceModel::stored_normals`] returns them.
    pub normals: &'a [[f32; 3]],
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
    check::finite("normals", surfaces.normals.as_flattened())?;
    check::finite("illumination", illumination.as_flattened())?;
    let albedo = model.stored_albedos(faces, albedo, threads)?;
    let shaded = Shaded {
        model,
        surfaces,
        albedo: &albedo,
        lights: illumination.iter().map(|i| Light::new(i, Frame::Camera)).collect(),
    };
    let meshes = Meshes { vertices_camera: surfaces.vertices, faces, triangles, split: model.is_refined() };
    raster::render(&meshes, view, &shaded, threads)
}

/// The colours of F faces.
struct Shaded<'a> {
    model: &'a FaceModel,
    surfaces: &'a Surfaces<'a>,
    /// `(F, N0, 3)`
    albedo: &'a [[f32; 3]],
    lights: Vec<Light>,
}

impl<'a> Shader for Shaded<'a> {
    #[inline(always)]
    fn shade(&self, face: usize, triangle: usize) -> Patch {
        let (n, (corners, beyond)) = (self.model.n_stored(), self.model.stored_mesh());
        let of_face = |points: &'a [[f32; 3]]| points[face * n..][..n].as_flattened();
        let (vertices, normals) = (of_face(self.surfaces.vertices), of_face(self.surfaces.normals));
        let (albedo, light) = (of_face(self.albedo), &self.lights[face]);
        let own = corners[triangle];
        let [a, b, c] = own;
        let [red, green, blue] = points(albedo, [a, b, c, c]);
        let [a, b, c, _] = colored(light, [red, green, blue], points(normals, [a, b, c, c]));
        let Some(&[p, q, r]) = beyond.get(triangle) else {
            return [a, b, c, a, b, c];
        };
        let others = [corners[p as usize], corners[q as usize], corners[r as usize]];
        let [x, y, z] = four_normals(vertices, [others[0], others[1], others[2], own]);
        let last = |axis: f32x4| f32x4::splat(axis.to_array()[3]);
        let midpoints = between([x, y, z], [last(x), last(y), last(z)]);
        let half = |channel: f32x4| {
            let [a, b, c, _] = channel.to_array();
            (channel + f32x4::new([b, c, a, a])) * f32x4::splat(0.5)
        };
        let [ab, bc, ca, _] = colored(light, [half(red), half(green), half(blue)], midpoints);
        [a, b, c, ab, bc, ca]
    }
}

/// Albedo times light, clipped, of four points.
#[inline(always)]
fn colored(light: &Light, albedo: [f32x4; 3], normals: [f32x4; 3]) -> [[f32; 4]; 4] {
    let (shades, zero, one) = (light.shade_four(normals), f32x4::ZERO, f32x4::splat(1.0));
    let color = |k: usize| (shades[k] * albedo[k]).fast_max(zero).fast_min(one);
    let [a, b, c, d] = f32x4::transpose([color(0), color(1), color(2), zero]);
    [a.to_array(), b.to_array(), c.to_array(), d.to_array()]
}
