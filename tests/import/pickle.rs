//! The unpickler from outside: what Python writes, what attackers write, and what nobody would write.

use crate::skip;

use crate::pytorch::{Py, attacks, call};
use imagebart::torch::checkpoint::pickle::{self, Id, Node, Problem, Tree};
use proptest::prelude::*;
use std::process::Command;

/// A value as text, cycles cut by `depth`.
fn show(tree: &Tree, id: Id, depth: usize) -> String {
    if depth == 0 {
        return "...".to_owned();
    }
    let list = |ids: &[Id]| ids.iter().map(|&id| show(tree, id, depth - 1)).collect::<Vec<_>>().join(" ");
    let pairs = |pairs: &[(Id, Id)]| {
        let pairs = pairs.iter().map(|&(k, v)| format!("{}:{}", show(tree, k, depth - 1), show(tree, v, depth - 1)));
        pairs.collect::<Vec<_>>().join(" ")
    };
    match tree.node(id) {
        Node::None => "None".to_owned(),
        Node::Bool(value) => value.to_string(),
        Node::Int(value) => value.to_string(),
        Node::HugeInt(bytes) => format!("huge{}", bytes.len()),
        Node::Float(value) => format!("{value:?}"),
        Node::Text(text) => format!("{text:?}"),
        Node::Bytes(bytes) => format!("b{bytes:?}"),
        Node::List(items) => format!("[{}]", list(items)),
        Node::Tuple(items) => format!("({})", list(items)),
        Node::Set(items) => format!("set[{}]", list(items)),
        Node::Dict(items) => format!("{{{}}}", pairs(items)),
        Node::Global { module, name } => format!("<{module}.{name}>"),
        Node::Persistent(id) => format!("persistent {}", show(tree, *id, depth - 1)),
        Node::Object(object) => {
            let mut text = format!("{}{}", show(tree, object.callable, depth - 1), show(tree, object.args, depth - 1));
            if let Some(state) = object.state {
                text += &format!(" state {}", show(tree, state, depth - 1));
            }
            text + &list(&object.items) + &pairs(&object.pairs)
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    let tree = pickle::parse(bytes).unwrap_or_else(|error| panic!("{error}"));
    show(&tree, tree.root(), 20)
}

const PYTHON: &str = r#"
import pickle, sys, collections, enum
class Plain: pass
class Color(enum.Enum): RED = 1
Plain.__module__ = Color.__module__ = "my.code"
import types; sys.modules["my"] = types.ModuleType("my"); sys.modules["my.code"] = types.ModuleType("my.code")
sys.modules["my.code"].Plain, sys.modules["my.code"].Color = Plain, Color
plain = Plain(); plain.x = 7
shared = ["s"]
value = [None, True, False, 0, -1, 255, 65536, -2**31, 2**40, -2**63, 2**100, 1.5, float("inf"), "", "käse €", "a\nb\\c'\"",
         (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {"k": 1, "l": [2]}, shared, shared,
         collections.OrderedDict(a=1), plain, Color.RED, len]
sys.stdout.buffer.write(pickle.dumps(value, min(int(sys.argv[1]), pickle.HIGHEST_PROTOCOL)))
"#;

/// Every protocol of the Python at hand gives the same values.
#[test]
fn python_s_own_pickles_of_all_protocols() {
    let expected = r#"[None true false 0 -1 255 65536 -2147483648 1099511627776 -9223372036854775808 1267650600228229401496703205376 1.5 inf "" "käse €" "a\nb\\c'\"" () (1) (1 2) (1 2 3) (1 2 3 4) [] {} {"k":1 "l":[2]} ["s"] ["s"] <collections.OrderedDict>"#;
    for protocol in 0..=5 {
        let run = Command::new("python3").args(["-c", PYTHON, &protocol.to_string()]).output();
        let Ok(run) = run else {
            skip::skipped(format_args!("python_s_own_pickles_of_all_protocols: there is no python3"));
            return;
        };
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let text = shown(&run.stdout);
        assert!(text.starts_with(expected), "protocol {protocol}: {text}");
        assert!(
            text.contains("my.code.Plain") && text.contains("<my.code.Color>") && text.contains("state {\"x\":7}"),
            "protocol {protocol}: {text}"
        );
        assert!(
            text.ends_with("<builtins.len>]") || text.ends_with("<__builtin__.len>]"),
            "protocol {protocol}: {text}"
        );
    }
}

#[test]
fn opcodes_that_only_old_or_new_pythons_write() {
    assert_eq!(shown(b"(lp0\nI1\naI01\naL5L\naF2.5\naS'x'\naVy\na."), r#"[1 true 5 2.5 "x" "y"]"#);
    assert_eq!(shown(b"(dp0\nS'k'\nI1\ns."), r#"{"k":1}"#);
    assert_eq!(shown(b"(imodule\nClass\np0\n(dp1\nb."), "<module.Class>() state {}");
    assert_eq!(shown(b"(cmodule\nClass\nK\x01o."), "<module.Class>(1)");
    assert_eq!(shown(b"T\x02\x00\x00\x00\xff\xfe."), "b[255, 254]");
    assert_eq!(shown(b"U\x02ab."), r#""ab""#);
    assert_eq!(shown(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8f(K\x01\x90."), "set[1]");
    assert_eq!(shown(b"(K\x01K\x02\x91."), "set[1 2]");
    assert_eq!(shown(b"\x96\x02\x00\x00\x00\x00\x00\x00\x00ab."), "b[97, 98]");
    assert_eq!(shown(b"\x8d\x02\x00\x00\x00\x00\x00\x00\x00ab."), r#""ab""#);
    assert_eq!(shown(b"\x8b\x02\x00\x00\x00\x00\x01."), "256");
    assert_eq!(shown(b"Pid\n."), r#"persistent "id""#);
    assert_eq!(shown(b"K\x01(K\x021K\x030."), "1");
    assert_eq!(shown(b"K\x012\x86."), "(1 1)");
    assert_eq!(shown(b"]q\x00h\x00a."), format!("{}...{}", "[".repeat(20), "]".repeat(20)));
}

#[test]
fn attacks_are_refused_by_name_wherever_they_hide() {
    for (name, attack) in attacks() {
        let hidden = Py::Dict(vec![("a".into(), Py::List(vec![Py::Int(1), attack.clone()]))]);
        for value in [attack, hidden] {
            for protocol in [2, 4] {
                let error = pickle::parse(&crate::pytorch::pickle(&value, protocol)).unwrap_err();
                assert!(
                    matches!(&error.problem, Problem::Refused { callable } if callable == name),
                    "{value:?}: {error}"
                );
                assert!(error.to_string().contains(name) && error.to_string().contains("at byte"), "{error}");
            }
        }
    }
}

#[test]
fn classes_that_hold_data_pass_unexecuted() {
    let enumeration = call("builtins", "getattr", vec![Py::Global("my.code", "Color"), "RED".into()]);
    assert_eq!(shown(&crate::pytorch::pickle(&enumeration, 4)), r#"<builtins.getattr>(<my.code.Color> "RED")"#);
    let partial = call("functools", "partial", vec![Py::Global("builtins", "print")]);
    assert_eq!(shown(&crate::pytorch::pickle(&partial, 2)), "<functools.partial>(<builtins.print>)");
    let config = crate::pytorch::foreign("omegaconf.dictconfig", "DictConfig", vec![("_content".into(), Py::None)]);
    let text = shown(&crate::pytorch::pickle(&config, 2));
    assert_eq!(text, r#"<copyreg._reconstructor>(<omegaconf.dictconfig.DictConfig>) state {"_content":None}"#);
}

#[test]
fn damage_says_where_and_at_what() {
    let cases: [(&[u8], &str); 16] = [
        (b"", "the pickle ends early (at byte 0, (end))"),
        (b"K", "the pickle ends early (at byte 0, BININT1)"),
        (b"NX\xff\xff\xff\xffab", "the pickle ends early (at byte 1, BINUNICODE)"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffab", "the pickle ends early (at byte 0, BINBYTES8)"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f", "the pickle ends early (at byte 0, FRAME)"),
        (b"\x8b\xff\xff\xff\xff", "negative"),
        (b".", "its stack is empty (at byte 0, STOP)"),
        (b"t", "a mark is missing (at byte 0, TUPLE)"),
        (b"h\x07.", "memo entry 7 was never written (at byte 0, BINGET)"),
        (b"(K\x01d", "a key without a value"),
        (b"K\x01K\x02a.", "an int takes no items"),
        (b"K\x01K\x02b.", "an int takes no state"),
        (b"K\x01)R.", "it calls an int"),
        (b"cm\nC\nK\x01R.", "arguments are no tuple"),
        (b"\x82\x01.", "extension registry"),
        (b"\xff", "0xff is no pickle opcode"),
    ];
    for (bytes, part) in cases {
        let error = pickle::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{bytes:?}: {error}");
    }
}

#[test]
fn depth_costs_no_stack_and_size_is_bounded() {
    let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999], vec![b'.']].concat();
    assert!(matches!(pickle::parse(&deep).map(|tree| tree.nodes().len()), Ok(1_000_000)));
    let tuples = [vec![b'N'], vec![0x85; 1_000_000], vec![b'.']].concat();
    assert!(pickle::parse(&tuples).is_ok());
    for opcode in [b'N', b'(', b')'] {
        let wide = vec![opcode; pickle::MAX_NODES + 1];
        let error = pickle::parse(&wide).unwrap_err();
        assert!(matches!(error.problem, Problem::TooLarge { .. }), "{error}");
    }
    let copies = [vec![b'N'], vec![b'2'; pickle::MAX_NODES]].concat();
    assert!(matches!(pickle::parse(&copies).unwrap_err().problem, Problem::TooLarge { .. }));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = pickle::parse(&bytes);
    }

    /// Mostly real opcodes, so that the machine gets far.
    #[test]
    fn arbitrary_opcodes_never_panic(
        opcodes in prop::collection::vec((prop::sample::select(b"(012FGIJKLMNPQRSTUVXabcde]}lghijopqrstu)BC\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96.".as_slice()), 0u8..4), 0..300),
    ) {
        let bytes: Vec<u8> = opcodes.iter().flat_map(|&(opcode, operand)| [opcode, operand, b'\n'].into_iter().take(1 + usize::from(operand))).collect();
        if let Ok(tree) = pickle::parse(&bytes) {
            let _ = show(&tree, tree.root(), 6);
        }
    }

    #[test]
    fn truncated_and_altered_pickles_never_panic(cut in 0usize..400, at in 0usize..400, byte: u8) {
        let mut bytes = crate::pytorch::pickle(&Py::Dict(vec![("state_dict".into(), crate::pytorch::ordered_dict(vec![
            ("a".into(), crate::pytorch::Storage::floats(0, &[1.0, 2.0]).whole(crate::pytorch::Format::Zip, &[2])),
            ("b".into(), crate::pytorch::foreign("m", "C", vec![("x".into(), Py::Int(1 << 40))])),
        ]))]), 2);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = pickle::parse(&bytes);
        bytes.truncate(cut);
        let _ = pickle::parse(&bytes);
    }
}
