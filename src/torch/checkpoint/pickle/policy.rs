//! Which callables are refused.
//!
//! Reading here is safe whatever a pickle names, since nothing is ever called. This list is for honesty towards the user: a
//! file that would run a command, import code or open files when Python loads it is an attack or a mistake, and is refused by
//! name instead of being read around. Classes that merely carry data (omegaconf, Lightning, numpy, argparse, a project's
//! own) stay inert and pass.

/// Packages with nothing a checkpoint may call, together with their modules.
const PACKAGES: &[&str] = &[
    "asyncio",
    "ctypes",
    "distutils",
    "importlib",
    "multiprocessing",
    "os",
    "pip",
    "requests",
    "setuptools",
    "torch.hub",
    "torch.jit",
    "torch.utils.cpp_extension",
    "urllib",
];

/// Modules with nothing a checkpoint may call. Not what lies under such a name: that is a project's own folder.
const MODULES: &[&str] = &[
    "_ctypes",
    "_pickle",
    "_posixsubprocess",
    "_socket",
    "_thread",
    "bdb",
    "cPickle",
    "cProfile",
    "code",
    "codeop",
    "commands",
    "ftplib",
    "httplib",
    "imp",
    "marshal",
    "nt",
    "pdb",
    "pickle",
    "popen2",
    "posix",
    "profile",
    "pty",
    "runpy",
    "shutil",
    "smtplib",
    "socket",
    "subprocess",
    "sys",
    "telnetlib",
    "threading",
    "timeit",
    "trace",
    "urllib2",
    "webbrowser",
    "winreg",
];

/// Single functions of modules that are otherwise harmless.
const FUNCTIONS: &[(&str, &[&str])] = &[
    ("_io", &["FileIO", "open", "open_code"]),
    ("_operator", &["attrgetter", "methodcaller"]),
    ("codecs", &["open"]),
    ("dill", &["load", "loads"]),
    ("dill._dill", &["load", "loads"]),
    ("io", &["FileIO", "open", "open_code"]),
    ("joblib", &["load"]),
    ("numpy", &["fromfile", "load", "memmap"]),
    ("numpy.testing._private.utils", &["runstring"]),
    ("operator", &["attrgetter", "methodcaller"]),
    ("signal", &["pthread_kill", "raise_signal", "signal"]),
    ("torch", &["load"]),
    ("torch.serialization", &["load"]),
];

/// Built-in functions of the modules in [`BUILTINS`].
const BUILTIN_FUNCTIONS: &[&str] = &[
    "__import__",
    "apply",
    "breakpoint",
    "compile",
    "delattr",
    "eval",
    "exec",
    "execfile",
    "file",
    "getattr",
    "globals",
    "input",
    "locals",
    "open",
    "raw_input",
    "reload",
    "setattr",
    "vars",
];

const BUILTINS: [&str; 3] = ["builtins", "__builtin__", "__builtins__"];

/// Whether a pickle that calls this is refused.
pub fn is_refused(module: &str, name: &str) -> bool {
    let within =
        |parent: &str| module.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    // A dotted name reaches through an attribute (`STACK_GLOBAL "torch" "os.system"`): each part may be a module.
    let mut parts = name.split('.');
    let last = parts.next_back().unwrap_or(name);
    let through = parts.any(|part| MODULES.contains(&part) || PACKAGES.contains(&part) || BUILTINS.contains(&part));
    through
        || MODULES.contains(&module)
        || PACKAGES.iter().any(|parent| within(parent))
        || BUILTINS.contains(&module) && BUILTIN_FUNCTIONS.contains(&last)
        || FUNCTIONS.iter().any(|(of, names)| *of == module && names.contains(&last))
}

/// Whether `getattr(class, attribute)` is how Python 3.11 pickles an enum's member, and protocols before 4 a nested class: a
/// name of one's own class, and a plain attribute.
pub fn is_plain_attribute(class: (&str, &str), attribute: &str) -> bool {
    !is_refused(class.0, class.1) && !BUILTINS.contains(&class.0) && !attribute.starts_with("__")
}

/// Whether this is the built-in `getattr`.
pub fn is_getattr(module: &str, name: &str) -> bool {
    BUILTINS.contains(&module) && name == "getattr"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_executes_is_refused_and_what_holds_data_is_not() {
        let refused = [
            ("os", "system"),
            ("posix", "system"),
            ("nt", "system"),
            ("os.path", "join"),
            ("subprocess", "Popen"),
            ("builtins", "eval"),
            ("__builtin__", "execfile"),
            ("builtins", "__import__"),
            ("sys", "exit"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch", "os.system"),
            ("torch.serialization", "os.system"),
            ("importlib", "import_module"),
        ];
        for (module, name) in refused {
            assert!(is_refused(module, name), "{module}.{name}");
        }
        let inert = [
            ("collections", "OrderedDict"),
            ("omegaconf.dictconfig", "DictConfig"),
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "device"),
            ("builtins", "set"),
            ("builtins", "type"),
            ("_codecs", "encode"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("oscillator", "Wave"),
            ("code.models", "Net"),
            ("signal", "Signals"),
            ("pathlib", "PosixPath"),
            ("functools", "partial"),
        ];
        for (module, name) in inert {
            assert!(!is_refused(module, name), "{module}.{name}");
        }
        assert!(is_plain_attribute(("my.code", "Color"), "RED"));
        assert!(!is_plain_attribute(("my.code", "Color"), "__globals__"));
        assert!(!is_plain_attribute(("builtins", "object"), "x"));
        assert!(!is_plain_attribute(("os", "path"), "x"));
    }
}
