//! Python packages for tests, in virtual environments below `target/` that later runs use again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A Python with the packages of `requirements`, a file below `tests/`, or why there is none. Installed once per `name`; a
/// marker says for which requirements.
pub fn environment(name: &str, requirements: &str) -> Result<PathBuf, String> {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(requirements);
    let wanted = std::fs::read_to_string(&requirements).map_err(|error| error.to_string())?;
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (python, marker) = (venv.join("bin/python"), venv.join("installed.txt"));
    let _installing = lock(name)?;
    if std::fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check", "-r"])
        .arg(&requirements))?;
    std::fs::write(&marker, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

/// Held while something is installed below `target/`: test binaries may run side by side.
pub fn lock(name: &str) -> Result<File, String> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.lock"));
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::create(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("{command:?} failed: {}", complaint(&output))) }
}

/// The last line of what a command complained about.
pub fn complaint(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned()
}
