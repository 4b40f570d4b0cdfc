//! TorchScript modules for tests.

use std::io::{Read, Write};
use std::path::Path;
use tch::{CModule, Device, Kind, Tensor};

/// Saves what `forward` makes of images of `side` pixels, `[batch, 3, side, side]`, as a module.
pub fn module(path: &Path, side: i64, forward: fn(&Tensor) -> Tensor) {
    let images = Tensor::rand([2, 3, side, side], (Kind::Float, Device::Cpu));
    let mut closure = |inputs: &[Tensor]| vec![forward(&inputs[0])];
    let module = CModule::create_by_tracing("Features", "forward", &[images], &mut closure).expect("a module");
    module.save(path).expect("its file");
}

/// The same module giving its tensor twice, as features and as logits. Tracing from here cannot make a tuple, so that the code in the
/// file is changed: it is text in a zip archive.
pub fn twice(path: &Path) {
    let mut old = zip::ZipArchive::new(std::fs::File::open(path).expect("the module")).expect("an archive");
    let mut new = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for index in 0..old.len() {
        let mut entry = old.by_index(index).expect("an entry");
        let (name, mut bytes) = (entry.name().expect("a name").into_owned(), Vec::new());
        entry.read_to_end(&mut bytes).expect("its bytes");
        if name.ends_with(".py") {
            let code = String::from_utf8(bytes).expect("code");
            let (before, result) = code.trim_end().rsplit_once("return ").expect("a result");
            let before = before.replace("-> Tensor:", "-> Tuple[Tensor, Tensor]:");
            bytes = format!("{before}return ({result}, {result})\n").into_bytes();
        }
        new.start_file(name, stored).expect("an entry");
        new.write_all(&bytes).expect("its bytes");
    }
    std::fs::write(path, new.finish().expect("an archive").into_inner()).expect("the module");
}
