//! Python pickles, read as data: protocols 0 to 5, by the opcode descriptions of CPython's `pickletools`.
//!
//! Nothing a pickle asks for is ever done. Names of classes and functions are recorded as [`Node::Global`]; calling,
//! instantiating and restoring them gives an inert [`Node::Object`] that holds what would have been called with what. A
//! pickle that would *execute* something in Python, by [`policy`], is refused all the same, with the callable's name: whoever
//! holds such a file should know.
//!
//! Nodes lie in one vector and refer to each other by number, so that depth, sharing and cycles cost no recursion. Memory is
//! linear in the pickle's bytes, and bounded by [`MAX_BYTES`] and [`MAX_NODES`].

mod input;
mod machine;
mod opcodes;
pub mod policy;
mod text;

pub use input::Input;
use std::io::{BufRead, Cursor};

/// Longest pickle that is read, in bytes. Tensors lie outside the pickle: those of real checkpoints have some 100 KB.
pub const MAX_BYTES: u64 = 62 << 20;
/// Most values of one pickle, and most entries of its stack and memo.
pub const MAX_NODES: usize = 2 << 20;

/// A value's number in its [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u32);

/// A value of a pickle.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    None,
    Bool(bool),
    Int(i128),
    /// An integer beyond 128 bits: little-endian two's complement.
    HugeInt(Vec<u8>),
    Float(f64),
    Text(String),
    /// `bytes`, `bytearray`, and strings that are not UTF-8.
    Bytes(Vec<u8>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// `set` and `frozenset`.
    Set(Vec<Id>),
    /// Pairs in the order they were set; a later one replaces an earlier one of the same key.
    Dict(Vec<(Id, Id)>),
    /// A class or function, by name.
    Global {
        module: String,
        name: String,
    },
    Object(Box<Object>),
    /// A persistent id: a reference to something outside the pickle.
    Persistent(Id),
}

/// What would have been the result of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What would have been called.
    pub callable: Id,
    /// Its positional arguments: a tuple.
    pub args: Id,
    /// What its `__setstate__` or `__dict__` would have been given (BUILD).
    pub state: Option<Id>,
    /// What would have been appended or added to it.
    pub items: Vec<Id>,
    /// What would have been set by key.
    pub pairs: Vec<(Id, Id)>,
}

/// The values of one pickle.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    root: Id,
}

impl Tree {
    /// The pickled value.
    pub fn root(&self) -> Id {
        self.root
    }

    /// A value. Ids are valid in their own tree only; for others the answer is some value or [`Node::None`].
    pub fn node(&self, id: Id) -> &Node {
        self.nodes.get(id.0 as usize).unwrap_or(&Node::None)
    }

    /// All values, in the order they were made.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A value's text, if it is text.
    pub fn text(&self, id: Id) -> Option<&str> {
        if let Node::Text(text) = self.node(id) { Some(text) } else { None }
    }

    /// The elements of a list or tuple.
    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        if let Node::List(items) | Node::Tuple(items) = self.node(id) { Some(items) } else { None }
    }

    /// Module and name of a class or function.
    pub fn global(&self, id: Id) -> Option<(&str, &str)> {
        if let Node::Global { module, name } = self.node(id) { Some((module, name)) } else { None }
    }

    /// A value in a few words, for messages: `torch.Size`, `a call of numpy.core.multiarray._reconstruct`, `a list`.
    pub fn describe(&self, id: Id) -> String {
        describe(&self.nodes, id)
    }
}

fn describe(nodes: &[Node], id: Id) -> String {
    match nodes.get(id.0 as usize).unwrap_or(&Node::None) {
        Node::None => "None".to_owned(),
        Node::Bool(_) => "a bool".to_owned(),
        Node::Int(_) | Node::HugeInt(_) => "an int".to_owned(),
        Node::Float(_) => "a float".to_owned(),
        Node::Text(_) => "a string".to_owned(),
        Node::Bytes(_) => "bytes".to_owned(),
        Node::List(_) => "a list".to_owned(),
        Node::Tuple(_) => "a tuple".to_owned(),
        Node::Set(_) => "a set".to_owned(),
        Node::Dict(_) => "a dict".to_owned(),
        Node::Persistent(_) => "a persistent id".to_owned(),
        Node::Global { module, name } => format!("{module}.{name}"),
        Node::Object(object) => match nodes.get(object.callable.0 as usize) {
            Some(Node::Global { module, name }) => format!("a call of {module}.{name}"),
            _ => "a call of what another call returns".to_owned(),
        },
    }
}

/// Why a pickle is not read: where, at which opcode, and what is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{problem} (at byte {offset}, {opcode})")]
pub struct PickleError {
    /// Position of the opcode, in bytes from the start of the file or zip member.
    pub offset: u64,
    /// The opcode's name in `pickletools`.
    pub opcode: &'static str,
    pub problem: Problem,
}

/// What is wrong with a pickle.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The bytes end inside the pickle.
    #[error("the pickle ends early")]
    Truncated,
    #[error("cannot read the pickle: {0}")]
    Io(#[from] std::io::Error),
    /// It would execute something: see [`policy`].
    #[error(
        "refused: this pickle would call {callable} when Python loads it. Nothing was executed here; do not load it with Python"
    )]
    Refused { callable: String },
    #[error("the pickle has more than {limit} {what}")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("the pickle is damaged: {0}")]
    Malformed(String),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

impl Problem {
    fn malformed(detail: impl Into<String>) -> Problem {
        Problem::Malformed(detail.into())
    }
}

/// Reads one pickle; `input` stays behind its last byte.
pub fn read<R: BufRead>(input: &mut Input<R>) -> Result<Tree, PickleError> {
    machine::run(input)
}

/// Reads the pickle at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Tree, PickleError> {
    read(&mut Input::new(Cursor::new(bytes), bytes.len() as u64))
}
