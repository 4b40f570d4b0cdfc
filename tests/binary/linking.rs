//! What the built binary asks of the machine: two of libtorch's libraries, found by RUNPATH, and no CUDA.

use crate::common::skip;

use imagebart::torch::device::DeviceChoice;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The command's binary, and this test's own, which uses libtorch whatever the command does.
fn binaries() -> [PathBuf; 2] {
    assert_eq!(DeviceChoice::Cpu.resolve().unwrap().class, "cpu");
    [env!("CARGO_BIN_EXE_imagebart").into(), std::env::current_exe().unwrap()]
}

/// The values of one tag (`NEEDED`, `RUNPATH`, `RPATH`) in a binary's dynamic section; `None` without readelf.
fn dynamic(binary: &Path, tag: &str) -> Option<Vec<String>> {
    let run = Command::new("readelf").args(["--dynamic", "--wide"]).arg(binary).output().ok()?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let lines = text.lines().filter(|line| line.contains(&format!("({tag})")));
    let value = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
    Some(lines.filter_map(value).collect())
}

#[test]
fn only_the_cpu_libraries_of_libtorch_are_needed() {
    let system =
        ["libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libgcc_s.so", "libstdc++.so", "ld-linux"];
    let allowed = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1"];
    for binary in binaries() {
        let Some(needed) = dynamic(&binary, "NEEDED") else {
            skip::skipped(format_args!("only_the_cpu_libraries_of_libtorch_are_needed: there is no readelf"));
            return;
        };
        let others = needed.iter().filter(|name| !system.iter().any(|system| name.starts_with(system)));
        let others: Vec<&str> = others.map(String::as_str).collect();
        assert!(others.iter().all(|name| allowed.contains(name)), "{}: {others:?}", binary.display());
        let torch = others.contains(&"libtorch_cpu.so");
        assert!(torch || binary.ends_with("imagebart"), "{} does not use libtorch: {others:?}", binary.display());
    }
}

#[test]
fn libtorch_is_found_by_runpath_which_ld_library_path_can_override() {
    for binary in binaries() {
        let Some(runpath) = dynamic(&binary, "RUNPATH") else {
            skip::skipped(format_args!(
                "libtorch_is_found_by_runpath_which_ld_library_path_can_override: there is no readelf"
            ));
            return;
        };
        assert_eq!(dynamic(&binary, "RPATH"), Some(vec![]), "RPATH would win over LD_LIBRARY_PATH");
        let folders: Vec<&str> = runpath.iter().flat_map(|folders| folders.split(':')).collect();
        assert!(folders.iter().all(|folder| folder.starts_with('/')), "{folders:?}");
        let found = folders.iter().any(|folder| Path::new(folder).join("libtorch_cpu.so").exists());
        assert!(found, "no libtorch_cpu.so in {folders:?}");
    }
}

#[test]
fn the_binary_starts_without_ld_library_path() {
    let run =
        Command::new(env!("CARGO_BIN_EXE_imagebart")).arg("--help").env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
