//! What the kernels ask of onnxruntime, in Rust's terms.

use std::cell::RefCell;
use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use ort_sys::{OrtApi, OrtKernelContext, OrtKernelInfo, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtValue};
use wm3dr_core::quantized::Parallel;

use super::failed;

/// Why a kernel could not be made or run.
pub(super) struct Failure(String);

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<wm3dr_core::Error> for Failure {
    fn from(error: wm3dr_core::Error) -> Self {
        Self(error.to_string())
    }
}

/// Runs what onnxruntime calls: neither a failure nor a panic leaves it but as a status.
pub(super) fn guarded(api: &OrtApi, work: impl FnOnce() -> Result<(), Failure>) -> OrtStatusPtr {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => OrtStatusPtr::default(),
        Ok(Err(Failure(text))) => failed(api, &format!("wm3dr: {text}")),
        Err(_) => failed(api, "wm3dr: a kernel panicked; please report it"),
    }
}

/// A status of onnxruntime as a result.
pub(super) fn status(api: &OrtApi, status: OrtStatusPtr) -> Result<(), Failure> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a status that is there has a text, and is ours to release.
    unsafe {
        let text = CStr::from_ptr((api.GetErrorMessage)(status.0)).to_string_lossy().into_owned();
        (api.ReleaseStatus)(status.0);
        Err(Failure(text))
    }
}

/// Shape and number of elements of a tensor.
///
/// # Safety
/// `value` is a tensor that is alive.
unsafe fn shape(api: &OrtApi, value: *const OrtValue) -> Result<Vec<usize>, Failure> {
    // SAFETY: places for what is asked; the information is released before it is left.
    unsafe {
        let mut info: *mut OrtTensorTypeAndShapeInfo = std::ptr::null_mut();
        status(api, (api.GetTensorTypeAndShape)(value, &mut info))?;
        let mut axes = 0;
        let mut sizes = Vec::new();
        let result = status(api, (api.GetDimensionsCount)(info, &mut axes)).and_then(|()| {
            sizes = vec![0_i64; axes];
            status(api, (api.GetDimensions)(info, sizes.as_mut_ptr(), axes))
        });
        (api.ReleaseTensorTypeAndShapeInfo)(info);
        result?;
        sizes.into_iter().map(|n| usize::try_from(n).map_err(|_| Failure(format!("a size of {n}")))).collect()
    }
}

/// Weights and attributes of a node.
pub(super) struct Constants {
    api: &'static OrtApi,
    info: *const OrtKernelInfo,
}

impl Constants {
    /// # Safety
    /// `info` is alive for as long as this.
    pub(super) unsafe fn new(api: &'static OrtApi, info: *const OrtKernelInfo) -> Self {
        Self { api, info }
    }

    /// Values of a constant input, whose type onnxruntime has checked against `Kind::input_type`.
    pub(super) fn values<T: Copy>(&self, index: usize) -> Result<&[T], Failure> {
        let (mut constant, mut value): (c_int, *const OrtValue) = (0, std::ptr::null());
        // SAFETY: places for what is asked; `info` is alive.
        let asked =
            unsafe { (self.api.KernelInfoGetConstantInput_tensor)(self.info, index, &mut constant, &mut value) };
        status(self.api, asked)?;
        if constant == 0 || value.is_null() {
            return Err(format!("input {index} is not constant").into());
        }
        // SAFETY: a constant lives as long as the session; it has as many elements as its shape says.
        unsafe {
            let count = shape(self.api, value)?.iter().product();
            let mut data: *mut c_void = std::ptr::null_mut();
            status(self.api, (self.api.GetTensorMutableData)(value.cast_mut(), &mut data))?;
            Ok(if count == 0 { &[] } else { std::slice::from_raw_parts(data.cast::<T>(), count) })
        }
    }

    /// Whole numbers of an attribute.
    pub(super) fn attribute(&self, name: &CStr) -> Result<Vec<i64>, Failure> {
        let mut count = 0;
        // SAFETY: without a place for the numbers onnxruntime tells how many they are.
        unsafe {
            status(
                self.api,
                (self.api.KernelInfoGetAttributeArray_int64)(
                    self.info,
                    name.as_ptr(),
                    std::ptr::null_mut(),
                    &mut count,
                ),
            )?;
            let mut numbers = vec![0; count];
            status(
                self.api,
                (self.api.KernelInfoGetAttributeArray_int64)(
                    self.info,
                    name.as_ptr(),
                    numbers.as_mut_ptr(),
                    &mut count,
                ),
            )?;
            Ok(numbers)
        }
    }
}

/// One call of a kernel.
pub(super) struct Context {
    api: &'static OrtApi,
    context: *mut OrtKernelContext,
}

impl Context {
    /// # Safety
    /// `context` is alive for as long as this and what it gives.
    pub(super) unsafe fn new(api: &'static OrtApi, context: *mut OrtKernelContext) -> Self {
        Self { api, context }
    }

    /// A map that comes in, and its shape.
    pub(super) fn input(&self, index: usize) -> Result<(&'static [u8], [usize; 4]), Failure> {
        let mut value: *const OrtValue = std::ptr::null();
        // SAFETY: places for what is asked; tensors live as long as the call, and so does what uses the slice.
        unsafe {
            status(self.api, (self.api.KernelContext_GetInput)(self.context, index, &mut value))?;
            let shape = shape(self.api, value)?;
            let Ok(axes) = <[usize; 4]>::try_from(&shape[..]) else {
                return Err(format!("the input has shape {shape:?}, not (batch, height, width, channels)").into());
            };
            let mut data: *mut c_void = std::ptr::null_mut();
            status(self.api, (self.api.GetTensorMutableData)(value.cast_mut(), &mut data))?;
            let count = axes.iter().product();
            let values = if count == 0 { &[] } else { std::slice::from_raw_parts(data.cast::<u8>(), count) };
            Ok((values, axes))
        }
    }

    /// The map that goes out, made with this shape; T is what `Kind::output` says.
    pub(super) fn output<T>(&mut self, shape: &[usize; 4]) -> Result<&'static mut [T], Failure> {
        let sizes = shape.map(|n| n as i64);
        let mut value: *mut OrtValue = std::ptr::null_mut();
        // SAFETY: places for what is asked; the tensor lives as long as the call, and nobody else writes it.
        unsafe {
            let made = (self.api.KernelContext_GetOutput)(self.context, 0, sizes.as_ptr(), sizes.len(), &mut value);
            status(self.api, made)?;
            let mut data: *mut c_void = std::ptr::null_mut();
            status(self.api, (self.api.GetTensorMutableData)(value, &mut data))?;
            let count = shape.iter().product();
            Ok(if count == 0 { &mut [] } else { std::slice::from_raw_parts_mut(data.cast::<T>(), count) })
        }
    }
}

/// onnxruntime's threads.
pub(super) struct Pool {
    api: &'static OrtApi,
    context: *const OrtKernelContext,
    panicked: AtomicBool,
    refused: RefCell<Option<Failure>>,
}

// SAFETY: `refused` is only touched by the thread that calls `run`, once the others are done.
unsafe impl Sync for Pool {}

/// What the threads do, and where they say that it panicked.
struct Task<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    panicked: &'a AtomicBool,
}

impl Pool {
    pub(super) fn new(context: &Context) -> Self {
        let (api, context) = (context.api, context.context.cast_const());
        Self { api, context, panicked: AtomicBool::new(false), refused: RefCell::new(None) }
    }

    /// Whether all that was run came to its end.
    pub(super) fn finished(self) -> Result<(), Failure> {
        if self.panicked.into_inner() {
            return Err("a part of a kernel panicked; please report it".into());
        }
        self.refused.into_inner().map_or(Ok(()), Err)
    }
}

impl Parallel for Pool {
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        if parts == 0 {
            return;
        }
        let task = Task { work, panicked: &self.panicked };
        let user = (&raw const task).cast_mut().cast::<c_void>();
        // SAFETY: onnxruntime returns when all parts are done, so that the task outlives them.
        let result = unsafe { (self.api.KernelContext_ParallelFor)(self.context, part, parts, 0, user) };
        if let Err(failure) = status(self.api, result) {
            self.refused.replace(Some(failure));
        }
    }
}

unsafe extern "C" fn part(user: *mut c_void, index: usize) {
    // SAFETY: `Pool::run` passes a task that is alive until all parts are done.
    let task = unsafe { &*user.cast::<Task>() };
    if catch_unwind(AssertUnwindSafe(|| (task.work)(index))).is_err() {
        task.panicked.store(true, Ordering::Relaxed);
    }
}
