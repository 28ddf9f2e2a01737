//! A synthetic model of real size, for the benchmarks.

use half::f16;
use wm3dr_core::color_fit::{ColorFitter, Photo};
use wm3dr_core::{FaceModel, FaceModelParts, LANDMARKS};

const COLUMNS: usize = 95;
pub const IDENTITY: usize = 80;
pub const EXPRESSION: usize = 53;
pub const SIZE: [usize; 2] = [512, 512];

/// A bulging sheet of 95 × 95 stored vertices: 35,721 vertices and 70,688 triangles when refined, 200 mm high.
pub fn face_model() -> FaceModel {
    let n = COLUMNS * COLUMNS;
    let at = |i: usize| (i as f32 / (COLUMNS - 1) as f32 - 0.5) * 200.0;
    let shape: Vec<_> = (0..n)
        .map(|i| {
            let (x, y) = (0.8 * at(i % COLUMNS), -at(i / COLUMNS));
            [x, y, 60.0 - 0.006 * (x * x + y * y)]
        })
        .collect();
    let triangles: Vec<_> = (0..n)
        .filter(|i| i % COLUMNS < COLUMNS - 1 && i / COLUMNS < COLUMNS - 1)
        .flat_map(|i| {
            let (a, b, c, d) = (i as i32, i as i32 + 1, (i + COLUMNS) as i32, (i + COLUMNS) as i32 + 1);
            [[a, c, d], [a, d, b]]
        })
        .collect();
    let basis = |k: usize| (0..n * 3 * k).map(|i| f16::from_f32(((i * 7919) % 997) as f32 / 997.0 - 0.5)).collect();
    let (identity, expression): (Vec<f16>, Vec<f16>) = (basis(IDENTITY), basis(EXPRESSION));
    FaceModel::new(&FaceModelParts {
        mean_shape: &shape,
        identity_basis: &identity,
        n_identity: IDENTITY,
        expression_basis: &expression,
        n_expression: EXPRESSION,
        mean_albedo: &vec![[0.5; 3]; n],
        albedo_basis: &identity,
        n_albedo: IDENTITY,
        triangles: &triangles,
        landmark_vertices: &[0; LANDMARKS],
        uv: &vec![[[0.0; 2]; 3]; triangles.len()],
        regions: &vec![0; n],
        mirror: &vec![0; n],
        subdivisions: 1,
    })
    .expect("the synthetic model is consistent")
}

/// Frontal faces in a row, each `height` pixels high.
pub fn vertices(model: &FaceModel, faces: usize, height: f32) -> Vec<[f32; 3]> {
    let depth = 1015.0 * 200.0 / height;
    let shift = |f: usize| (f as f32 - (faces - 1) as f32 / 2.0) * 30.0;
    (0..faces).flat_map(|f| model.mean_shape().iter().map(move |v| [v[0] + shift(f), -v[1], depth - v[2]])).collect()
}

/// The stored ones of vertices, or what belongs to them.
#[allow(dead_code)] // not every benchmark needs it
pub fn stored(model: &FaceModel, points: &[[f32; 3]]) -> Vec<[f32; 3]> {
    points.chunks(model.n_vertices()).flat_map(|face| face[..model.n_stored()].iter().copied()).collect()
}

/// The areas of the model, all of whose vertices count the same.
pub fn color_fitter(model: &FaceModel) -> ColorFitter {
    ColorFitter::new(model, &vec![1.0; COLUMNS * COLUMNS]).expect("as many weights as stored vertices")
}

/// Pixels of a photo in which everything differs a little from everything else.
pub fn pixels() -> Vec<[u8; 3]> {
    (0..SIZE[0] * SIZE[1]).map(|i| std::array::from_fn(|c| (90 + 20 * c + (i * 7919 + c * 31) % 67) as u8)).collect()
}

/// A photo of these pixels, and its camera.
pub fn photo(pixels: &[[u8; 3]]) -> Photo<'_> {
    Photo { pixels, size: SIZE, focal: 1015.0, principal_point: [256.0; 2] }
}
