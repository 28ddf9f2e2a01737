//! Where a face is: rotation vectors, translations, head pose (CONVENTIONS.md §2, §3).

use crate::check;
use crate::error::{Error, Result};

/// Depth of a face whose raw depth offset is zero, in units of [`UNIT_MM`].
pub const DEPTH_OFFSET: f64 = 10.0;

/// Millimetres per unit of the raw depth offset.
pub const UNIT_MM: f64 = 100.0;

/// Below this angle (radians) the Taylor series of sin(a)/a and (1 − cos a)/a² are exact in double precision.
const SMALL_ANGLE: f64 = 1e-4;

/// Below this cosine of the yaw, roll and pitch turn about the same axis; the roll is then called zero.
const GIMBAL_COSINE: f64 = 1e-6;

/// Below this `1 + z`, the ray `(x, y, z)` points so nearly backwards that the smallest rotation to it is not defined.
const BACKWARDS: f64 = 1e-6;

/// Rotations model → camera, row-major, from rotation vectors ρ in radians: `R = exp([ρ]×) · diag(1, −1, −1)`, or with
/// translations `R = ray(t) · exp([ρ]×) · diag(1, −1, −1)`, for vectors relative to the viewing ray.
///
/// # Errors
/// Different numbers of vectors and translations, a non-finite value, a translation that is zero or points backwards.
pub fn rotations_from_vectors(vectors: &[[f32; 3]], translations: Option<&[[f32; 3]]>) -> Result<Vec<[f32; 9]>> {
    check::finite("vectors", vectors.as_flattened())?;
    let Some(translations) = translations else {
        return Ok(vectors.iter().map(|v| rounded(rotation_from_vector(v))).collect());
    };
    check::length("translations", translations.len(), vectors.len(), "rows")?;
    check::finite("translations", translations.as_flattened())?;
    let both = vectors.iter().zip(translations);
    both.map(|(v, t)| Ok(rounded(product(ray_rotation(t)?, rotation_from_vector(v))))).collect()
}

type Matrix = [[f64; 3]; 3];

fn product(a: Matrix, b: Matrix) -> Matrix {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

fn rounded(matrix: Matrix) -> [f32; 9] {
    std::array::from_fn(|i| matrix[i / 3][i % 3] as f32)
}

/// The smallest rotation that takes the z axis to the direction of `translation`.
fn ray_rotation(translation: &[f32; 3]) -> Result<Matrix> {
    let [x, y, z] = translation.map(f64::from);
    let length = (x * x + y * y + z * z).sqrt();
    let [x, y, z] = [x / length, y / length, z / length];
    if length == 0.0 || 1.0 + z <= BACKWARDS {
        return Err(Error::value("translations", format!("{translation:?}"), "points away from (0, 0, z <= 0)"));
    }
    let s = 1.0 / (1.0 + z);
    Ok([[1.0 - s * x * x, -s * x * y, x], [-s * x * y, 1.0 - s * y * y, y], [-x, -y, z]])
}

/// `exp([ρ]×) · diag(1, −1, −1)`
fn rotation_from_vector(vector: &[f32; 3]) -> Matrix {
    let [x, y, z] = vector.map(f64::from);
    let square = x * x + y * y + z * z;
    let angle = square.sqrt();
    // exp([ρ]×) = I + a [ρ]× + b [ρ]×², a = sin θ / θ, b = (1 − cos θ) / θ²
    let (a, b) = if angle < SMALL_ANGLE {
        (1.0 - square / 6.0, 0.5 - square / 24.0)
    } else {
        (angle.sin() / angle, (1.0 - angle.cos()) / square)
    };
    let exponential = [
        [1.0 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y],
        [b * x * y + a * z, 1.0 - b * (x * x + z * z), b * y * z - a * x],
        [b * x * z - a * y, b * y * z + a * x, 1.0 - b * (x * x + y * y)],
    ];
    exponential.map(|row| [row[0], -row[1], -row[2]])
}

/// Translations (mm, camera frame) from raw offsets `(d_x, d_y, d_z)` at the cell centres (network pixels).
///
/// `t_z = 100 (10 + d_z)`, `t_x = t_z (d_x + c_x − cx)/f`, `t_y = t_z (d_y + c_y − cy)/f` (METHOD.md, camera).
///
/// # Errors
/// Different numbers of offsets and centres, a non-finite value, a focal length that is not positive.
pub fn translations_from_offsets(
    offsets: &[[f32; 3]],
    centers: &[[f32; 2]],
    focal: f32,
    principal_point: [f32; 2],
) -> Result<Vec<[f32; 3]>> {
    check::length("centers", centers.len(), offsets.len(), "rows")?;
    check::finite("offsets", offsets.as_flattened())?;
    check::finite("centers", centers.as_flattened())?;
    check::camera(focal, principal_point)?;
    let (focal, [cx, cy]) = (f64::from(focal), principal_point.map(f64::from));
    let translation = |(offset, center): (&[f32; 3], &[f32; 2])| {
        let ([dx, dy, dz], [x, y]) = (offset.map(f64::from), center.map(f64::from));
        let depth = UNIT_MM * (DEPTH_OFFSET + dz);
        [depth * (dx + x - cx) / focal, depth * (dy + y - cy) / focal, depth].map(|v| v as f32)
    };
    Ok(offsets.iter().zip(centers).map(translation).collect())
}

/// Yaw, pitch, roll in degrees from rotations model → camera.
///
/// `diag(1, −1, −1) · R = Rz(roll) · Ry(yaw) · Rx(−pitch)`. At yaw = ±90° the roll is zero and the pitch takes the whole turn.
///
/// # Errors
/// A non-finite value, or a matrix that is not a rotation (rows of unit length within 1e-3).
pub fn pose_from_rotations(rotations: &[[f32; 9]]) -> Result<Vec<[f32; 3]>> {
    check::finite("rotations", rotations.as_flattened())?;
    rotations.iter().enumerate().map(|(i, rotation)| pose_from_rotation(i, rotation)).collect()
}

fn pose_from_rotation(index: usize, rotation: &[f32; 9]) -> Result<[f32; 3]> {
    let r = rotation.map(f64::from);
    for row in r.as_chunks::<3>().0 {
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        if (length - 1.0).abs() > 1e-3 {
            return Err(Error::value(
                "rotations",
                format!("a row of length {length:.4} in matrix {index}"),
                "unit rows",
            ));
        }
    }
    // The head rotation in the OpenGL frame: rows two and three change sign.
    let head = [[r[0], r[1], r[2]], [-r[3], -r[4], -r[5]], [-r[6], -r[7], -r[8]]];
    let sine = -head[2][0];
    let yaw = sine.clamp(-1.0, 1.0).asin();
    let (minus_pitch, roll) = if head[2][1].hypot(head[2][2]) > GIMBAL_COSINE {
        (head[2][1].atan2(head[2][2]), head[1][0].atan2(head[0][0]))
    } else {
        ((sine.signum() * head[0][1]).atan2(head[1][1]), 0.0)
    };
    Ok([yaw, -minus_pitch, roll].map(|v| v.to_degrees() as f32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `Rz(roll) Ry(yaw) Rx(−pitch)` in the OpenGL frame, turned into model → camera.
    fn rotation_from_pose(yaw: f64, pitch: f64, roll: f64) -> [f32; 9] {
        let ((sy, cy), (sx, cx), (sz, cz)) =
            (yaw.to_radians().sin_cos(), (-pitch).to_radians().sin_cos(), roll.to_radians().sin_cos());
        let z = [[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]];
        let y = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
        let x = [[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]];
        let head = product(product(z, y), x);
        let flip = [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]];
        let r = product(flip, head);
        std::array::from_fn(|i| r[i / 3][i % 3] as f32)
    }

    proptest! {
        #[test]
        fn pose_is_read_back(yaw in -88.0..88.0, pitch in -179.0..179.0, roll in -179.0..179.0) {
            let pose = pose_from_rotations(&[rotation_from_pose(yaw, pitch, roll)]).unwrap()[0];
            for (got, wanted) in pose.iter().zip([yaw, pitch, roll]) {
                prop_assert!((f64::from(*got) - wanted).abs() < 1e-2, "{pose:?} {yaw} {pitch} {roll}");
            }
        }

        #[test]
        fn vectors_give_rotations(x in -4.0f32..4.0, y in -4.0f32..4.0, z in -4.0f32..4.0) {
            let r = rotations_from_vectors(&[[x, y, z]], None).unwrap()[0].map(f64::from);
            let m: Matrix = std::array::from_fn(|i| std::array::from_fn(|j| r[3 * i + j]));
            let t: Matrix = std::array::from_fn(|i| std::array::from_fn(|j| m[j][i]));
            let identity = product(m, t);
            for (i, row) in identity.iter().enumerate() {
                for (j, v) in row.iter().enumerate() {
                    prop_assert!((v - f64::from(u8::from(i == j))).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn gimbal_lock_keeps_the_rotation() {
        for yaw in [90.0, -90.0] {
            let wanted = rotation_from_pose(yaw, 20.0, 30.0);
            let [y, p, r] = pose_from_rotations(&[wanted]).unwrap()[0].map(f64::from);
            assert_eq!(r, 0.0);
            for (a, b) in rotation_from_pose(y, p, r).iter().zip(wanted) {
                assert!((a - b).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn a_zero_vector_is_a_frontal_face() {
        let r = rotations_from_vectors(&[[0.0; 3]], None).unwrap()[0];
        assert_eq!(r, [1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0]);
        assert_eq!(pose_from_rotations(&[r]).unwrap(), [[0.0; 3]]);
    }

    #[test]
    fn a_quarter_turn_about_the_vertical_axis() {
        // ρ = (0, π/2, 0) in the camera frame (y down): camera z goes to camera x, the nose (−z) to the image's left.
        let r = rotations_from_vectors(&[[0.0, std::f32::consts::FRAC_PI_2, 0.0]], None).unwrap()[0];
        let nose = [r[2], r[5], r[8]];
        assert!((nose[0] + 1.0).abs() < 1e-6, "{nose:?}");
        assert!((pose_from_rotations(&[r]).unwrap()[0][0] + 90.0).abs() < 1e-2);
    }

    #[test]
    fn offsets_follow_the_equation() {
        let t = translations_from_offsets(&[[1.0, -2.0, 0.5]], &[[300.0, 200.0]], 1015.0, [256.0, 192.0]).unwrap();
        let expected = [1050.0 * 45.0 / 1015.0, 1050.0 * 6.0 / 1015.0, 1050.0];
        for (a, b) in t[0].iter().zip(expected) {
            assert!((f64::from(*a) - b).abs() < 1e-4);
        }
        let message = translations_from_offsets(&[[0.0; 3]], &[], 1.0, [0.0; 2]).unwrap_err().to_string();
        assert_eq!(message, "'centers' has shape with 0 rows, expected 1 rows");
    }

    #[test]
    fn a_vector_against_the_ray() {
        let t = [300.0, -200.0, 900.0f32];
        let length = t.iter().map(|v| v * v).sum::<f32>().sqrt();
        let r = rotations_from_vectors(&[[0.0; 3], [0.2, -0.3, 0.1]], Some(&[t; 2])).unwrap();
        // A face that looks at the camera: its model z axis points back along the ray.
        for (i, v) in t.iter().enumerate() {
            assert!((r[0][3 * i + 2] + v / length).abs() < 1e-6, "{r:?}");
        }
        // On the axis the two frames agree.
        let axis = rotations_from_vectors(&[[0.2, -0.3, 0.1]], Some(&[[0.0, 0.0, 500.0]])).unwrap();
        assert_eq!(axis, rotations_from_vectors(&[[0.2, -0.3, 0.1]], None).unwrap());
        let message = rotations_from_vectors(&[[0.0; 3]], Some(&[[0.0; 3]])).unwrap_err().to_string();
        assert_eq!(message, "'translations' has [0.0, 0.0, 0.0], expected points away from (0, 0, z <= 0)");
    }
}
