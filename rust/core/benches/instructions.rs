//! One call of a stage for an instruction counter, which is as exact on a busy machine as on an idle one:
//! `python benches/instructions.py` runs it under callgrind. Counted is what happens within [`measured`].

use std::hint::black_box;

use wm3dr_core::raster::{Meshes, View, rasterize};
use wm3dr_core::shade::{Surfaces, render};
use wm3dr_core::{camera, illumination};

mod model;

use model::{EXPRESSION, IDENTITY, SIZE, color_fitter, face_model, photo, pixels, vertices};

/// The function that the counter is switched on in.
#[inline(never)]
fn measured(work: &mut dyn FnMut()) {
    work();
}

fn main() {
    // `cargo bench` passes its own options to every benchmark.
    let Some(stage) = std::env::args().nth(1).filter(|stage| !stage.starts_with("--")) else { return };
    let model = face_model();
    let (identity, expression) = ([0.1; IDENTITY], [0.1; EXPRESSION]);
    let points = vertices(&model, 1, 450.0);
    let normals = model.normals(&points, 1, 1).expect("finite");
    let light = [[0.1; illumination::ILLUMINATION]];
    let meshes = Meshes { vertices_camera: &points, faces: 1, triangles: model.triangles(), split: false };
    let view = View { focal: 1015.0, principal_point: [256.0; 2], size: SIZE };
    match stage.as_str() {
        "shapes" => measured(&mut || drop(black_box(model.shapes(1, &identity, &expression, 1)))),
        "boxes" => {
            let turned = [[1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0]];
            let (shape, motion) = ((&identity[..], &expression[..]), (&turned[..], &[[30.0, 20.0, 900.0]][..]));
            measured(&mut || drop(black_box(camera::boxes(&model, shape, motion, 1015.0, [256.0; 2], 1))));
        }
        "normals" => measured(&mut || drop(black_box(model.normals(&points, 1, 1)))),
        "colors" => measured(&mut || drop(black_box(illumination::colors(&points, &normals, &light, 1)))),
        "fit_colors" => {
            let (fitter, pixels) = (color_fitter(&model), pixels());
            let stored = model.n_stored();
            let (meshes, expected) = ((&points[..stored], &normals[..stored]), (&[0.1; IDENTITY][..], &light[..]));
            measured(&mut || drop(black_box(fitter.fit(&photo(&pixels), meshes, expected, 1))));
        }
        "rasterize" => measured(&mut || drop(black_box(rasterize(&meshes, &view, 1)))),
        "render" => {
            let vertices = &points[..model.n_stored()];
            let normals = model.stored_normals(vertices, 1, 1).expect("finite");
            let surfaces = Surfaces { vertices, normals: &normals };
            let colors = (&[0.1; IDENTITY][..], &light[..]);
            measured(&mut || drop(black_box(render(&model, &surfaces, colors, &view, 1))));
        }
        other => panic!("no stage {other}"),
    }
}
