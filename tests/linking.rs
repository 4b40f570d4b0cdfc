//! What the built binary asks of the machine: two of libtorch's libraries, found by RUNPATH, and no CUDA.

use std::process::Command;

/// The values of one tag (`NEEDED`, `RUNPATH`, `RPATH`) in the binary's dynamic section; `None` without readelf.
fn dynamic(tag: &str) -> Option<Vec<String>> {
    let run = Command::new("readelf").args(["--dynamic", "--wide", env!("CARGO_BIN_EXE_imagebart")]).output().ok()?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let lines = text.lines().filter(|line| line.contains(&format!("({tag})")));
    let value = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned());
    Some(lines.filter_map(value).collect())
}

#[test]
fn only_the_cpu_libraries_of_libtorch_are_needed() {
    let Some(needed) = dynamic("NEEDED") else {
        eprintln!("skipped: only_the_cpu_libraries_of_libtorch_are_needed: there is no readelf");
        return;
    };
    let system =
        ["libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libgcc_s.so", "libstdc++.so", "ld-linux"];
    let others: Vec<&String> =
        needed.iter().filter(|name| !system.iter().any(|system| name.starts_with(system))).collect();
    let allowed = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1"];
    assert!(others.iter().all(|name| allowed.contains(&name.as_str())), "{others:?}");
}

#[test]
fn libtorch_is_found_by_runpath_which_ld_library_path_can_override() {
    let Some(runpath) = dynamic("RUNPATH") else {
        eprintln!("skipped: libtorch_is_found_by_runpath_which_ld_library_path_can_override: there is no readelf");
        return;
    };
    assert_eq!(dynamic("RPATH"), Some(vec![]), "RPATH would win over LD_LIBRARY_PATH");
    let [runpath] = runpath.as_slice() else { panic!("{runpath:?}") };
    let folders: Vec<&str> = runpath.split(':').collect();
    assert!(folders.iter().all(|folder| folder.starts_with('/')), "{folders:?}");
    assert!(
        folders.iter().any(|folder| std::path::Path::new(folder).join("libtorch_cpu.so").exists()),
        "no libtorch_cpu.so in {folders:?}"
    );
}

#[test]
fn the_binary_starts_without_ld_library_path() {
    let run =
        Command::new(env!("CARGO_BIN_EXE_imagebart")).arg("--help").env_remove("LD_LIBRARY_PATH").output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
