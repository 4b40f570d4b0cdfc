//! Compiles the C++ shim and tells the linker where libtorch lies, so that the binary finds it without LD_LIBRARY_PATH.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/torch/shim.cpp");
    println!("cargo:rerun-if-changed=src/torch/kernels");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_LIB");

    embed_model();
    cc::Build::new().cpp(true).std("c++17").warnings(true).file("src/torch/shim.cpp").compile("imagebart_shim");
    compile_kernels();

    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if os == "linux" {
        println!("cargo:rustc-link-lib=dylib=dl");
        // torch-sys names every library it finds, libtorch_cuda.so among them: keep only those whose symbols are used.
        // RUNPATH rather than RPATH, so that LD_LIBRARY_PATH can point the binary to a libtorch elsewhere.
        println!("cargo:rustc-link-arg=-Wl,--as-needed,--enable-new-dtags");
    }
    let libraries = libtorch_libraries();
    if os == "linux" || os == "macos" {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libraries.display());
    }
    #[cfg(unix)]
    expose_to_doctests(&libraries);
}

/// The demo's trained model as a list of names and bytes; an empty one where the repository has none.
fn embed_model() {
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("examples/shapes/model");
    println!("cargo:rerun-if-changed={}", folder.display());
    let entries = std::fs::read_dir(&folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut paths: Vec<PathBuf> = entries.iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    let file = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("({name:?}, include_bytes!({:?})),\n", path.display().to_string())
    };
    let list: String = paths.iter().map(file).collect();
    let out = Path::new(&env::var("OUT_DIR").unwrap_or_default()).join("shipped_model.rs");
    std::fs::write(&out, format!("&[{list}]")).expect("cannot write the list of the model's files");
}

/// The CPU kernels: their arithmetic once for each instruction set, chosen when they run.
fn compile_kernels() {
    let build = || {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").warnings(true).opt_level(3);
        build
    };
    let mut sets = vec![("isa_baseline", "4", &[][..])];
    let x86 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    if x86 {
        sets.push(("isa_avx2", "8", &["-mavx2", "-mfma"][..]));
        sets.push(("isa_avx512", "16", &["-mavx512f", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"][..]));
    }
    let mut kernels = build();
    if x86 {
        kernels.define("IMAGEBART_X86", None);
    }
    kernels.file("src/torch/kernels/kernels.cpp").compile("imagebart_kernels");
    for (name, lanes, flags) in sets {
        let mut isa = build();
        isa.define("IMAGEBART_ISA", name).define("IMAGEBART_LANES", lanes);
        for flag in flags {
            isa.flag(flag);
        }
        isa.file("src/torch/kernels/isa.cpp").compile(&format!("imagebart_{name}"));
    }
}

/// The folder of libtorch's shared libraries, by the rules of torch-sys: `$LIBTORCH_LIB/lib`, `$LIBTORCH/lib`, `/usr/lib`.
fn libtorch_libraries() -> PathBuf {
    let root =
        env::var_os("LIBTORCH_LIB").or_else(|| env::var_os("LIBTORCH")).map_or_else(|| "/usr".into(), PathBuf::from);
    let libraries = root.join("lib");
    std::fs::canonicalize(&libraries).unwrap_or(libraries)
}

/// Doc tests are linked without a build script's link arguments. But cargo puts link-search folders inside its own target
/// folder on their library path: so give it one, a link to libtorch's.
#[cfg(unix)]
fn expose_to_doctests(libraries: &Path) {
    let Some(out) = env::var_os("OUT_DIR") else { return };
    let link = Path::new(&out).join("libtorch");
    let _ = std::fs::remove_file(&link);
    if std::os::unix::fs::symlink(libraries, &link).is_ok() {
        println!("cargo:rustc-link-search=native={}", link.display());
    }
}
