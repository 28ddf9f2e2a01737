//! Each stage on a mesh of real size: `cargo bench -p wm3dr-core`. The baselines are in `benches/ratios.py`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wm3dr_core::raster::{Meshes, RasterView, View, interpolate, rasterize};
use wm3dr_core::shade::{Surfaces, render};
use wm3dr_core::{illumination, mesh, peaks};

mod model;

use model::{EXPRESSION, IDENTITY, SIZE, color_fitter, face_model, photo, pixels, stored, vertices};

fn stages(c: &mut Criterion) {
    let model = face_model();
    let (fitter, pixels) = (color_fitter(&model), pixels());
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
        let expected = vec![0.1; faces * IDENTITY];
        let stored = stored(&model, &points);
        let normals = model.stored_normals(&stored, faces, threads).expect("finite");
        c.bench_function(&id("fit_colors"), |b| {
            b.iter(|| fitter.fit(&photo(&pixels), (black_box(&stored), &normals), (&expected, &light), threads));
        });
        let surfaces = Surfaces { vertices: &stored, normals: &normals };
        let view = View { focal: 1015.0, principal_point: [256.0; 2], size: SIZE };
        c.bench_function(&id("render"), |b| {
            b.iter(|| render(&model, black_box(&surfaces), (&expected, &light), &view, threads));
        });
        for height in [200.0, 450.0] {
            let points = vertices(&model, faces, height);
            let meshes = Meshes { vertices_camera: &points, faces, triangles: model.triangles(), split: false };
            let draw = || rasterize(black_box(&meshes), &view, threads);
            c.bench_function(&id(&format!("rasterize {height} px")), |b| b.iter(draw));
            let raster = draw().expect("finite");
            let seen = RasterView {
                triangle_id: &raster.triangle_id,
                face_id: &raster.face_id,
                barycentric: &raster.barycentric,
            };
            c.bench_function(&id(&format!("interpolate {height} px")), |b| {
                b.iter(|| interpolate(seen, model.triangles(), points.as_flattened(), faces, 3, threads));
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
