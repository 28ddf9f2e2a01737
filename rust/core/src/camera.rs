//! Model → camera → pixels (CONVENTIONS.md §2, §3).

use wide::f32x4;

use crate::check;
use crate::error::{Error, Result};
use crate::face_model::FaceModel;
use crate::mesh::{points, write_four};
use crate::parallel;
use crate::patches::Placed;
use crate::simd::{self, Kernel, Lanes};

/// Vertices that one thread takes at a time.
const POINTS_PER_PART: usize = 16384;

/// `X_camera = R X_model + t` for `(F, N, 3)` vertices.
///
/// # Errors
/// Lengths that do not fit, a non-finite value, too many threads.
pub fn transform(
    vertices_model: &[[f32; 3]],
    rotations: &[[f32; 9]],
    translations: &[[f32; 3]],
    threads: usize,
) -> Result<Vec<[f32; 3]>> {
    let n = check_rigid("vertices_model", vertices_model.len(), rotations, translations)?;
    check::finite("vertices_model", vertices_model.as_flattened())?;
    let mut out = vec![[0.0; 3]; vertices_model.len()];
    if n == 0 {
        return Ok(out);
    }
    let faces = out.chunks_mut(n).zip(vertices_model.chunks(n)).zip(rotations.iter().zip(translations));
    let parts = faces.flat_map(|((out, vertices), rigid)| {
        out.chunks_mut(POINTS_PER_PART).zip(vertices.chunks(POINTS_PER_PART)).map(move |(o, v)| (o, v, rigid))
    });
    parallel::for_each(threads, parts, |(out, vertices, (rotation, translation))| {
        out.copy_from_slice(vertices);
        simd::run(Move { points: out, rotation, translation });
    })?;
    Ok(out)
}

/// `u = cx + f X/Z`, `v = cy + f Y/Z` for camera-frame points, pixels (METHOD.md, camera).
///
/// # Errors
/// A point with Z ≤ 0, a non-finite value, a focal length that is not positive.
pub fn project(points_camera: &[[f32; 3]], focal: f32, principal_point: [f32; 2]) -> Result<Vec<[f32; 2]>> {
    check::camera(focal, principal_point)?;
    check::finite("points_camera", points_camera.as_flattened())?;
    let nearest = points_camera.iter().fold(f32::INFINITY, |z, p| z.min(p[2]));
    if nearest <= 0.0 {
        return Err(Error::value("points_camera", format!("a point with Z = {nearest}"), "Z > 0"));
    }
    Ok(points_camera.iter().map(|p| projected(*p, focal, principal_point)).collect())
}

/// The boxes `(x0, y0, x1, y1)` of the projected meshes, exact and not clipped to the image.
///
/// A refined vertex lies between two stored ones, before and after projection, so the stored ones bound it; of those, only
/// the ones are decoded that the bounds of the module `patches` cannot exclude.
///
/// # Errors
/// As [`FaceModel::shapes`], [`transform`] and [`project`].
pub fn boxes(
    model: &FaceModel,
    shape: (&[f32], &[f32]),
    (rotations, translations): (&[[f32; 9]], &[[f32; 3]]),
    focal: f32,
    principal_point: [f32; 2],
    threads: usize,
) -> Result<Vec<[f32; 4]>> {
    check::camera(focal, principal_point)?;
    let out = model.boxes(shape, &Placed { rotations, translations, focal, principal_point }, threads)?;
    match out.iter().position(|b| b[0].is_nan()) {
        None => Ok(out),
        Some(face) => Err(Error::value("translations", format!("face {face} with a vertex at Z <= 0"), "Z > 0")),
    }
}

/// Moves points, each as [`moved`] does.
pub(crate) struct Move<'a> {
    pub(crate) points: &'a mut [[f32; 3]],
    pub(crate) rotation: &'a [f32; 9],
    pub(crate) translation: &'a [f32; 3],
}

impl Kernel for Move<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (r, t) = (|k: usize| f32x4::splat(self.rotation[k]), |k: usize| f32x4::splat(self.translation[k]));
        let (fours, rest) = self.points.as_chunks_mut::<4>();
        for four in fours {
            let [x, y, z] = points(four.as_flattened(), [0, 1, 2, 3]);
            let row = |k: usize| r(3 * k) * x + r(3 * k + 1) * y + r(3 * k + 2) * z + t(k);
            write_four([row(0), row(1), row(2)], four);
        }
        for point in rest {
            *point = moved(*point, self.rotation, self.translation);
        }
    }
}

#[inline(always)]
pub(crate) fn moved(v: [f32; 3], r: &[f32; 9], t: &[f32; 3]) -> [f32; 3] {
    [
        r[0] * v[0] + r[1] * v[1] + r[2] * v[2] + t[0],
        r[3] * v[0] + r[4] * v[1] + r[5] * v[2] + t[1],
        r[6] * v[0] + r[7] * v[1] + r[8] * v[2] + t[2],
    ]
}

#[inline(always)]
pub(crate) fn projected(p: [f32; 3], focal: f32, principal_point: [f32; 2]) -> [f32; 2] {
    let scale = focal / p[2];
    [principal_point[0] + scale * p[0], principal_point[1] + scale * p[1]]
}

/// Checks rigid motions of F faces against `count` vertices; returns the vertices per face.
pub(crate) fn check_rigid(
    name: &'static str,
    count: usize,
    rotations: &[[f32; 9]],
    translations: &[[f32; 3]],
) -> Result<usize> {
    check::length("translations", translations.len(), rotations.len(), "faces")?;
    let n = check::per_face(name, count, rotations.len())?;
    check::finite("rotations", rotations.as_flattened())?;
    check::finite("translations", translations.as_flattened())?;
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projection_is_off_centre_and_asymmetric() {
        let points = [[100.0, -50.0, 1000.0], [-20.0, 30.0, 500.0]];
        let px = project(&points, 1015.0, [300.0, 200.0]).unwrap();
        assert_eq!(px, [[401.5, 149.25], [259.4, 260.9]]);
        let message = project(&[[0.0, 0.0, -2.0]], 1.0, [0.0; 2]).unwrap_err().to_string();
        assert_eq!(message, "'points_camera' has a point with Z = -2, expected Z > 0");
        let message = project(&points, 0.0, [0.0; 2]).unwrap_err().to_string();
        assert_eq!(message, "'focal' has 0, expected a positive finite number of pixels");
    }

    #[test]
    fn each_face_has_its_own_motion() {
        let quarter = [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let vertices = vec![[1.0, 2.0, 3.0]; 40_000];
        for threads in [1, 2, 5] {
            let out = transform(&vertices, &[quarter, identity], &[[0.0; 3], [0.5; 3]], threads).unwrap();
            assert!(out[..20_000].iter().all(|v| *v == [-2.0, 1.0, 3.0]));
            assert!(out[20_000..].iter().all(|v| *v == [1.5, 2.5, 3.5]));
        }
        assert!(transform(&vertices[..3], &[quarter, identity], &[[0.0; 3]; 2], 1).is_err());
    }
}
