//! What the values of a checkpoint's pickle mean: dicts of tensors, and where a tensor's numbers lie.
//!
//! Only PyTorch's own ways of writing a tensor are understood: `torch._utils._rebuild_tensor`, `_v2`, `_v3`,
//! `_rebuild_parameter`, and storages as persistent ids. Everything else stays what it is, with its name.

use super::pickle::{Id, Node, Object, Tree};
use safetensors::Dtype;

/// How deep `_rebuild_parameter(_rebuild_from_type(...))` may be nested.
const MAX_WRAPPERS: usize = 8;
/// PyTorch's own limit on dimensions.
const MAX_DIMENSIONS: usize = 64;

/// An array of numbers outside the pickle, shared by the tensors that view it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Its key: the zip member's name, or the legacy format's number.
    pub key: String,
    /// Bytes of one element, as the storage counts.
    pub element_size: u64,
    /// Its dtype, where it is one that is read.
    pub dtype: Option<Dtype>,
    /// Number of elements.
    pub elements: u64,
    /// Where a legacy view of another storage starts, in elements.
    pub view_offset: u64,
}

/// A tensor: a strided window on a storage. Offset and strides count elements of `dtype`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRef {
    pub storage: Storage,
    pub dtype: Dtype,
    pub offset: u64,
    pub shape: Vec<u64>,
    pub stride: Vec<u64>,
}

/// A value of a state dict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Tensor(TensorRef),
    /// Made by a callable that is not interpreted: its name.
    Foreign(String),
    /// Plain data, in a few words.
    Data(String),
    /// A tensor that contradicts itself.
    Broken(String),
}

/// The pairs of a dict, an OrderedDict or a defaultdict.
pub fn mapping(tree: &Tree, id: Id) -> Option<Vec<(Id, Id)>> {
    match tree.node(id) {
        Node::Dict(pairs) => Some(pairs.clone()),
        Node::Object(object) => {
            let ("collections", name) = tree.global(object.callable)? else { return None };
            if name != "OrderedDict" && name != "defaultdict" {
                return None;
            }
            // Python 2 writes the pairs as an argument: a list of two-element lists.
            let listed = tree.sequence(object.args)?.first().and_then(|&list| tree.sequence(list)).unwrap_or_default();
            let listed = listed.iter().filter_map(|&pair| match tree.sequence(pair)? {
                &[key, value] => Some((key, value)),
                _ => None,
            });
            Some(listed.chain(object.pairs.iter().copied()).collect())
        }
        _ => None,
    }
}

/// What a value of a state dict is.
pub fn entry(tree: &Tree, id: Id) -> Entry {
    let mut id = id;
    for _ in 0..MAX_WRAPPERS {
        let Node::Object(object) = tree.node(id) else { return Entry::Data(tree.describe(id)) };
        let args = tree.sequence(object.args).unwrap_or_default();
        match (tree.global(object.callable), args) {
            (Some(("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")), [data, ..]) => id = *data,
            (Some(("torch._tensor" | "torch.tensor", "_rebuild_from_type_v2")), [function, class, args, ..])
                if is_plain_tensor_class(tree, *class) =>
            {
                return rebuilt(tree, *function, tree.sequence(*args).unwrap_or_default(), object);
            }
            _ => return rebuilt(tree, object.callable, args, object),
        }
    }
    Entry::Broken("it is wrapped too many times".to_owned())
}

fn is_plain_tensor_class(tree: &Tree, class: Id) -> bool {
    matches!(
        tree.global(class),
        Some(("torch" | "torch._tensor", "Tensor") | ("torch.nn.parameter" | "torch.nn", "Parameter" | "Buffer"))
    )
}

/// A tensor from the arguments of one of PyTorch's functions.
fn rebuilt(tree: &Tree, function: Id, args: &[Id], object: &Object) -> Entry {
    let (metadata, dtype) = match tree.global(function) {
        Some(("torch._utils", "_rebuild_tensor")) => (None, None),
        Some(("torch._utils", "_rebuild_tensor_v2")) => (args.get(6), None),
        Some(("torch._utils", "_rebuild_tensor_v3")) => (args.get(7), args.get(6)),
        _ => return Entry::Foreign(foreign_name(tree, function, object)),
    };
    match tensor(tree, args, metadata.copied(), dtype.copied()) {
        Ok(entry) => entry,
        Err(problem) => Entry::Broken(problem),
    }
}

fn foreign_name(tree: &Tree, function: Id, object: &Object) -> String {
    let named = tree.global(function).or_else(|| tree.global(object.callable));
    named.map_or_else(|| tree.describe(function), |(module, name)| format!("{module}.{name}"))
}

fn tensor(tree: &Tree, args: &[Id], metadata: Option<Id>, dtype: Option<Id>) -> Result<Entry, String> {
    let &[storage, offset, shape, stride, ..] = args else {
        return Err(format!("it has {} arguments, at least 4 are needed", args.len()));
    };
    let Node::Persistent(storage) = tree.node(storage) else {
        return Err(format!("its storage is {}", tree.describe(storage)));
    };
    if let Some(set) = metadata.and_then(|id| mapping(tree, id))
        && set.iter().any(|&(_, value)| *tree.node(value) != Node::Bool(false))
    {
        return Err("it is a conjugated or negated view".to_owned());
    }
    let storage = storage_of(tree, *storage)?;
    let Some(dtype) = dtype.map_or(storage.dtype, |id| dtype_of(tree, id)) else {
        let what = dtype.map_or_else(|| "its storage's type".to_owned(), |id| tree.describe(id));
        return Ok(Entry::Foreign(format!("a tensor of a dtype that is not read ({what})")));
    };
    let numbers = |id, what| integers(tree, id).ok_or_else(|| format!("its {what} is {}", tree.describe(id)));
    let (shape, stride) = (numbers(shape, "shape")?, numbers(stride, "stride")?);
    if shape.len() != stride.len() {
        return Err(format!("it has {} sizes and {} strides", shape.len(), stride.len()));
    }
    if shape.len() > MAX_DIMENSIONS {
        return Err(format!("it has {} dimensions", shape.len()));
    }
    let offset = integer(tree, offset).ok_or_else(|| format!("its offset is {}", tree.describe(offset)))?;
    Ok(Entry::Tensor(TensorRef { storage, dtype, offset, shape, stride }))
}

/// A storage from its persistent id: `("storage", type, key, location, elements[, view])`.
pub fn storage_of(tree: &Tree, persistent: Id) -> Result<Storage, String> {
    let not = |what: &str| format!("its storage has {what}");
    let parts = tree.sequence(persistent).ok_or_else(|| not("no tuple as its id"))?;
    let &[tag, class, key, _location, elements, ref view @ ..] = parts else {
        return Err(not("an id that is too short"));
    };
    if tree.text(tag) != Some("storage") {
        return Err(not("an id of another kind"));
    }
    let (_, class) = tree.global(class).ok_or_else(|| not("no type"))?;
    let (element_size, dtype) = storage_type(class).ok_or_else(|| format!("its storage is of the type {class}"))?;
    let key = match tree.node(key) {
        Node::Text(key) => key.clone(),
        Node::Int(key) => key.to_string(),
        _ => return Err(not("a key that is no string")),
    };
    let elements = integer(tree, elements).ok_or_else(|| not("a size that is no integer"))?;
    let view = view.first().and_then(|&view| tree.sequence(view));
    let view_offset = match view {
        Some(&[_, offset, _]) => integer(tree, offset).ok_or_else(|| not("a view that is no integer"))?,
        Some(_) => return Err(not("a view of another form")),
        None => 0,
    };
    Ok(Storage { key, element_size, dtype, elements, view_offset })
}

/// Bytes of an element and dtype of PyTorch's storage classes (`torch/storage.py`, `_dtype_to_storage_type_map`).
fn storage_type(class: &str) -> Option<(u64, Option<Dtype>)> {
    Some(match class {
        "DoubleStorage" => (8, Some(Dtype::F64)),
        "FloatStorage" => (4, Some(Dtype::F32)),
        "HalfStorage" => (2, Some(Dtype::F16)),
        "BFloat16Storage" => (2, Some(Dtype::BF16)),
        "LongStorage" => (8, Some(Dtype::I64)),
        "IntStorage" => (4, Some(Dtype::I32)),
        "ShortStorage" => (2, Some(Dtype::I16)),
        "CharStorage" => (1, Some(Dtype::I8)),
        "ByteStorage" | "UntypedStorage" | "_UntypedStorage" => (1, Some(Dtype::U8)),
        "BoolStorage" => (1, Some(Dtype::BOOL)),
        "ComplexFloatStorage" => (8, None),
        "ComplexDoubleStorage" => (16, None),
        "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => (1, None),
        "QInt32Storage" => (4, None),
        _ => return None,
    })
}

fn dtype_of(tree: &Tree, id: Id) -> Option<Dtype> {
    let ("torch", name) = tree.global(id)? else { return None };
    Some(match name {
        "float64" | "double" => Dtype::F64,
        "float32" | "float" => Dtype::F32,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "bool" => Dtype::BOOL,
        _ => return None,
    })
}

fn integer(tree: &Tree, id: Id) -> Option<u64> {
    if let Node::Int(value) = tree.node(id) { u64::try_from(*value).ok() } else { None }
}

/// A tuple of integers, or a `torch.Size` of one.
fn integers(tree: &Tree, id: Id) -> Option<Vec<u64>> {
    let items = match tree.node(id) {
        Node::Object(object) if tree.global(object.callable) == Some(("torch", "Size")) => {
            tree.sequence(*tree.sequence(object.args)?.first()?)?
        }
        _ => tree.sequence(id)?,
    };
    items.iter().map(|&item| integer(tree, item)).collect()
}

impl TensorRef {
    /// Bytes of one element.
    pub fn element_size(&self) -> u64 {
        self.dtype.bitsize() as u64 / 8
    }

    /// Number of bytes of the tensor itself, or `None` when that is beyond all bounds.
    pub fn byte_len(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.element_size(), |product, &side| product.checked_mul(side))
    }

    /// The bytes of its storage it looks at: start and length, `None` when they reach outside the storage.
    pub fn window(&self) -> Option<(u64, u64)> {
        let size = self.element_size();
        let mut extent = u64::from(!self.shape.contains(&0));
        if extent > 0 {
            for (&side, &stride) in self.shape.iter().zip(&self.stride) {
                extent = extent.checked_add((side - 1).checked_mul(stride)?)?;
            }
        }
        let view = self.storage.view_offset.checked_mul(self.storage.element_size)?;
        let start = self.offset.checked_mul(size)?.checked_add(view)?;
        let length = extent.checked_mul(size)?;
        let end = start.checked_add(length)?;
        let held = self.storage.elements.checked_mul(self.storage.element_size)?;
        (length == 0 || end <= held).then_some((start, length))
    }

    /// Whether its elements lie in row-major order without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.stride).rev().all(|(&side, &stride)| {
            let fits = side == 1 || stride == expected;
            expected = expected.saturating_mul(side);
            fits
        })
    }

    /// The tensor's bytes in row-major order from those of its [`window`](TensorRef::window), of which the tensor's length is
    /// at most a buffer's.
    pub fn gather(&self, window: &[u8]) -> Option<Vec<u8>> {
        let size = usize::try_from(self.element_size()).ok()?;
        let length = usize::try_from(self.byte_len()?).ok()?;
        let mut out = Vec::with_capacity(length);
        let mut index = vec![0u64; self.shape.len()];
        while out.len() < length {
            let at: u64 = index.iter().zip(&self.stride).map(|(i, stride)| i * stride).sum();
            let at = usize::try_from(at).ok()?.checked_mul(size)?;
            out.extend_from_slice(window.get(at..at + size)?);
            for (position, &side) in index.iter_mut().zip(&self.shape).rev() {
                *position += 1;
                if *position < side {
                    break;
                }
                *position = 0;
            }
        }
        Some(out)
    }
}
