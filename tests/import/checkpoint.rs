//! Reading checkpoints from outside: both formats, views, and files that are not what they seem.

use crate::pytorch::{FORMATS, Format, Py, Storage, attacks, call, foreign, ordered_dict, save};
use imagebart::torch::checkpoint::{Checkpoint, CheckpointError, CheckpointFormat};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("a.ckpt");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Opens bytes as a checkpoint.
fn open(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let folder = Folder::new();
    Checkpoint::open(folder.file(bytes))
}

fn message(bytes: &[u8]) -> String {
    open(bytes).unwrap_err().to_string()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// A state dict with views of all kinds, and what stands beside it in a Lightning file.
fn lightning(format: Format) -> (Py, Vec<Storage>) {
    let numbers = Storage::floats(0, &(0..24).map(|n| n as f32).collect::<Vec<_>>());
    let longs = Storage::longs(1, &[5, -6, 7]);
    let optimizer = Storage::floats(2, &[9.0; 8]);
    let parameter =
        |tensor| call("torch._utils", "_rebuild_parameter", vec![tensor, Py::Bool(true), ordered_dict(vec![])]);
    let state = ordered_dict(vec![
        ("whole".into(), parameter(numbers.whole(format, &[2, 3, 4]))),
        ("transposed".into(), numbers.tensor(format, 0, &[3, 2], &[1, 3])),
        ("slice".into(), numbers.tensor(format, 13, &[2, 2], &[4, 1])),
        ("repeated".into(), numbers.tensor(format, 2, &[3, 2], &[0, 1])),
        ("scalar".into(), numbers.tensor(format, 23, &[], &[])),
        ("empty".into(), numbers.tensor(format, 24, &[0, 3], &[3, 1])),
        ("ones".into(), numbers.tensor(format, 1, &[1, 4, 1], &[99, 1, 99])),
        ("longs".into(), longs.whole(format, &[3])),
        ("count".into(), Py::Int(3)),
        ("strange".into(), call("torch._utils", "_rebuild_qtensor", vec![optimizer.whole(format, &[8])])),
    ]);
    let callback = foreign(
        "pytorch_lightning.callbacks.model_checkpoint",
        "ModelCheckpoint",
        vec![("best".into(), optimizer.whole(format, &[8]))],
    );
    let object = Py::Dict(vec![
        ("epoch".into(), Py::Int(7)),
        ("state_dict".into(), state),
        ("callbacks".into(), Py::Dict(vec![(Py::Global("pytorch_lightning.callbacks", "ModelCheckpoint"), callback)])),
        ("hyper_parameters".into(), foreign("omegaconf.dictconfig", "DictConfig", vec![("_content".into(), Py::None)])),
    ]);
    (object, vec![numbers, longs, optimizer])
}

#[test]
fn views_of_all_kinds_in_both_formats() {
    for format in FORMATS {
        let (object, storages) = lightning(format);
        let folder = Folder::new();
        let mut checkpoint = Checkpoint::open(folder.file(&save(format, &object, &storages))).unwrap();
        let expected_format = if format == Format::Zip { CheckpointFormat::Zip } else { CheckpointFormat::Legacy };
        assert_eq!(checkpoint.format(), expected_format);
        let listed: Vec<String> =
            checkpoint.tensors().map(|t| format!("{} {} {:?}", t.key, t.dtype, t.shape)).collect();
        assert_eq!(
            listed,
            [
                "empty F32 [0, 3]",
                "longs I64 [3]",
                "ones F32 [1, 4, 1]",
                "repeated F32 [3, 2]",
                "scalar F32 []",
                "slice F32 [2, 2]",
                "transposed F32 [3, 2]",
                "whole F32 [2, 3, 4]",
            ]
        );
        let mut read = |key: &str| floats(&checkpoint.read(key).unwrap());
        assert_eq!(read("whole"), (0..24).map(|n| n as f32).collect::<Vec<_>>());
        assert_eq!(read("transposed"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(read("slice"), [13.0, 14.0, 17.0, 18.0]);
        assert_eq!(read("repeated"), [2.0, 3.0, 2.0, 3.0, 2.0, 3.0]);
        assert_eq!(read("scalar"), [23.0]);
        assert_eq!(read("empty"), [0.0; 0]);
        assert_eq!(read("ones"), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(checkpoint.read("longs").unwrap(), storages[1].bytes);
        assert_eq!(checkpoint.foreign().collect::<Vec<_>>(), [("strange", "torch._utils._rebuild_qtensor")]);
        assert_eq!(checkpoint.data().collect::<Vec<_>>(), ["count"]);
        assert_eq!(checkpoint.beside(), ["epoch", "callbacks", "hyper_parameters"]);
        let error = checkpoint.read("strange").unwrap_err().to_string();
        assert!(error.contains("strange") && error.contains("torch._utils._rebuild_qtensor"), "{error}");
        assert!(matches!(checkpoint.read("count"), Err(CheckpointError::NoTensor { .. })));
        assert!(matches!(checkpoint.read("nothing"), Err(CheckpointError::NoTensor { .. })));
    }
}

#[test]
fn a_bare_dict_any_archive_name_and_newer_tensors() {
    let halves = Storage { class: "HalfStorage", key: "0".into(), elements: 2, bytes: vec![0, 60, 0, 64] };
    let bytes = Storage { class: "UntypedStorage", key: "1".into(), elements: 4, bytes: vec![1, 0, 2, 0] };
    let untyped = |dtype| {
        let Py::Reduce(_, mut args) = bytes.tensor(Format::Zip, 0, &[2], &[1]) else { unreachable!() };
        args.push(Py::Global("torch", dtype));
        call("torch._utils", "_rebuild_tensor_v3", args)
    };
    let Py::Reduce(function, args) = halves.whole(Format::Zip, &[2]) else { unreachable!() };
    let typed = vec![*function, Py::Global("torch.nn.parameter", "Parameter"), Py::Tuple(args), Py::Dict(vec![])];
    let object = Py::Dict(vec![
        ("half".into(), halves.whole(Format::Zip, &[2])),
        ("typed".into(), call("torch._tensor", "_rebuild_from_type_v2", typed)),
        ("u16".into(), untyped("uint16")),
        ("f8".into(), untyped("float8_e5m2")),
    ]);
    for name in ["archive", "my model.v2", "", "a/b"] {
        let pickle = crate::pytorch::pickle(&object, 4);
        let file = crate::pytorch::zip_file(
            name,
            &pickle,
            None,
            &[halves.clone(), bytes.clone()],
            zip::CompressionMethod::Stored,
        );
        let folder = Folder::new();
        let mut checkpoint = Checkpoint::open(folder.file(&file)).unwrap();
        let listed: Vec<String> = checkpoint.tensors().map(|t| format!("{} {}", t.key, t.dtype)).collect();
        assert_eq!(listed, ["half F16", "typed F16", "u16 U16"]);
        assert_eq!(checkpoint.read("typed").unwrap(), [0, 60, 0, 64]);
        assert_eq!(checkpoint.read("u16").unwrap(), [1, 0, 2, 0]);
        let (_, callable) = checkpoint.foreign().next().unwrap();
        assert!(callable.contains("torch.float8_e5m2"), "{callable}");
    }
}

#[test]
fn attacks_are_refused_in_every_container() {
    for (name, attack) in attacks() {
        let object = Py::Dict(vec![("state_dict".into(), Py::Dict(vec![])), ("x".into(), attack.clone())]);
        let files =
            [save(Format::Zip, &object, &[]), save(Format::Legacy, &object, &[]), crate::pytorch::pickle(&attack, 2)];
        for file in files {
            let error = message(&file);
            assert!(error.contains("refused") && error.contains(name) && error.contains("a.ckpt"), "{error}");
        }
    }
}

#[test]
fn files_of_other_kinds_say_what_they_are() {
    let (object, storages) = lightning(Format::Zip);
    let data = crate::pytorch::pickle(&object, 2);
    let stored = zip::CompressionMethod::Stored;
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let two = zip_of(&[("a/data.pkl", &data), ("b/data.pkl", &data)]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "the file is empty"),
        (b"hello, this is no checkpoint".to_vec(), "not a PyTorch checkpoint"),
        (b"\x80\x02K\x01.".to_vec(), "not a PyTorch checkpoint"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":1}        ".to_vec(), "safetensors"),
        (tar, "tar archive"),
        (zip_of(&[("readme.txt", b"hi")]), "without data.pkl"),
        (zip_of(&[("m/data.pkl", b"N."), ("m/constants.pkl", b"N.")]), "TorchScript"),
        (two, "two pickles"),
        (crate::pytorch::zip_file("a", &data, Some("big"), &storages, stored), "big-endian"),
        (crate::pytorch::legacy_file(&data, false, &storages), "big-endian"),
        (crate::pytorch::zip_file("a", &data, None, &storages, zip::CompressionMethod::Deflated), "compressed"),
        (save(Format::Zip, &Py::Int(1), &[]), "it is an int"),
        (save(Format::Zip, &foreign("my.nets", "Net", vec![]), &[]), "a call of copyreg._reconstructor"),
        (save(Format::Legacy, &Py::Dict(vec![("lr".into(), Py::Int(1))]), &[]), "a dict of 1 entries (lr)"),
    ];
    for (bytes, part) in cases {
        let error = message(&bytes);
        assert!(error.contains(part) && error.contains("a.ckpt"), "{part}: {error}");
    }
    let error = Checkpoint::open("no/such/file.ckpt").unwrap_err().to_string();
    assert!(error.contains("cannot open the checkpoint no/such/file.ckpt"), "{error}");
    assert!(Checkpoint::open(Folder::new().0.path()).unwrap_err().to_string().contains("directory"));
}

fn zip_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut writer, bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn sizes_that_lie_are_refused_before_memory_is_asked_for() {
    for format in FORMATS {
        let real = Storage::floats(0, &[1.0, 2.0, 3.0]);
        let boast = Storage { elements: i64::MAX, ..real.clone() };
        let cases: Vec<(&Storage, Py, &str)> = vec![
            (&real, real.tensor(format, 0, &[1 << 40], &[0]), "more bytes than the whole file"),
            (&real, real.tensor(format, 0, &[i64::MAX, i64::MAX], &[0, 0]), "more bytes than the whole file"),
            (&real, real.tensor(format, 0, &[4], &[1]), "outside its storage"),
            (&real, real.tensor(format, 3, &[1], &[1]), "outside its storage"),
            (&real, real.tensor(format, i64::MAX, &[1], &[1]), "outside its storage"),
            (&real, real.tensor(format, 0, &[2, 2], &[i64::MAX, i64::MAX]), "outside its storage"),
            (&real, real.tensor(format, 0, &[2], &[-1]), "its stride is a tuple"),
            (&real, real.tensor(format, -1, &[2], &[1]), "its offset is an int"),
            (&real, real.tensor(format, 0, &[2], &[1, 1]), "1 sizes and 2 strides"),
            (&real, real.tensor(format, 0, &[1; 65], &[1; 65]), "65 dimensions"),
            (&boast, boast.tensor(format, 1000, &[3], &[1]), "storage"),
        ];
        for (storage, tensor, part) in cases {
            let (tensor, storage) = (Py::Dict(vec![("t".into(), tensor)]), storage.clone());
            let mut bytes = save(format, &tensor, std::slice::from_ref(&storage));
            if format == Format::Zip && storage.elements == i64::MAX {
                bytes = save(format, &tensor, &[Storage { elements: 3, ..storage }]);
            }
            let error = message(&bytes);
            assert!(error.contains(part), "{part}: {error}");
        }
        let missing = message(&save(format, &Py::Dict(vec![("t".into(), real.whole(format, &[3]))]), &[]));
        assert!(missing.contains("missing") && missing.contains("tensor t of"), "{missing}");
    }
}

#[test]
fn a_checkpoint_cut_anywhere_is_an_error() {
    for format in FORMATS {
        let (object, storages) = lightning(format);
        let whole = save(format, &object, &storages);
        for cut in (0..whole.len()).step_by(7).chain(whole.len() - 30..whole.len()) {
            assert!(open(&whole[..cut]).is_err(), "{format:?} cut at {cut} of {}", whole.len());
        }
    }
}

/// Opens a file and reads all it can.
fn read_all(path: &Path) {
    if let Ok(mut checkpoint) = Checkpoint::open(path) {
        let keys: Vec<String> = checkpoint.tensors().map(|tensor| tensor.key.to_owned()).collect();
        for key in keys {
            let _ = checkpoint.read(&key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn altered_checkpoints_never_panic(zip: bool, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let format = if zip { Format::Zip } else { Format::Legacy };
        let (object, storages) = lightning(format);
        let mut bytes = save(format, &object, &storages);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let folder = Folder::new();
        read_all(&folder.file(&bytes));
    }

    /// A storage that is read whole is compared with its checksum.
    #[test]
    fn altered_numbers_are_noticed_in_the_zip_format(at in 0usize..96, bit in 0u8..8) {
        let storage = Storage::floats(0, &[1.5; 24]);
        let object = Py::Dict(vec![("t".into(), storage.whole(Format::Zip, &[24]))]);
        let mut bytes = save(Format::Zip, &object, std::slice::from_ref(&storage));
        let start = bytes.windows(96).position(|window| window == storage.bytes).unwrap();
        bytes[start + at] ^= 1 << bit;
        let folder = Folder::new();
        let mut checkpoint = Checkpoint::open(folder.file(&bytes)).unwrap();
        prop_assert!(checkpoint.read("t").unwrap_err().to_string().contains("data/0"));
    }
}
