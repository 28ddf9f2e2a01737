//! Second-order spherical-harmonic lighting (CONVENTIONS.md §6; METHOD.md, illumination).

use std::f32::consts::PI;

use wide::f32x4;

use crate::check;
use crate::error::Result;
use crate::parallel;

/// Numbers of one illumination: 9 coefficients for each of R, G, B.
pub const ILLUMINATION: usize = 27;

/// Vertices that one thread takes at a time.
const VERTICES_PER_PART: usize = 8192;

/// Normals that the kernel takes together; a few registers on every target.
const LANES: usize = 16;

/// a0 c0, a1 c1 and a2 c2 of the basis.
fn constants() -> [f32; 3] {
    let root = (4.0 * PI).sqrt();
    let (a, c) = (
        [PI, 2.0 * PI / 3f32.sqrt(), 2.0 * PI / 8f32.sqrt()],
        [1.0 / root, 3f32.sqrt() / root, 3.0 * 5f32.sqrt() / (12.0 * PI).sqrt()],
    );
    [a[0] * c[0], a[1] * c[1], a[2] * c[2]]
}

/// Light arriving at each vertex, `(F, N, 3)` RGB, from unit normals in the OpenGL frame `(F, N, 3)` and illuminations
/// `(F, 3, 9)` whose ambient term is included.
///
/// `shading_c = Σ_b γ[c, b] H_b(n)`.
///
/// # Errors
/// Lengths that do not fit, a non-finite value, too many threads.
pub fn shading(
    normals_opengl: &[[f32; 3]],
    illumination: &[[f32; ILLUMINATION]],
    threads: usize,
) -> Result<Vec<[f32; 3]>> {
    let n = check::per_face("normals_opengl", normals_opengl.len(), illumination.len())?;
    check::finite("normals_opengl", normals_opengl.as_flattened())?;
    check::finite("illumination", illumination.as_flattened())?;
    let mut out = vec![[0.0; 3]; normals_opengl.len()];
    if n == 0 {
        return Ok(out);
    }
    let lights: Vec<_> = illumination.iter().map(|i| Light::new(i, Frame::OpenGl)).collect();
    let parts = out.chunks_mut(n).zip(normals_opengl.chunks(n)).zip(&lights).flat_map(|((out, normals), light)| {
        out.chunks_mut(VERTICES_PER_PART).zip(normals.chunks(VERTICES_PER_PART)).map(move |(o, n)| (o, n, light))
    });
    parallel::for_each(threads, parts, |(out, normals, light)| light.shade(normals, out))?;
    Ok(out)
}

/// Colours `(F, N, 3)` in [0, 1], sRGB-encoded: albedo times shading, clipped, from unit normals in the *camera* frame.
///
/// # Errors
/// As [`shading`].
pub fn colors(
    albedo: &[[f32; 3]],
    normals_camera: &[[f32; 3]],
    illumination: &[[f32; ILLUMINATION]],
    threads: usize,
) -> Result<Vec<[f32; 3]>> {
    let n = check::per_face("normals_camera", normals_camera.len(), illumination.len())?;
    check::length("albedo", albedo.len(), normals_camera.len(), "vertices")?;
    check::finite("albedo", albedo.as_flattened())?;
    check::finite("normals_camera", normals_camera.as_flattened())?;
    check::finite("illumination", illumination.as_flattened())?;
    let mut out = vec![[0.0; 3]; albedo.len()];
    if n == 0 {
        return Ok(out);
    }
    let lights: Vec<_> = illumination.iter().map(|i| Light::new(i, Frame::Camera)).collect();
    let faces = out.chunks_mut(n).zip(albedo.chunks(n)).zip(normals_camera.chunks(n)).zip(&lights);
    let parts = faces.flat_map(|(((out, albedo), normals), light)| {
        let normals = albedo.chunks(VERTICES_PER_PART).zip(normals.chunks(VERTICES_PER_PART));
        out.chunks_mut(VERTICES_PER_PART)
            .zip(normals)
            .map(move |(out, (albedo, normals))| (out, albedo, normals, light))
    });
    parallel::for_each(threads, parts, |(out, albedo, normals, light)| {
        light.shade(normals, out);
        for (out, albedo) in out.as_flattened_mut().iter_mut().zip(albedo.as_flattened()) {
            *out = (*out * albedo).clamp(0.0, 1.0);
        }
    })?;
    Ok(out)
}

/// H_b(n) of a unit normal in the OpenGL frame.
pub(crate) fn harmonics([x, y, z]: [f32; 3]) -> [f32; 9] {
    let [k0, k1, k2] = constants();
    let root = 1.0 / (2.0 * 3f32.sqrt());
    [
        k0,
        -k1 * y,
        k1 * z,
        -k1 * x,
        k2 * x * y,
        -k2 * y * z,
        k2 * root * (3.0 * z * z - 1.0),
        -k2 * x * z,
        0.5 * k2 * (x * x - y * y),
    ]
}

/// The frame in which normals come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    OpenGl,
    /// The OpenGL frame with y and z turned round.
    Camera,
}

/// One illumination as quadratic polynomials of the normal, R, G and B.
pub(crate) struct Light {
    /// 1, x, y, z, xy, yz, xz, z², x² − y²
    terms: [[f32; 9]; 3],
}

impl Light {
    pub(crate) fn new(illumination: &[f32; ILLUMINATION], frame: Frame) -> Self {
        let [k0, k1, k2] = constants();
        let root = 1.0 / (2.0 * 3f32.sqrt());
        let terms = std::array::from_fn(|channel| {
            let g = &illumination[9 * channel..9 * channel + 9];
            // a2c2 (3 nz² − 1) / (2 √3) is a square and a constant.
            let constant = k0 * g[0] - k2 * root * g[6];
            let square = k2 * root * 3.0 * g[6];
            // The terms odd in y and z together change sign with the frame; y · z does not.
            let s = if frame == Frame::OpenGl { 1.0 } else { -1.0 };
            let linear = [-k1 * g[3], -s * k1 * g[1], s * k1 * g[2]];
            let mixed = [s * k2 * g[4], -k2 * g[5], -s * k2 * g[7]];
            [constant, linear[0], linear[1], linear[2], mixed[0], mixed[1], mixed[2], square, 0.5 * k2 * g[8]]
        });
        Self { terms }
    }

    /// The light that arrives on each normal.
    fn shade(&self, normals: &[[f32; 3]], out: &mut [[f32; 3]]) {
        let (blocks, rest) = normals.as_chunks::<LANES>();
        let (out_blocks, out_rest) = out.as_chunks_mut::<LANES>();
        for (normals, out) in blocks.iter().zip(out_blocks) {
            self.shade_block(normals, out);
        }
        for (normal, out) in rest.iter().zip(out_rest) {
            let mut one = [[0.0; 3]; LANES];
            self.shade_block(&[*normal; LANES], &mut one);
            *out = one[0];
        }
    }

    /// Coordinates apart, so that the compiler fills registers with them.
    #[inline(always)]
    fn shade_block(&self, normals: &[[f32; 3]; LANES], out: &mut [[f32; 3]; LANES]) {
        let [x, y, z]: [[f32; LANES]; 3] = std::array::from_fn(|axis| std::array::from_fn(|l| normals[l][axis]));
        for (channel, t) in self.terms.iter().enumerate() {
            let value: [f32; LANES] = std::array::from_fn(|l| {
                let (x, y, z) = (x[l], y[l], z[l]);
                t[0] + x * (t[1] + t[8] * x + t[4] * y)
                    + y * (t[2] - t[8] * y + t[5] * z)
                    + z * (t[3] + t[7] * z + t[6] * x)
            });
            for (out, value) in out.iter_mut().zip(value) {
                out[channel] = value;
            }
        }
    }

    /// R, G and B of the light that arrives on four normals: the same sums.
    #[inline(always)]
    pub(crate) fn shade_four(&self, [x, y, z]: [f32x4; 3]) -> [f32x4; 3] {
        let shade = |channel: usize| {
            let t = |k: usize| f32x4::splat(self.terms[channel][k]);
            t(0) + x * (t(1) + t(8) * x + t(4) * y)
                + y * (t(2) - t(8) * y + t(5) * z)
                + z * (t(3) + t(7) * z + t(6) * x)
        };
        [shade(0), shade(1), shade(2)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The basis as the conventions write it, in float64.
    fn basis([x, y, z]: [f64; 3]) -> [f64; 9] {
        use std::f64::consts::PI;
        let (a0, a1, a2) = (PI, 2.0 * PI / 3f64.sqrt(), 2.0 * PI / 8f64.sqrt());
        let (c0, c1, c2) =
            (1.0 / (4.0 * PI).sqrt(), 3f64.sqrt() / (4.0 * PI).sqrt(), 3.0 * 5f64.sqrt() / (12.0 * PI).sqrt());
        [
            a0 * c0,
            -a1 * c1 * y,
            a1 * c1 * z,
            -a1 * c1 * x,
            a2 * c2 * x * y,
            -a2 * c2 * y * z,
            a2 * c2 * (3.0 * z * z - 1.0) / (2.0 * 3f64.sqrt()),
            -a2 * c2 * x * z,
            a2 * c2 * (x * x - y * y) / 2.0,
        ]
    }

    #[test]
    fn the_polynomial_is_the_basis() {
        let normals: Vec<[f32; 3]> = (0..2 * 53)
            .map(|i| {
                let (a, b) = (i as f32 * 0.37, i as f32 * 0.11);
                [a.sin() * b.cos(), a.sin() * b.sin(), a.cos()]
            })
            .collect();
        let lights: [[f32; 27]; 2] =
            std::array::from_fn(|f| std::array::from_fn(|i| ((i * 7 + f * 3) % 11) as f32 / 11.0 - 0.4));
        let one = shading(&normals, &lights, 1).unwrap();
        for (i, (normal, got)) in normals.iter().zip(&one).enumerate() {
            let h = basis(normal.map(f64::from));
            for c in 0..3 {
                let expected: f64 = (0..9).map(|b| f64::from(lights[i / 53][9 * c + b]) * h[b]).sum();
                assert!((f64::from(got[c]) - expected).abs() < 2e-6, "{i} {c}");
            }
            for (band, expected) in harmonics(*normal).into_iter().zip(h) {
                assert!((f64::from(band) - expected).abs() < 1e-6, "{i}");
            }
        }
        for threads in [2, 5] {
            assert_eq!(shading(&normals, &lights, threads).unwrap(), one);
        }
    }
    #[test]
    fn colors_are_clipped_products_from_camera_normals() {
        let normals: Vec<[f32; 3]> = (0..40)
            .map(|i| {
                let (a, b) = (i as f32 * 0.7, i as f32 * 0.3);
                [a.sin() * b.cos(), a.sin() * b.sin(), a.cos()]
            })
            .collect();
        let opengl: Vec<_> = normals.iter().map(|n| [n[0], -n[1], -n[2]]).collect();
        let light = [std::array::from_fn(|i| ((i * 5) % 7) as f32 / 7.0 - 0.2)];
        let albedo: Vec<[f32; 3]> = (0..40).map(|i| [0.02 * i as f32, 0.4, 0.1]).collect();
        let shades = shading(&opengl, &light, 1).unwrap();
        let got = colors(&albedo, &normals, &light, 2).unwrap();
        for ((got, albedo), shade) in got.iter().zip(&albedo).zip(&shades) {
            for c in 0..3 {
                assert!((got[c] - (albedo[c] * shade[c]).clamp(0.0, 1.0)).abs() < 1e-6);
            }
        }
    }
}
