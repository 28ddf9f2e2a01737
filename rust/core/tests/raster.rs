//! Properties of the rasterizer that need no twin.

use proptest::prelude::*;
use wm3dr_core::raster::{Meshes, Raster, View, rasterize};

const SIZE: [usize; 2] = [61, 75];
const DEPTH: f32 = 500.0;

/// A sheet of 6 × 6 quads that covers more than the image, at a depth where a millimetre is a pixel; its inner corners are
/// moved to multiples of a quarter pixel, so that many edges run through pixel centres.
fn sheet(moves: &[(i32, i32)], flips: &[bool]) -> (Vec<[f32; 3]>, Vec<[i32; 3]>) {
    let vertices = (0..49)
        .map(|i| {
            let (column, row) = (i % 7, i / 7);
            let inner = (1..6).contains(&column) && (1..6).contains(&row);
            let (dx, dy) = if inner { moves[i] } else { (0, 0) };
            [column as f32 * 12.0 - 5.0 + dx as f32 * 0.25, row as f32 * 14.0 - 4.0 + dy as f32 * 0.25, DEPTH]
        })
        .collect();
    let quad = |i: usize| {
        let a = (i / 6 * 7 + i % 6) as i32;
        let (b, c, d) = (a + 1, a + 7, a + 8);
        if flips[i] { [[a, c, b], [b, c, d]] } else { [[a, c, d], [a, d, b]] }
    };
    (vertices, (0..36).flat_map(quad).collect())
}

fn draw(vertices: &[[f32; 3]], faces: usize, triangles: &[[i32; 3]], threads: usize) -> Raster {
    let meshes = Meshes { vertices_camera: vertices, faces, triangles, split: false };
    rasterize(&meshes, &View { focal: DEPTH, principal_point: [0.0, 0.0], size: SIZE }, threads).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_pixel_of_a_sheet_belongs_to_exactly_one_triangle(
        moves in prop::collection::vec((-12i32..=12, -12i32..=12), 49),
        flips in prop::collection::vec(any::<bool>(), 36),
    ) {
        let (vertices, triangles) = sheet(&moves, &flips);
        let mut count = vec![0; SIZE[0] * SIZE[1]];
        for triangle in &triangles {
            for (count, id) in count.iter_mut().zip(draw(&vertices, 1, &[*triangle], 1).triangle_id) {
                *count += i32::from(id == 0);
            }
        }
        prop_assert!(count.iter().all(|&c| c == 1));
        prop_assert!(draw(&vertices, 1, &triangles, 1).triangle_id.iter().all(|&id| id >= 0));
    }

    #[test]
    fn threads_and_order_of_faces(
        moves in prop::collection::vec((-12i32..=12, -12i32..=12), 98),
        flips in prop::collection::vec(any::<bool>(), 36),
        tilt in -3.0f32..3.0,
    ) {
        let ((mut first, triangles), (mut second, _)) = (sheet(&moves[..49], &flips), sheet(&moves[49..], &flips));
        for (v, w) in first.iter_mut().zip(&mut second) {
            v[2] += tilt * v[0];
            w[2] -= tilt * w[1];
        }
        let both = draw(&[first.clone(), second.clone()].concat(), 2, &triangles, 1);
        for threads in [2, 5] {
            prop_assert_eq!(&draw(&[first.clone(), second.clone()].concat(), 2, &triangles, threads), &both);
        }
        let turned = draw(&[second, first].concat(), 2, &triangles, 1);
        prop_assert_eq!(&turned.depth, &both.depth);
        for i in 0..both.depth.len() {
            // Where both are equally near, the first face wins in either order.
            let same = turned.face_id[i] == 1 - both.face_id[i] && turned.triangle_id[i] == both.triangle_id[i];
            prop_assert!(same || both.face_id[i] == -1 || turned.face_id[i] == both.face_id[i]);
        }
    }
}

#[test]
fn far_corners_do_not_overflow() {
    // A triangle 60,000 pixels wide and one that reaches millions of pixels beyond the image.
    for reach in [3e4, 4e6] {
        let vertices = [[-reach, -reach, DEPTH], [-reach, reach, DEPTH], [2.0 * reach, 0.5, DEPTH]];
        let raster = draw(&vertices, 1, &[[0, 1, 2]], 1);
        assert!(raster.triangle_id.iter().all(|&id| id == 0), "{reach}");
        assert!(raster.depth.iter().all(|d| (d - DEPTH).abs() < 0.01), "{reach}");
    }
}

#[test]
fn two_to_the_31_triangles_are_refused() {
    let triangles = vec![[0, 1, 2]; 70_000];
    let vertices = vec![[0.0, 0.0, 9.0]; 3 * 40_000];
    let meshes = Meshes { vertices_camera: &vertices, faces: 40_000, triangles: &triangles, split: false };
    let error = rasterize(&meshes, &View { focal: 1.0, principal_point: [0.0; 2], size: [4, 4] }, 1);
    let message = error.unwrap_err().to_string();
    assert_eq!(message, "'triangles' has 70000 triangles for 40000 faces, expected fewer than 2^31 in all");
}
