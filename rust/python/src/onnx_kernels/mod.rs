//! The kernels of `wm3dr_core::quantized` for onnxruntime: custom operators of the domain `wm3dr`.
//!
//! An encoder file calls functions of its own, whose bodies are ordinary nodes (training/wm3dr_training/fuse_blocks.py).
//! onnxruntime takes a registered operator of the same name instead, and inlines the body where there is none.
//! `SessionOptions.register_custom_ops_library` opens this very library and calls `RegisterCustomOps`.

mod runtime;

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use ort_sys::{
    ONNXTensorElementDataType, OrtApi, OrtApiBase, OrtCustomOp, OrtCustomOpDomain,
    OrtCustomOpInputOutputCharacteristic, OrtErrorCode, OrtKernelContext, OrtKernelInfo, OrtMemType, OrtSessionOptions,
    OrtStatusPtr,
};
use wm3dr_core::quantized::{AveragePool, Block, Convolution, Depthwise, First, Heatmap, Quantization, ResizeAdd};

use runtime::{Constants, Context, Failure, Pool, guarded, status};

/// Version of onnxruntime's interface that is asked for: that of 1.17.
const INTERFACE: u32 = 17;
const DOMAIN: &CStr = c"wm3dr";

/// Tensors of a convolution: weight, its scale and zero point, bias, its scale and zero point, scale and zero point of the
/// result.
const PER_CONVOLUTION: usize = 8;
const TYPES: [ONNXTensorElementDataType; PER_CONVOLUTION] = {
    use ONNXTensorElementDataType::*;
    [
        ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
    ]
};
/// Types of the scale and the zero point of a tensor of uint8.
const SCALES: [ONNXTensorElementDataType; 2] = [TYPES[6], TYPES[7]];
/// Tensors before the convolutions: the input, its scale and zero point.
const BEFORE: usize = 3;

/// An operator: what onnxruntime asks about it, then what is ours.
#[repr(C)]
struct Operator {
    asked: OrtCustomOp,
    name: &'static CStr,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Block { before: Before, depthwise: bool, sums: bool },
    ResizeAdd,
    AveragePool,
    Heatmap,
}

/// What a block has before its depthwise convolution.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Expand,
    Stem,
}

impl Kind {
    fn convolutions(self) -> usize {
        match self {
            Self::Heatmap => 1,
            Self::Block { before, depthwise, .. } => {
                1 + usize::from(before != Before::Nothing) + usize::from(depthwise)
            }
            Self::ResizeAdd | Self::AveragePool => 0,
        }
    }

    /// Types of the inputs: the map, its scale and zero point, those of the convolutions, the rest.
    fn inputs(self) -> Vec<ONNXTensorElementDataType> {
        let [scale, map] = SCALES;
        let rest: &[_] = match self {
            Self::Block { sums: true, .. } => &SCALES,
            Self::AveragePool => &SCALES,
            Self::ResizeAdd => &[map, scale, map, scale, map],
            Self::Heatmap => &[scale, scale],
            _ => &[],
        };
        [&[map, scale, map], &TYPES.repeat(self.convolutions())[..], rest].concat()
    }

    fn output(self) -> ONNXTensorElementDataType {
        if self == Self::Heatmap { SCALES[0] } else { SCALES[1] }
    }
}

/// What a node of a graph has become.
struct Kernel {
    api: &'static OrtApi,
    work: Work,
}

enum Work {
    Block(Box<Block>),
    ResizeAdd(ResizeAdd),
    AveragePool(Box<AveragePool>),
    Heatmap(Heatmap),
}

fn operators() -> &'static [Operator] {
    static OPERATORS: OnceLock<Vec<Operator>> = OnceLock::new();
    let block = |before, depthwise, sums| Kind::Block { before, depthwise, sums };
    OPERATORS.get_or_init(|| {
        [
            (c"StemSeparable", block(Before::Stem, true, false)),
            (c"Pointwise", block(Before::Nothing, false, false)),
            (c"Separable", block(Before::Nothing, true, false)),
            (c"InvertedResidual", block(Before::Expand, true, false)),
            (c"InvertedResidualAdd", block(Before::Expand, true, true)),
            (c"UpsampleAdd", Kind::ResizeAdd), // they differ in their bodies
            (c"ResizeAdd", Kind::ResizeAdd),
            (c"AveragePool", Kind::AveragePool),
            (c"Heatmap", Kind::Heatmap),
        ]
        .into_iter()
        .map(|(name, kind)| Operator { asked: answers(), name, kind })
        .collect()
    })
}

/// What onnxruntime may call.
fn answers() -> OrtCustomOp {
    OrtCustomOp {
        version: INTERFACE,
        CreateKernel: None,
        GetName: Some(name),
        GetExecutionProviderType: Some(provider),
        GetInputType: Some(input_type),
        GetInputTypeCount: Some(inputs),
        GetOutputType: Some(output_type),
        GetOutputTypeCount: Some(outputs),
        KernelCompute: None,
        KernelDestroy: Some(destroy),
        GetInputCharacteristic: Some(required),
        GetOutputCharacteristic: Some(required),
        GetInputMemoryType: Some(memory),
        GetVariadicInputMinArity: Some(one),
        GetVariadicInputHomogeneity: Some(one),
        GetVariadicOutputMinArity: Some(one),
        GetVariadicOutputHomogeneity: Some(one),
        CreateKernelV2: Some(create),
        KernelComputeV2: Some(compute),
        InferOutputShapeFn: None,
        GetStartVersion: Some(one),
        GetEndVersion: Some(one),
    }
}

/// # Safety
/// `asked` is the first field of one of `operators()`.
unsafe fn operator<'a>(asked: *const OrtCustomOp) -> &'a Operator {
    // SAFETY: an operator begins with what is asked, by `repr(C)`; operators live as long as the process.
    unsafe { &*asked.cast::<Operator>() }
}

unsafe extern "system" fn name(asked: *const OrtCustomOp) -> *const std::ffi::c_char {
    // SAFETY: onnxruntime passes what it was given.
    unsafe { operator(asked) }.name.as_ptr()
}

unsafe extern "system" fn provider(_: *const OrtCustomOp) -> *const std::ffi::c_char {
    std::ptr::null() // the CPU's
}

unsafe extern "system" fn inputs(asked: *const OrtCustomOp) -> usize {
    // SAFETY: onnxruntime passes what it was given.
    unsafe { operator(asked) }.kind.inputs().len()
}

unsafe extern "system" fn input_type(asked: *const OrtCustomOp, index: usize) -> ONNXTensorElementDataType {
    // SAFETY: onnxruntime passes what it was given.
    unsafe { operator(asked) }.kind.inputs()[index]
}

unsafe extern "system" fn outputs(_: *const OrtCustomOp) -> usize {
    1
}

unsafe extern "system" fn output_type(asked: *const OrtCustomOp, _: usize) -> ONNXTensorElementDataType {
    // SAFETY: onnxruntime passes what it was given.
    unsafe { operator(asked) }.kind.output()
}

unsafe extern "system" fn required(_: *const OrtCustomOp, _: usize) -> OrtCustomOpInputOutputCharacteristic {
    OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_REQUIRED
}

unsafe extern "system" fn memory(_: *const OrtCustomOp, _: usize) -> OrtMemType {
    OrtMemType::OrtMemTypeDefault
}

unsafe extern "system" fn one(_: *const OrtCustomOp) -> c_int {
    1
}

unsafe extern "system" fn create(
    asked: *const OrtCustomOp,
    api: *const OrtApi,
    info: *const OrtKernelInfo,
    kernel: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: onnxruntime's table lives as long as its library, which is never unloaded.
    let api: &'static OrtApi = unsafe { &*api };
    // SAFETY: onnxruntime passes what it was given.
    let kind = unsafe { operator(asked) }.kind;
    guarded(api, || {
        // SAFETY: `info` is alive for this call.
        let constants = unsafe { Constants::new(api, info) };
        let made = Box::new(Kernel { api, work: work(kind, &constants)? });
        // SAFETY: a place for one pointer.
        unsafe { *kernel = Box::into_raw(made).cast() };
        Ok(())
    })
}

/// Packs the weights of a node.
fn work(kind: Kind, constants: &Constants) -> Result<Work, Failure> {
    let input = quantization(constants, 1)?;
    let convolution = |number| convolution(constants, BEFORE + PER_CONVOLUTION * number);
    let rest = BEFORE + PER_CONVOLUTION * kind.convolutions();
    let (before, depthwise, sums) = match kind {
        Kind::Block { before, depthwise, sums } => (before, depthwise, sums),
        Kind::AveragePool => {
            return Ok(Work::AveragePool(Box::new(AveragePool::new(input, quantization(constants, rest)?))));
        }
        Kind::ResizeAdd => {
            let (coarse, sum) = (quantization(constants, rest + 1)?, quantization(constants, rest + 3)?);
            return Ok(Work::ResizeAdd(ResizeAdd::new(input, coarse, sum)));
        }
        Kind::Heatmap => {
            let (weight, bias) = (constants.values::<f32>(rest)?, constants.values::<f32>(rest + 1)?);
            let &[bias] = bias else { return Err(format!("the heatmap has {} biases, not one", bias.len()).into()) };
            return Ok(Work::Heatmap(Heatmap::new(input, &convolution(0)?, weight.to_vec(), bias)?));
        }
    };
    let leading = if before == Before::Nothing { None } else { Some(convolution(0)?) };
    let first = match (before, &leading) {
        (Before::Expand, Some(expand)) => First::Expand(expand),
        (Before::Stem, Some(stem)) => {
            let columns = constants.attribute(c"columns")?; // the shape of the map: its channels are the last
            let outputs = columns.last().copied().unwrap_or(0).unsigned_abs() as usize;
            First::Stem { convolution: stem, pixels: stem.bias.len().checked_div(outputs).unwrap_or(0) }
        }
        _ => First::Nothing,
    };
    let middle = if depthwise {
        let strides = constants.attribute(c"strides")?;
        let pads = constants.attribute(c"pads")?;
        let (&[rows, columns], Ok(pads)) = (&strides[..], <[i64; 4]>::try_from(pads)) else {
            return Err("'strides' and 'pads' are not two and four numbers".into());
        };
        if rows != columns {
            return Err(format!("'strides' is {rows} and {columns}, not twice the same").into());
        }
        let pads = pads.map(|pad| pad.unsigned_abs() as usize);
        let convolution = convolution(usize::from(before != Before::Nothing))?;
        Some(Depthwise { convolution, stride: rows.unsigned_abs() as usize, pads })
    } else {
        None
    };
    let project = convolution(kind.convolutions() - 1)?;
    let sum = if sums { Some(quantization(constants, rest)?) } else { None };
    Ok(Work::Block(Box::new(Block::new(input, first, middle.as_ref(), &project, sum)?)))
}

fn quantization(constants: &Constants, at: usize) -> Result<Quantization, Failure> {
    let (scale, zero_point) = (constants.values::<f32>(at)?, constants.values::<u8>(at + 1)?);
    match (scale, zero_point) {
        (&[scale], &[zero_point]) => Ok(Quantization { scale, zero_point }),
        _ => Err(format!("inputs {at} and {} are not one number each", at + 1).into()),
    }
}

fn convolution(constants: &Constants, at: usize) -> Result<Convolution, Failure> {
    let zero = constants.values::<i8>(at + 2)?.iter().all(|&z| z == 0)
        && constants.values::<i32>(at + 5)?.iter().all(|&z| z == 0);
    if !zero {
        return Err(format!("inputs {} and {} are not 0", at + 2, at + 5).into());
    }
    Ok(Convolution {
        weight: constants.values::<i8>(at)?.to_vec(),
        weight_scale: constants.values::<f32>(at + 1)?.to_vec(),
        bias: constants.values::<i32>(at + 3)?.to_vec(),
        output: quantization(constants, at + 6)?,
    })
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: `create` made it; onnxruntime destroys it after the last call. Calls at once only read it.
    let kernel = unsafe { &*kernel.cast::<Kernel>() };
    guarded(kernel.api, || {
        // SAFETY: the context is alive for this call.
        let mut context = unsafe { Context::new(kernel.api, context) };
        let (input, shape) = context.input(0)?;
        let [batch, height, width, channels] = shape;
        let pool = Pool::new(&context);
        match &kernel.work {
            Work::Block(block) => {
                let columns = block.columns(width, channels)?;
                let (rows, across) = block.size((height, columns));
                let output = context.output(&[batch, rows, across, block.channels().1])?;
                block.run(input, (batch, height, columns), output, &pool)?;
            }
            Work::ResizeAdd(sum) => {
                let coarse = context.input(BEFORE)?;
                sum.run((input, shape), coarse, context.output(&shape)?, &pool)?;
            }
            Work::AveragePool(mean) => {
                let output = context.output(&[batch, height.div_ceil(2), width.div_ceil(2), channels])?;
                mean.run(input, shape, output, &pool)?;
            }
            Work::Heatmap(heatmap) => {
                if channels != heatmap.channels() {
                    return Err(format!("the input has {channels} channels, expected {}", heatmap.channels()).into());
                }
                heatmap.run(input, context.output(&[batch, 1, height, width])?, &pool)?;
            }
        }
        pool.finished()
    })
}

unsafe extern "system" fn destroy(kernel: *mut c_void) {
    // SAFETY: `create` made it, and nobody else destroys it.
    drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
}

/// The domain, made once for a runtime: options of sessions keep a pointer to it.
struct Domain {
    api: *const OrtApi,
    domain: *mut OrtCustomOpDomain,
}

// SAFETY: onnxruntime only reads a domain that has its operators.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

/// onnxruntime's entry point of a library of operators.
///
/// # Safety
/// As onnxruntime calls it: `options` and `base` are alive.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    static DOMAIN_OF: OnceLock<Domain> = OnceLock::new();
    // SAFETY: `base` is alive.
    let api = unsafe { ((*base).GetApi)(INTERFACE) };
    if api.is_null() || !wm3dr_core::quantized::supported() {
        return OrtStatusPtr::default(); // older than the interface, or not this processor: bodies are inlined
    }
    // SAFETY: onnxruntime's table lives as long as its library, which is never unloaded.
    let api: &'static OrtApi = unsafe { &*api };
    guarded(api, || {
        let domain = match DOMAIN_OF.get() {
            Some(domain) => domain,
            None => {
                let mut domain = std::ptr::null_mut();
                // SAFETY: a place for one pointer.
                status(api, unsafe { (api.CreateCustomOpDomain)(DOMAIN.as_ptr(), &mut domain) })?;
                for operator in operators() {
                    // SAFETY: domain and operator live as long as the process.
                    status(api, unsafe { (api.CustomOpDomain_Add)(domain, &operator.asked) })?;
                }
                DOMAIN_OF.get_or_init(|| Domain { api, domain })
            }
        };
        if !std::ptr::eq(domain.api, api) {
            return Err("another onnxruntime of this process has taken the kernels".into());
        }
        // SAFETY: `options` are alive; the domain is never released.
        status(api, unsafe { (api.AddCustomOpDomain)(options, domain.domain) })
    })
}

/// An error of onnxruntime with this text.
fn failed(api: &OrtApi, text: &str) -> OrtStatusPtr {
    let text = std::ffi::CString::new(text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: onnxruntime copies the text.
    unsafe { (api.CreateStatus)(OrtErrorCode::ORT_INVALID_ARGUMENT, text.as_ptr()) }
}
