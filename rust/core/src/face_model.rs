//! The morphable model: validated once, then decoded for any number of faces.

use half::f16;

use crate::basis::PackedBasis;
use crate::camera::{Move, check_rigid};
use crate::check;
use crate::error::{Error, Result};
use crate::mesh::{Around, Fours, Normals};
use crate::patches::{Patches, Placed};
use crate::subdivision::Subdivision;
use crate::{parallel, simd};

/// Landmarks of a face (Multi-PIE order).
pub const LANDMARKS: usize = 68;

/// The arrays of a face-model file (CONVENTIONS.md §5), row-major, as stored.
#[derive(Debug, Clone, Copy)]
pub struct FaceModelParts<'a> {
    /// `(N0, 3)`, mm, model frame.
    pub mean_shape: &'a [[f32; 3]],
    /// `(N0, 3, n_identity)`, mm per standard deviation.
    pub identity_basis: &'a [f16],
    /// Columns of `identity_basis`.
    pub n_identity: usize,
    /// `(N0, 3, n_expression)`, mm per full blendshape.
    pub expression_basis: &'a [f16],
    /// Columns of `expression_basis`.
    pub n_expression: usize,
    /// `(N0, 3)`, sRGB-encoded in [0, 1].
    pub mean_albedo: &'a [[f32; 3]],
    /// `(N0, 3, n_albedo)`, per standard deviation.
    pub albedo_basis: &'a [f16],
    /// Columns of `albedo_basis`.
    pub n_albedo: usize,
    /// `(T0, 3)`, counter-clockwise seen from outside.
    pub triangles: &'a [[i32; 3]],
    /// `(68,)`, refined vertices.
    pub landmark_vertices: &'a [i32],
    /// `(T0, 3, 2)`, per corner.
    pub uv: &'a [[[f32; 2]; 3]],
    /// `(N0,)`, a label per vertex.
    pub regions: &'a [u8],
    /// `(N0,)`, the vertex on the other side.
    pub mirror: &'a [i32],
    /// 0, or 1 when the mesh is to be refined.
    pub subdivisions: usize,
}

/// A morphable model with its refined mesh.
#[derive(Debug)]
pub struct FaceModel {
    n_identity: usize,
    n_expression: usize,
    subdivision: Subdivision,
    coarse_triangles: Vec<[i32; 3]>,
    /// The coarse triangles at each refined vertex: those of a corner, and those at the edge of a midpoint.
    around: Fours,
    /// The coarse triangles beyond the edges ab, bc, ca of each, itself where there is none.
    beyond: Vec<[u32; 3]>,
    shape: PackedBasis,
    albedo: PackedBasis,
    /// The rows of `shape` that the landmarks need: two ends for each.
    landmark_ends: PackedBasis,
    /// The rows of `shape` once more, by neighbourhood.
    patches: Patches,
    mean_shape: Vec<[f32; 3]>,
    mean_albedo: Vec<[f32; 3]>,
    triangles: Vec<[i32; 3]>,
    landmark_vertices: Vec<i32>,
    uv: Vec<[[f32; 2]; 3]>,
    regions: Vec<u8>,
    mirror: Vec<i32>,
}

impl FaceModel {
    /// Checks the parts against each other and prepares the model for decoding.
    ///
    /// # Errors
    /// [`Error::Model`] names the part that does not fit: a length, a non-finite value, an index out of range, a degenerate
    /// triangle, triangles that disagree on which side is out, or that have the inside out.
    pub fn new(parts: &FaceModelParts) -> Result<Self> {
        validate(parts).map_err(Error::in_model)?;
        let n = parts.mean_shape.len();
        let subdivision = match parts.subdivisions {
            0 => Subdivision::none(n),
            _ => Subdivision::once(n, parts.triangles),
        };
        let count = subdivision.refined();
        i32::try_from(count)
            .map_err(|_| Error::model("mean_shape", format!("{count} vertices"), "at most 2^31 - 1"))?;
        validate_landmarks(parts.landmark_vertices, count).map_err(Error::in_model)?;
        let shape = PackedBasis::new(
            parts.mean_shape.as_flattened(),
            &[(parts.identity_basis, parts.n_identity), (parts.expression_basis, parts.n_expression)],
        );
        let albedo = PackedBasis::new(parts.mean_albedo.as_flattened(), &[(parts.albedo_basis, parts.n_albedo)]);
        let ends: Vec<_> = parts
            .landmark_vertices
            .iter()
            .flat_map(|&v| subdivision.ends(v as usize))
            .flat_map(|v| [3 * v, 3 * v + 1, 3 * v + 2])
            .collect();
        let around = around(&subdivision, parts.triangles);
        Ok(Self {
            n_identity: parts.n_identity,
            n_expression: parts.n_expression,
            coarse_triangles: parts.triangles.to_vec(),
            beyond: beyond(&subdivision, parts.triangles, &around),
            around: Fours::new(&around, count, parts.triangles.len()),
            landmark_ends: shape.select(ends.into_iter()),
            patches: Patches::new(parts.mean_shape, &shape),
            shape,
            albedo,
            mean_shape: refined_points(&subdivision, parts.mean_shape)?,
            mean_albedo: refined_points(&subdivision, parts.mean_albedo)?,
            triangles: subdivision.triangles(parts.triangles),
            landmark_vertices: parts.landmark_vertices.to_vec(),
            uv: subdivision.corners(parts.uv),
            regions: refined_regions(&subdivision, parts.regions),
            mirror: refined_mirror(&subdivision, parts.mirror),
            subdivision,
        })
    }

    /// Vertices of the refined mesh.
    pub fn n_vertices(&self) -> usize {
        self.subdivision.refined()
    }

    /// Vertices of the mesh as it is stored: the first of the refined mesh.
    pub fn n_stored(&self) -> usize {
        self.subdivision.coarse()
    }

    /// Triangles of the refined mesh.
    pub fn n_triangles(&self) -> usize {
        self.triangles.len()
    }

    /// Width of the identity coefficients.
    pub fn n_identity(&self) -> usize {
        self.n_identity
    }

    /// Width of the expression coefficients.
    pub fn n_expression(&self) -> usize {
        self.n_expression
    }

    /// Width of the albedo coefficients.
    pub fn n_albedo(&self) -> usize {
        self.albedo.columns()
    }

    /// `(N, 3)` mm, refined.
    pub fn mean_shape(&self) -> &[[f32; 3]] {
        &self.mean_shape
    }

    /// `(N, 3)`, refined.
    pub fn mean_albedo(&self) -> &[[f32; 3]] {
        &self.mean_albedo
    }

    /// `(T, 3)`, refined.
    pub fn triangles(&self) -> &[[i32; 3]] {
        &self.triangles
    }

    /// `(68,)`, refined vertices.
    pub fn landmark_vertices(&self) -> &[i32] {
        &self.landmark_vertices
    }

    /// `(T, 3, 2)`, refined.
    pub fn uv(&self) -> &[[[f32; 2]; 3]] {
        &self.uv
    }

    /// `(N,)`, refined.
    pub fn regions(&self) -> &[u8] {
        &self.regions
    }

    /// `(N,)`, refined. Where an edge has no mirror image, its midpoint maps to the mirror of its first end.
    pub fn mirror(&self) -> &[i32] {
        &self.mirror
    }

    /// `(n_albedo,)`: what each albedo coefficient adds to one channel of a stored vertex.
    pub(crate) fn albedo_row(&self, vertex: usize, channel: usize) -> impl Iterator<Item = f32> {
        self.albedo.row(3 * vertex + channel)
    }

    /// Vertices `(F, N, 3)` of F faces, mm, model frame, from `identity` `(F, n_identity)` and `expression`
    /// `(F, n_expression)`.
    ///
    /// # Errors
    /// A length that does not fit `faces`, a non-finite value, too many threads.
    pub fn shapes(&self, faces: usize, identity: &[f32], expression: &[f32], threads: usize) -> Result<Vec<[f32; 3]>> {
        let coefficients = self.shape_coefficients(faces, identity, expression)?;
        self.refined(&self.shape, faces, &coefficients, threads)
    }

    /// Albedo `(F, N, 3)` of F faces, sRGB-encoded, not clipped, from `albedo` `(F, n_albedo)`.
    ///
    /// # Errors
    /// As [`Self::shapes`].
    pub fn albedos(&self, faces: usize, albedo: &[f32], threads: usize) -> Result<Vec<[f32; 3]>> {
        self.check_albedo(faces, albedo)?;
        self.refined(&self.albedo, faces, albedo, threads)
    }

    /// Landmarks `(F, 68, 3)` of F faces, mm, model frame: the bytes that [`Self::shapes`] has at `landmark_vertices`.
    ///
    /// # Errors
    /// As [`Self::shapes`].
    pub fn landmarks(&self, faces: usize, identity: &[f32], expression: &[f32]) -> Result<Vec<[f32; 3]>> {
        let coefficients = self.shape_coefficients(faces, identity, expression)?;
        let mut ends = vec![[[0.0; 3]; 2]; faces * LANDMARKS];
        let mut outputs: Vec<_> = ends.chunks_mut(LANDMARKS).map(|e| e.as_flattened_mut().as_flattened_mut()).collect();
        self.landmark_ends.decode(&coefficients, &mut outputs, 1)?;
        Ok(ends.iter().map(|[a, b]| std::array::from_fn(|i| 0.5 * (a[i] + b[i]))).collect())
    }

    /// Vertices `(F, N, 3)` of F faces, mm, camera frame: [`Self::shapes`] moved by [`crate::camera::transform`], to within
    /// rounding, at a third of the work, since midpoints of moved vertices are moved midpoints.
    ///
    /// # Errors
    /// As the two.
    pub fn vertices_camera(
        &self,
        shape: (&[f32], &[f32]),
        (rotations, translations): (&[[f32; 9]], &[[f32; 3]]),
        threads: usize,
    ) -> Result<Vec<[f32; 3]>> {
        let stored = self.stored_vertices(shape, (rotations, translations), threads)?;
        self.refine(&stored, rotations.len(), threads)
    }

    /// The stored ones of [`Self::vertices_camera`], `(F, N0, 3)`.
    ///
    /// # Errors
    /// As there.
    pub fn stored_vertices(
        &self,
        (identity, expression): (&[f32], &[f32]),
        (rotations, translations): (&[[f32; 9]], &[[f32; 3]]),
        threads: usize,
    ) -> Result<Vec<[f32; 3]>> {
        let faces = rotations.len();
        let coefficients = self.shape_coefficients(faces, identity, expression)?;
        let n = self.n_stored();
        check_rigid("translations", faces * n, rotations, translations)?;
        let mut out = vec![[0.0; 3]; faces * n];
        let mut outputs: Vec<_> = out.chunks_mut(n).map(|face| face.as_flattened_mut()).collect();
        self.shape.decode_and(&coefficients, &mut outputs, threads, |face, rows| {
            let (rotation, translation) = (&rotations[face], &translations[face]);
            simd::run(Move { points: rows.as_chunks_mut().0, rotation, translation });
        })?;
        Ok(out)
    }

    /// Points `(F, N, 3)` of the refined mesh from those of the stored one, `(F, N0, 3)`.
    ///
    /// # Errors
    /// A length that does not fit, too many threads.
    pub fn refine(&self, stored: &[[f32; 3]], faces: usize, threads: usize) -> Result<Vec<[f32; 3]>> {
        let (n, coarse) = (self.n_vertices(), self.n_stored());
        check::length("stored", stored.len(), faces * coarse, "rows")?;
        let mut out = vec![[0.0; 3]; faces * n];
        for (out, stored) in out.chunks_mut(n).zip(stored.chunks(coarse)) {
            out[..coarse].copy_from_slice(stored);
        }
        self.fill_midpoints(&mut out, threads)?;
        Ok(out)
    }

    /// Unit normals `(F, N, 3)` of decoded vertices `(F, N, 3)`, in their frame: those of [`crate::mesh::vertex_normals`] to
    /// within rounding, which thin triangles amplify. The four parts of a split triangle share its normal, so a midpoint's is the normalised sum over the
    /// stored triangles at its edge, and a quarter of the triangles is enough. Vertices that were moved apart from their
    /// neighbours after decoding need [`crate::mesh::vertex_normals`].
    ///
    /// # Errors
    /// A length that does not fit, a non-finite value, too many threads.
    pub fn normals(&self, vertices: &[[f32; 3]], faces: usize, threads: usize) -> Result<Vec<[f32; 3]>> {
        self.normals_of_first(self.n_vertices(), vertices, faces, threads)
    }

    /// Unit normals of stored vertices `(F, N0, 3)`: those of [`Self::normals`].
    ///
    /// # Errors
    /// As there.
    pub fn stored_normals(&self, vertices: &[[f32; 3]], faces: usize, threads: usize) -> Result<Vec<[f32; 3]>> {
        self.normals_of_first(self.n_stored(), vertices, faces, threads)
    }

    /// Normals of faces with the first so many vertices.
    fn normals_of_first(&self, n: usize, vertices: &[[f32; 3]], faces: usize, threads: usize) -> Result<Vec<[f32; 3]>> {
        check::length("vertices", vertices.len(), faces * n, "rows")?;
        let checked = check::Parts::new();
        let mut out = vec![[0.0; 3]; faces * n];
        let parts = out.chunks_mut(n).zip(vertices.chunks(n)).enumerate();
        parallel::for_each(threads, parts, |(face, (out, vertices))| {
            let (vertices, triangles, around) = (vertices.as_flattened(), &self.coarse_triangles, &self.around);
            if checked.finite(3 * n * face, vertices) {
                simd::run(Normals { vertices, triangles, around, out });
            }
        })?;
        checked.result("vertices")?;
        Ok(out)
    }

    /// The corners of the stored triangles, and the triangles beyond their edges.
    pub(crate) fn stored_mesh(&self) -> (&[[i32; 3]], &[[u32; 3]]) {
        (&self.coarse_triangles, &self.beyond)
    }

    /// Whether the mesh is refined from the stored one.
    pub(crate) fn is_refined(&self) -> bool {
        !self.subdivision.is_none()
    }

    /// The stored ones of [`Self::albedos`], `(F, N0, 3)`.
    pub(crate) fn stored_albedos(&self, faces: usize, albedo: &[f32], threads: usize) -> Result<Vec<[f32; 3]>> {
        self.check_albedo(faces, albedo)?;
        let n = self.n_stored();
        let mut out = vec![[0.0; 3]; faces * n];
        let mut outputs: Vec<_> = out.chunks_mut(n).map(|face| face.as_flattened_mut()).collect();
        self.albedo.decode(albedo, &mut outputs, threads)?;
        Ok(out)
    }

    fn check_albedo(&self, faces: usize, albedo: &[f32]) -> Result<()> {
        check::length("albedo", albedo.len(), faces * self.n_albedo(), "values")?;
        check::finite("albedo", albedo)
    }

    /// The boxes of F faces, not a number where a vertex has Z ≤ 0. The caller has checked the camera.
    pub(crate) fn boxes(
        &self,
        (identity, expression): (&[f32], &[f32]),
        placed: &Placed<'_>,
        threads: usize,
    ) -> Result<Vec<[f32; 4]>> {
        let faces = placed.rotations.len();
        let coefficients = self.shape_coefficients(faces, identity, expression)?;
        check_rigid("translations", faces, placed.rotations, placed.translations)?;
        let mut out = vec![[0.0; 4]; faces];
        self.patches.boxes(&coefficients, placed, &mut out, threads)?;
        Ok(out)
    }

    fn shape_coefficients(&self, faces: usize, identity: &[f32], expression: &[f32]) -> Result<Vec<f32>> {
        check::length("identity", identity.len(), faces * self.n_identity, "values")?;
        check::length("expression", expression.len(), faces * self.n_expression, "values")?;
        check::finite("identity", identity)?;
        check::finite("expression", expression)?;
        let row = |f: usize| {
            let identity = &identity[f * self.n_identity..(f + 1) * self.n_identity];
            let expression = &expression[f * self.n_expression..(f + 1) * self.n_expression];
            identity.iter().chain(expression).copied()
        };
        Ok((0..faces).flat_map(row).collect())
    }

    fn refined(
        &self,
        basis: &PackedBasis,
        faces: usize,
        coefficients: &[f32],
        threads: usize,
    ) -> Result<Vec<[f32; 3]>> {
        let (n, coarse) = (self.n_vertices(), self.n_stored());
        let mut out = vec![[0.0; 3]; faces * n];
        let mut outputs: Vec<_> = out.chunks_mut(n).map(|face| face[..coarse].as_flattened_mut()).collect();
        basis.decode(coefficients, &mut outputs, threads)?;
        self.fill_midpoints(&mut out, threads)?;
        Ok(out)
    }

    /// Midpoints of faces whose stored points are there.
    fn fill_midpoints(&self, faces: &mut [[f32; 3]], threads: usize) -> Result<()> {
        if self.subdivision.is_none() {
            return Ok(());
        }
        self.subdivision.refine(&mut faces.chunks_mut(self.n_vertices()).collect::<Vec<_>>(), threads)
    }
}

/// The neighbours of each triangle, none of a mesh that is not refined. Two triangles at most share an edge.
fn beyond(subdivision: &Subdivision, triangles: &[[i32; 3]], around: &Around) -> Vec<[u32; 3]> {
    let midpoints = subdivision.midpoints(triangles);
    let other = |own: usize, midpoint: i32| {
        let both = around.at(subdivision.coarse() + midpoint as usize);
        both.iter().copied().find(|&t| t as usize != own).unwrap_or(own as u32)
    };
    midpoints.iter().enumerate().map(|(own, m)| m.map(|m| other(own, m))).collect()
}

/// The triangles at each refined vertex.
fn around(subdivision: &Subdivision, triangles: &[[i32; 3]]) -> Around {
    let first = subdivision.coarse() as i32;
    let midpoints = subdivision.midpoints(triangles);
    let corners = triangles.iter().enumerate().flat_map(|(k, triangle)| triangle.map(|v| (k, v)));
    let middles = midpoints.iter().enumerate().flat_map(|(k, midpoints)| midpoints.map(|m| (k, first + m)));
    Around::new(subdivision.refined(), corners.chain(middles))
}

fn validate(parts: &FaceModelParts) -> Result<()> {
    let (n, t) = (parts.mean_shape.len(), parts.triangles.len());
    if n == 0 {
        return Err(Error::value("mean_shape", "0 vertices", "at least one"));
    }
    if t == 0 {
        return Err(Error::value("triangles", "0 triangles", "at least one"));
    }
    for (name, values, k) in [
        ("identity_basis", parts.identity_basis, parts.n_identity),
        ("expression_basis", parts.expression_basis, parts.n_expression),
        ("albedo_basis", parts.albedo_basis, parts.n_albedo),
    ] {
        check::length(name, values.len(), n * 3 * k, "values")?;
        check::finite_f16(name, values)?;
    }
    check::length("mean_albedo", parts.mean_albedo.len(), n, "vertices")?;
    check::length("landmark_vertices", parts.landmark_vertices.len(), LANDMARKS, "landmarks")?;
    check::length("uv", parts.uv.len(), t, "triangles")?;
    check::length("regions", parts.regions.len(), n, "vertices")?;
    check::length("mirror", parts.mirror.len(), n, "vertices")?;
    check::finite("mean_shape", parts.mean_shape.as_flattened())?;
    check::finite("mean_albedo", parts.mean_albedo.as_flattened())?;
    check::finite("uv", parts.uv.as_flattened().as_flattened())?;
    check::indices("triangles", parts.triangles.as_flattened(), n)?;
    check::indices("mirror", parts.mirror, n)?;
    if parts.subdivisions > 1 {
        return Err(Error::value("subdivisions", parts.subdivisions, "0 or 1"));
    }
    validate_orientation(parts.mean_shape, parts.triangles)
}

fn validate_landmarks(landmarks: &[i32], count: usize) -> Result<()> {
    check::indices("landmark_vertices", landmarks, count)
}

/// Neighbours must run along their common edge in opposite directions, and the surface as a whole must face +z.
fn validate_orientation(points: &[[f32; 3]], triangles: &[[i32; 3]]) -> Result<()> {
    let mut edges = Vec::with_capacity(3 * triangles.len());
    let mut facing = 0.0;
    for (k, &[a, b, c]) in triangles.iter().enumerate() {
        if a == b || b == c || c == a {
            return Err(Error::value("triangles", format!("corners {a}, {b}, {c} in triangle {k}"), "three different"));
        }
        edges.extend([(a, b), (b, c), (c, a)]);
        let [a, b, c] = [a, b, c].map(|v| points[v as usize].map(f64::from));
        facing += (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    }
    edges.sort_unstable();
    if let Some(&[(a, b), _]) = edges.windows(2).find_map(|w| w.first_chunk().filter(|[p, q]| p == q)) {
        return Err(Error::value(
            "triangles",
            format!("two triangles that run along edge {a}-{b} in the same direction"),
            "one orientation, counter-clockwise seen from outside",
        ));
    }
    if facing <= 0.0 {
        return Err(Error::value(
            "triangles",
            "a surface that faces -z",
            "counter-clockwise triangles seen from outside, the face looking along +z",
        ));
    }
    Ok(())
}

fn refined_points(subdivision: &Subdivision, coarse: &[[f32; 3]]) -> Result<Vec<[f32; 3]>> {
    let mut points = coarse.to_vec();
    points.resize(subdivision.refined(), [0.0; 3]);
    subdivision.refine(&mut [&mut points], 1)?;
    Ok(points)
}

fn refined_regions(subdivision: &Subdivision, coarse: &[u8]) -> Vec<u8> {
    coarse.iter().copied().chain(subdivision.edges().iter().map(|e| coarse[e[0] as usize])).collect()
}

fn refined_mirror(subdivision: &Subdivision, coarse: &[i32]) -> Vec<i32> {
    let other = |&[a, b]: &[i32; 2]| {
        let (a, b) = (coarse[a as usize], coarse[b as usize]);
        subdivision.midpoint(a, b).unwrap_or(a)
    };
    coarse.iter().copied().chain(subdivision.edges().iter().map(other)).collect()
}
