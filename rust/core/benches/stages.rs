//! Each stage on a mesh of real size: `cargo bench -p wm3dr-core`. The baselines are in `benches/ratios.py`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use half::f16;
use wm3dr_core::raster::{RasterView, interpolate, rasterize};
use wm3dr_core::{FaceModel, FaceModelParts, LANDMARKS, illumination, mesh, peaks};

const COLUMNS: usize = 95;
const IDENTITY: usize = 80;
const EXPRESSION: usize = 53;
const SIZE: [usize; 2] = [512, 512];

/// A bulging sheet of 95 × 95 stored vertices: 35,721 vertices and 70,688 triangles when refined, 200 mm high.
fn face_model() -> FaceModel {
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
fn vertices(model: &FaceModel, faces: usize, height: f32) -> Vec<[f32; 3]> {
    let depth = 1015.0 * 200.0 / height;
    let shift = |f: usize| (f as f32 - (faces - 1) as f32 / 2.0) * 30.0;
    (0..faces).flat_map(|f| model.mean_shape().iter().map(move |v| [v[0] + shift(f), -v[1], depth - v[2]])).collect()
}

fn stages(c: &mut Criterion) {
    let model = face_model();
    for (faces, threads) in [(1, 1), (1, 2), (10, 1), (10, 2)] {
        let id = |name: &str| format!("{name}, {faces} faces, {threads} threads");
        let identity = vec![0.1; faces * IDENTITY];
        let expression = vec![0.1; faces * EXPRESSION];
        c.bench_function(&id("shapes"), |b| {
            b.iter(|| model.shapes(faces, black_box(&identity), &expression, threads));
        });
        let points = vertices(&model, faces, 200.0);
        c.bench_function(&id("normals"), |b| b.iter(|| model.normals(black_box(&points), faces, threads)));
        c.bench_function(&id("vertex_normals"), |b| {
            b.iter(|| mesh::vertex_normals(black_box(&points), faces, model.triangles(), threads));
        });
        let normals = model.normals(&points, faces, threads).expect("finite");
        let light = vec![[0.1; illumination::ILLUMINATION]; faces];
        c.bench_function(&id("colors"), |b| {
            b.iter(|| illumination::colors(black_box(&points), &normals, &light, threads));
        });
        for height in [200.0, 450.0] {
            let points = vertices(&model, faces, height);
            let draw = || rasterize(black_box(&points), faces, model.triangles(), 1015.0, [256.0; 2], SIZE, threads);
            c.bench_function(&id(&format!("rasterize {height} px")), |b| b.iter(draw));
            let raster = draw().expect("finite");
            let view = RasterView {
                triangle_id: &raster.triangle_id,
                face_id: &raster.face_id,
                barycentric: &raster.barycentric,
            };
            c.bench_function(&id(&format!("interpolate {height} px")), |b| {
                b.iter(|| interpolate(view, model.triangles(), points.as_flattened(), faces, 3, threads));
            });
        }
    }
    let heatmap: Vec<f32> = (0..64 * 64).map(|i| ((i * 7919) % 997) as f32 / 1100.0).collect();
    c.bench_function("peaks 64 x 64", |b| b.iter(|| peaks::find_peaks(black_box(&heatmap), [64, 64], 0.5, 5)));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(std::time::Duration::from_secs(2));
    targets = stages
}
criterion_main!(benches);
