//! Writes PyTorch checkpoints as `torch.save` does, foreign objects and attacks included, without PyTorch.
#![allow(dead_code)] // Each test file uses its own part.

use std::io::Write;
use zip::write::SimpleFileOptions;

/// A Python value, and how pickle writes it.
#[derive(Clone, Debug)]
pub enum Py {
    None,
    Bool(bool),
    Int(i64),
    Str(String),
    List(Vec<Py>),
    Tuple(Vec<Py>),
    Dict(Vec<(Py, Py)>),
    Global(&'static str, &'static str),
    /// `callable(*args)`.
    Reduce(Box<Py>, Vec<Py>),
    /// A reduced value whose items are then set.
    Items(Box<Py>, Vec<(Py, Py)>),
    /// A value that is then given its state.
    Build(Box<Py>, Box<Py>),
    Persistent(Box<Py>),
    /// Opcodes as they are.
    Raw(Vec<u8>),
}

impl From<&str> for Py {
    fn from(text: &str) -> Py {
        Py::Str(text.to_owned())
    }
}

pub fn call(module: &'static str, name: &'static str, args: Vec<Py>) -> Py {
    Py::Reduce(Box::new(Py::Global(module, name)), args)
}

/// An instance of a class that is not installed here, with attributes.
pub fn foreign(module: &'static str, name: &'static str, state: Vec<(Py, Py)>) -> Py {
    Py::Build(Box::new(call("copyreg", "_reconstructor", vec![Py::Global(module, name)])), Box::new(Py::Dict(state)))
}

pub fn ordered_dict(items: Vec<(Py, Py)>) -> Py {
    Py::Items(Box::new(call("collections", "OrderedDict", vec![])), items)
}

/// A Lightning file around a state dict, with what Lightning 1.4 and omegaconf put beside it: callbacks, optimizer states,
/// schedulers, the config as nodes that refer to their parents. `moments` stands for the optimizer's tensors.
pub fn lightning(state: Vec<(String, Py)>, moments: &Py) -> Py {
    let state = ordered_dict(state.into_iter().map(|(key, value)| (Py::Str(key), value)).collect());
    let callback = Py::Dict(vec![
        ("monitor".into(), "val/loss".into()),
        ("best_model_score".into(), moments.clone()),
        ("best_k_models".into(), Py::Dict(vec![("epoch=12.ckpt".into(), moments.clone())])),
    ]);
    let class = Py::Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint");
    let moment = |step| {
        Py::Dict(vec![
            ("step".into(), Py::Int(step)),
            ("exp_avg".into(), moments.clone()),
            ("exp_avg_sq".into(), moments.clone()),
        ])
    };
    let optimizer = Py::Dict(vec![
        ("state".into(), Py::Dict((0..3).map(|at| (Py::Int(at), moment(1000 + at))).collect())),
        ("param_groups".into(), Py::List(vec![Py::Dict(vec![("params".into(), Py::List(vec![Py::Int(0)]))])])),
    ]);
    let schedule =
        foreign("imagebart.lr_scheduler", "LambdaWarmUpCosineScheduler", vec![("lr_max".into(), Py::Int(1))]);
    let metadata = |kind| {
        foreign(
            "omegaconf.base",
            "ContainerMetadata",
            vec![
                ("ref_type".into(), Py::Global("typing", "Any")),
                ("object_type".into(), Py::Global("builtins", kind)),
            ],
        )
    };
    let node =
        |value| foreign("omegaconf.nodes", "AnyNode", vec![("_val".into(), value), ("_parent".into(), Py::None)]);
    let list = foreign(
        "omegaconf.listconfig",
        "ListConfig",
        vec![
            ("_content".into(), Py::List(vec![node(Py::Int(1)), node(Py::Int(2))])),
            ("_metadata".into(), metadata("list")),
        ],
    );
    let content = Py::Dict(vec![("dim".into(), node(Py::Int(8))), ("ch_mult".into(), list)]);
    let config = foreign(
        "omegaconf.dictconfig",
        "DictConfig",
        vec![("_content".into(), content), ("_metadata".into(), metadata("dict")), ("_parent".into(), Py::None)],
    );
    Py::Dict(vec![
        ("epoch".into(), Py::Int(12)),
        ("global_step".into(), Py::Int(34_000)),
        ("pytorch-lightning_version".into(), "1.4.2".into()),
        ("state_dict".into(), state),
        ("callbacks".into(), Py::Dict(vec![(class, callback)])),
        ("optimizer_states".into(), Py::List(vec![optimizer])),
        ("lr_schedulers".into(), Py::List(vec![Py::Dict(vec![("lr_lambdas".into(), Py::List(vec![schedule]))])])),
        ("hparams_name".into(), "kwargs".into()),
        ("hyper_parameters".into(), Py::Dict(vec![("transformer_config".into(), config)])),
    ])
}

/// A whole pickle of protocol 2, the default of `torch.save`, or 4.
pub fn pickle(value: &Py, protocol: u8) -> Vec<u8> {
    let mut out = vec![0x80, protocol];
    emit(value, protocol, &mut out);
    out.push(b'.');
    out
}

fn emit(value: &Py, protocol: u8, out: &mut Vec<u8>) {
    match value {
        Py::None => out.push(b'N'),
        Py::Bool(value) => out.push(if *value { 0x88 } else { 0x89 }),
        Py::Int(value) => match i32::try_from(*value) {
            Ok(small) => {
                out.push(b'J');
                out.extend(small.to_le_bytes());
            }
            Err(_) => {
                out.extend([0x8a, 8]);
                out.extend(value.to_le_bytes());
            }
        },
        Py::Str(text) => string(text, protocol, out),
        Py::List(items) => {
            out.extend(b"](");
            items.iter().for_each(|item| emit(item, protocol, out));
            out.push(b'e');
        }
        Py::Tuple(items) => tuple(items, protocol, out),
        Py::Dict(items) => {
            out.push(b'}');
            set_items(items, protocol, out);
        }
        Py::Global(module, name) if protocol >= 4 => {
            string(module, protocol, out);
            string(name, protocol, out);
            out.push(0x93);
        }
        Py::Global(module, name) => out.extend(format!("c{module}\n{name}\n").bytes()),
        Py::Reduce(callable, args) => {
            emit(callable, protocol, out);
            tuple(args, protocol, out);
            out.push(b'R');
        }
        Py::Items(target, items) => {
            emit(target, protocol, out);
            set_items(items, protocol, out);
        }
        Py::Build(target, state) => {
            emit(target, protocol, out);
            emit(state, protocol, out);
            out.push(b'b');
        }
        Py::Persistent(id) => {
            emit(id, protocol, out);
            out.push(b'Q');
        }
        Py::Raw(bytes) => out.extend(bytes),
    }
}

fn string(text: &str, protocol: u8, out: &mut Vec<u8>) {
    if protocol >= 4 && text.len() < 256 {
        out.extend([0x8c, text.len() as u8]);
    } else {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
    }
    out.extend(text.bytes());
}

fn tuple(items: &[Py], protocol: u8, out: &mut Vec<u8>) {
    out.push(b'(');
    items.iter().for_each(|item| emit(item, protocol, out));
    out.push(b't');
}

fn set_items(items: &[(Py, Py)], protocol: u8, out: &mut Vec<u8>) {
    out.push(b'(');
    for (key, value) in items {
        emit(key, protocol, out);
        emit(value, protocol, out);
    }
    out.push(b'u');
}

/// A storage: its class, key and bytes, and how many elements it says it has.
#[derive(Clone, Debug)]
pub struct Storage {
    pub class: &'static str,
    pub key: String,
    pub elements: i64,
    pub bytes: Vec<u8>,
}

impl Storage {
    pub fn floats(key: impl ToString, values: &[f32]) -> Storage {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Storage { class: "FloatStorage", key: key.to_string(), elements: values.len() as i64, bytes }
    }

    pub fn longs(key: impl ToString, values: &[i64]) -> Storage {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Storage { class: "LongStorage", key: key.to_string(), elements: values.len() as i64, bytes }
    }

    pub fn ints(key: impl ToString, values: &[i32]) -> Storage {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Storage { class: "IntStorage", key: key.to_string(), elements: values.len() as i64, bytes }
    }

    /// The persistent id; the legacy format has a place for views more.
    fn id(&self, format: Format) -> Py {
        let mut id = vec![
            Py::from("storage"),
            Py::Global("torch", self.class),
            Py::Str(self.key.clone()),
            Py::from("cpu"),
            Py::Int(self.elements),
        ];
        if format == Format::Legacy {
            id.push(Py::None);
        }
        Py::Persistent(Box::new(Py::Tuple(id)))
    }

    /// A tensor on this storage.
    pub fn tensor(&self, format: Format, offset: i64, shape: &[i64], stride: &[i64]) -> Py {
        let ints = |values: &[i64]| Py::Tuple(values.iter().map(|&value| Py::Int(value)).collect());
        let hooks = ordered_dict(vec![]);
        let args = vec![self.id(format), Py::Int(offset), ints(shape), ints(stride), Py::Bool(false), hooks];
        call("torch._utils", "_rebuild_tensor_v2", args)
    }

    /// A tensor that is all of this storage, row-major.
    pub fn whole(&self, format: Format, shape: &[i64]) -> Py {
        let mut stride = vec![1; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            stride[axis] = stride[axis + 1] * shape[axis + 1];
        }
        self.tensor(format, 0, shape, &stride)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Zip,
    Legacy,
}

pub const FORMATS: [Format; 2] = [Format::Zip, Format::Legacy];

/// The bytes of a checkpoint file.
pub fn save(format: Format, object: &Py, storages: &[Storage]) -> Vec<u8> {
    match format {
        Format::Zip => {
            zip_file("archive", &pickle(object, 2), Some("little"), storages, zip::CompressionMethod::Stored)
        }
        Format::Legacy => legacy_file(&pickle(object, 2), true, storages),
    }
}

/// A zip checkpoint with its parts as given.
pub fn zip_file(
    name: &str,
    data_pkl: &[u8],
    byteorder: Option<&str>,
    storages: &[Storage],
    method: zip::CompressionMethod,
) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method).with_alignment(64);
    let mut member = |path: String, bytes: &[u8]| {
        writer.start_file(path, options).unwrap();
        writer.write_all(bytes).unwrap();
    };
    let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
    member(format!("{prefix}data.pkl"), data_pkl);
    if let Some(byteorder) = byteorder {
        member(format!("{prefix}byteorder"), byteorder.as_bytes());
    }
    for storage in storages {
        member(format!("{prefix}data/{}", storage.key), &storage.bytes);
    }
    member(format!("{prefix}version"), b"3\n");
    writer.finish().unwrap().into_inner()
}

/// A legacy checkpoint around a pickled object.
pub fn legacy_file(object: &[u8], little_endian: bool, storages: &[Storage]) -> Vec<u8> {
    let mut out = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    let sizes = [("short", 2), ("int", 4), ("long", 4)].map(|(name, size)| (Py::from(name), Py::Int(size)));
    let system = Py::Dict(vec![
        ("protocol_version".into(), Py::Int(1001)),
        ("little_endian".into(), Py::Bool(little_endian)),
        ("type_sizes".into(), Py::Dict(sizes.to_vec())),
    ]);
    out.extend(pickle(&system, 2));
    out.extend(object);
    let mut sorted: Vec<&Storage> = storages.iter().collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    out.extend(pickle(&Py::List(sorted.iter().map(|storage| Py::Str(storage.key.clone())).collect()), 2));
    for storage in sorted {
        out.extend(storage.elements.to_le_bytes());
        out.extend(&storage.bytes);
    }
    out
}

/// Attacks: what Python would execute, each in another way, and the name to be refused.
pub fn attacks() -> Vec<(&'static str, Py)> {
    let command = || vec![Py::from("echo pwned")];
    let raw = |bytes: &[u8]| Py::Raw(bytes.to_vec());
    vec![
        ("os.system", call("os", "system", command())),
        ("posix.system", call("posix", "system", command())),
        ("subprocess.Popen", call("subprocess", "Popen", command())),
        ("builtins.eval", call("builtins", "eval", command())),
        ("__builtin__.eval", call("__builtin__", "eval", command())),
        ("builtins.exec", call("builtins", "exec", command())),
        ("builtins.__import__", call("builtins", "__import__", command())),
        ("builtins.getattr", call("builtins", "getattr", vec![Py::Global("torch", "nn"), "__globals__".into()])),
        ("builtins.getattr", call("builtins", "getattr", vec![Py::Global("os", "path"), "sep".into()])),
        ("sys.exit", call("sys", "exit", command())),
        ("builtins.eval", call("builtins", "map", vec![Py::Global("builtins", "eval"), Py::List(command())])),
        ("os.system", call("functools", "partial", vec![Py::Global("os", "system"), "x".into()])),
        ("torch.load", call("torch", "load", command())),
        // STACK_GLOBAL, INST, OBJ, NEWOBJ and NEWOBJ_EX; and a name that reaches through a module.
        ("os.system", raw(b"\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R")),
        ("os.system", raw(b"(X\x02\x00\x00\x00idios\nsystem\n")),
        ("os.system", raw(b"(cos\nsystem\nX\x02\x00\x00\x00ido")),
        ("os.system", raw(b"cos\nsystem\nX\x02\x00\x00\x00id\x85\x81")),
        ("os.system", raw(b"cos\nsystem\nX\x02\x00\x00\x00id\x85}\x92")),
        ("torch.os.system", raw(b"\x8c\x05torch\x8c\x09os.system\x93\x8c\x02id\x85R")),
        // Hidden where the value is thrown away.
        ("os.system", raw(b"cos\nsystem\nX\x02\x00\x00\x00id\x85R0N")),
    ]
}
