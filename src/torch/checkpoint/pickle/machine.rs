//! The pickle machine: opcodes in, values out.

use super::{
    Id, Input, MAX_BYTES, MAX_NODES, Node, Object, PickleError, Problem, Tree, describe, opcodes, policy, text,
};
use std::collections::HashMap;
use std::io::BufRead;

/// Reads opcodes up to STOP.
pub fn run<R: BufRead>(input: &mut Input<R>) -> Result<Tree, PickleError> {
    let start = input.offset();
    let mut machine = Machine { input, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    loop {
        let offset = machine.input.offset();
        let at = |opcode| move |problem| PickleError { offset, opcode, problem };
        if offset - start > MAX_BYTES {
            return Err(at("(any)")(Problem::TooLarge { what: "bytes", limit: MAX_BYTES }));
        }
        let opcode = machine.input.byte().map_err(at("(end)"))?;
        if opcode == b'.' {
            let root = machine.pop().map_err(at("STOP"))?;
            return Ok(Tree { nodes: machine.nodes, root });
        }
        machine.step(opcode).map_err(at(opcodes::name(opcode)))?;
    }
}

struct Machine<'a, R> {
    input: &'a mut Input<R>,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack where marks lie.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

type Step<T = ()> = Result<T, Problem>;

impl<R: BufRead> Machine<'_, R> {
    fn step(&mut self, opcode: u8) -> Step {
        match opcode {
            0x80 | 0x95 => self.frame(opcode),
            b'(' => self.mark(),
            b'0' => self.pop_value_or_mark(),
            b'1' => self.pop_mark().map(drop),
            b'2' => self.peek().and_then(|top| self.push(top)),
            b'N' | 0x88 | 0x89 | b'I' | b'J' | b'K' | b'M' | b'L' | 0x8a | 0x8b | b'F' | b'G' => self.number(opcode),
            b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => self.string(opcode),
            b']' | b'l' | b')' | b't' | 0x85..=0x87 | b'}' | b'd' | 0x8f | 0x91 => self.container(opcode),
            b'a' | b'e' | 0x90 | b's' | b'u' => self.extend(opcode),
            b'p' | b'q' | b'r' | 0x94 => self.remember(opcode),
            b'g' | b'h' | b'j' => self.recall(opcode),
            b'c' | 0x93 => self.global(opcode),
            b'R' | 0x81 | 0x92 | b'i' | b'o' => self.call(opcode),
            b'b' => self.build(),
            b'P' => {
                let line = self.input.line()?;
                let id = self.make(text::text_or_bytes(line))?;
                self.make_and_push(Node::Persistent(id))
            }
            b'Q' => {
                let id = self.pop()?;
                self.make_and_push(Node::Persistent(id))
            }
            0x82..=0x84 => Err(Problem::Unsupported("an extension registry (copyreg)")),
            0x97 | 0x98 => Err(Problem::Unsupported("an out-of-band buffer")),
            _ => Err(Problem::malformed(format!("{opcode:#04x} is no pickle opcode"))),
        }
    }

    fn make(&mut self, node: Node) -> Step<Id> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Problem::TooLarge { what: "values", limit: MAX_NODES as u64 });
        }
        self.nodes.push(node);
        Ok(Id((self.nodes.len() - 1) as u32))
    }

    fn push(&mut self, id: Id) -> Step {
        if self.stack.len() >= MAX_NODES {
            return Err(Problem::TooLarge { what: "entries on its stack", limit: MAX_NODES as u64 });
        }
        self.stack.push(id);
        Ok(())
    }

    fn make_and_push(&mut self, node: Node) -> Step {
        let id = self.make(node)?;
        self.push(id)
    }

    /// The height below which the current opcode may not reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn peek(&self) -> Step<Id> {
        let top = self.stack.get(self.floor()..).and_then(|above| above.last());
        top.copied().ok_or_else(|| Problem::malformed("its stack is empty"))
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.peek()?;
        self.stack.pop();
        Ok(top)
    }

    fn mark(&mut self) -> Step {
        if self.marks.len() >= MAX_NODES {
            return Err(Problem::TooLarge { what: "marks", limit: MAX_NODES as u64 });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Everything above the last mark, which goes too.
    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let height = self.marks.pop().ok_or_else(|| Problem::malformed("a mark is missing"))?;
        Ok(self.stack.split_off(height))
    }

    /// POP takes a value, or the mark where there is none above it.
    fn pop_value_or_mark(&mut self) -> Step {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn frame(&mut self, opcode: u8) -> Step {
        if opcode == 0x80 {
            let protocol = self.input.byte()?;
            return if protocol <= 5 { Ok(()) } else { Err(Problem::Unsupported("a pickle protocol above 5")) };
        }
        let length = u64::from_le_bytes(self.input.array()?);
        if length <= self.input.remaining() { Ok(()) } else { Err(Problem::Truncated) }
    }

    fn number(&mut self, opcode: u8) -> Step {
        let node = match opcode {
            b'N' => Node::None,
            0x88 => Node::Bool(true),
            0x89 => Node::Bool(false),
            b'I' => text::int(&self.input.line()?)?,
            b'L' => text::long(&self.input.line()?)?,
            b'F' => text::float(&self.input.line()?)?,
            b'J' => Node::Int(i32::from_le_bytes(self.input.array()?).into()),
            b'K' => Node::Int(self.input.byte()?.into()),
            b'M' => Node::Int(u16::from_le_bytes(self.input.array()?).into()),
            b'G' => Node::Float(f64::from_be_bytes(self.input.array()?)),
            0x8a => {
                let length = self.input.byte()?;
                text::little_endian(self.input.bytes(length.into())?)
            }
            _ => {
                let length = self.signed_length()?;
                text::little_endian(self.input.bytes(length)?)
            }
        };
        self.make_and_push(node)
    }

    fn signed_length(&mut self) -> Step<u64> {
        let length = i32::from_le_bytes(self.input.array()?);
        u64::try_from(length).map_err(|_| Problem::malformed("a length is negative"))
    }

    fn string(&mut self, opcode: u8) -> Step {
        let length = match opcode {
            b'S' | b'V' => {
                let line = self.input.line()?;
                let node = if opcode == b'S' { text::quoted(&line)? } else { text::raw_unicode(&line)? };
                return self.make_and_push(node);
            }
            b'U' | b'C' | 0x8c => self.input.byte()?.into(),
            b'T' => self.signed_length()?,
            b'X' | b'B' => u32::from_le_bytes(self.input.array()?).into(),
            _ => u64::from_le_bytes(self.input.array()?),
        };
        let bytes = self.input.bytes(length)?;
        let is_bytes = matches!(opcode, b'B' | b'C' | 0x8e | 0x96);
        self.make_and_push(if is_bytes { Node::Bytes(bytes) } else { text::text_or_bytes(bytes) })
    }

    fn container(&mut self, opcode: u8) -> Step {
        let node = match opcode {
            b']' => Node::List(Vec::new()),
            b'l' => Node::List(self.pop_mark()?),
            b')' => Node::Tuple(Vec::new()),
            b't' => Node::Tuple(self.pop_mark()?),
            b'}' => Node::Dict(Vec::new()),
            b'd' => Node::Dict(pairs(self.pop_mark()?)?),
            0x8f => Node::Set(Vec::new()),
            0x91 => Node::Set(self.pop_mark()?),
            _ => {
                let count = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(count).filter(|&start| start >= self.floor());
                let start = start.ok_or_else(|| Problem::malformed("its stack is too short for a tuple"))?;
                Node::Tuple(self.stack.split_off(start))
            }
        };
        self.make_and_push(node)
    }

    /// APPEND, APPENDS, ADDITEMS, SETITEM, SETITEMS: what is on top goes into the container below.
    fn extend(&mut self, opcode: u8) -> Step {
        let values = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let target = self.peek()?;
        let node = self.nodes.get_mut(target.0 as usize);
        let keyed = matches!(opcode, b's' | b'u');
        match node {
            Some(Node::List(items) | Node::Set(items)) if !keyed => items.extend(values),
            Some(Node::Object(object)) if !keyed => object.items.extend(values),
            Some(Node::Dict(entries)) if keyed => entries.extend(pairs(values)?),
            Some(Node::Object(object)) if keyed => object.pairs.extend(pairs(values)?),
            _ => return Err(Problem::malformed(format!("{} takes no items", describe(&self.nodes, target)))),
        }
        Ok(())
    }

    fn remember(&mut self, opcode: u8) -> Step {
        let index = match opcode {
            b'p' => text::index(&self.input.line()?)?,
            b'q' => self.input.byte()?.into(),
            b'r' => u32::from_le_bytes(self.input.array()?).into(),
            _ => self.memo.len() as u64,
        };
        if self.memo.len() >= MAX_NODES {
            return Err(Problem::TooLarge { what: "memo entries", limit: MAX_NODES as u64 });
        }
        let top = self.peek()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Step {
        let index = match opcode {
            b'g' => text::index(&self.input.line()?)?,
            b'h' => self.input.byte()?.into(),
            _ => u32::from_le_bytes(self.input.array()?).into(),
        };
        let id = self.memo.get(&index).copied();
        self.push(id.ok_or_else(|| Problem::malformed(format!("memo entry {index} was never written")))?)
    }

    fn global(&mut self, opcode: u8) -> Step {
        let (module, name) = if opcode == b'c' {
            (lossy(self.input.line()?), lossy(self.input.line()?))
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.nodes[module.0 as usize], &self.nodes[name.0 as usize]) {
                (Node::Text(module), Node::Text(name)) => (module.clone(), name.clone()),
                _ => return Err(Problem::malformed("a class is named by something that is no string")),
            }
        };
        self.make_and_push(Node::Global { module, name })
    }

    fn call(&mut self, opcode: u8) -> Step {
        let (callable, args) = match opcode {
            b'i' => {
                let (module, name) = (lossy(self.input.line()?), lossy(self.input.line()?));
                let args = self.pop_mark()?;
                let args = self.make(Node::Tuple(args))?;
                (self.make(Node::Global { module, name })?, args)
            }
            b'o' => {
                let mut args = self.pop_mark()?;
                if args.is_empty() {
                    return Err(Problem::malformed("an object lacks its class"));
                }
                let callable = args.remove(0);
                (callable, self.make(Node::Tuple(args))?)
            }
            _ => {
                // NEWOBJ_EX has keyword arguments on top; nothing that is read here needs them.
                if opcode == 0x92 {
                    self.pop()?;
                }
                let args = self.pop()?;
                (self.pop()?, args)
            }
        };
        self.check_call(callable, args)?;
        let object = Object { callable, args, state: None, items: Vec::new(), pairs: Vec::new() };
        self.make_and_push(Node::Object(Box::new(object)))
    }

    /// Refuses calls of what executes something, and calls that are handed such a callable (`map(eval, ...)`).
    fn check_call(&self, callable: Id, args: Id) -> Step {
        let args = match self.nodes.get(args.0 as usize) {
            Some(Node::Tuple(args) | Node::List(args)) => args.as_slice(),
            _ => return Err(Problem::malformed("a call's arguments are no tuple")),
        };
        let global = |id: Id| match self.nodes.get(id.0 as usize) {
            Some(Node::Global { module, name }) => Some((module.as_str(), name.as_str())),
            _ => None,
        };
        match (global(callable), args) {
            (None, _) if !matches!(self.nodes.get(callable.0 as usize), Some(Node::Object(_))) => {
                return Err(Problem::malformed(format!("it calls {}", describe(&self.nodes, callable))));
            }
            (Some((module, name)), &[class, attribute]) if policy::is_getattr(module, name) => {
                if let (Some(class), Some(Node::Text(attribute))) =
                    (global(class), self.nodes.get(attribute.0 as usize))
                    && policy::is_plain_attribute(class, attribute)
                {
                    return Ok(());
                }
            }
            _ => {}
        }
        let refused =
            [callable].iter().chain(args).filter_map(|&id| global(id)).find(|(m, n)| policy::is_refused(m, n));
        match refused {
            Some((module, name)) => Err(Problem::Refused { callable: format!("{module}.{name}") }),
            None => Ok(()),
        }
    }

    fn build(&mut self) -> Step {
        let state = self.pop()?;
        let target = self.peek()?;
        match self.nodes.get_mut(target.0 as usize) {
            Some(Node::Object(object)) => {
                object.state = Some(state);
                Ok(())
            }
            _ => Err(Problem::malformed(format!("{} takes no state", describe(&self.nodes, target)))),
        }
    }
}

fn pairs(values: Vec<Id>) -> Step<Vec<(Id, Id)>> {
    let (pairs, []) = values.as_chunks::<2>() else {
        return Err(Problem::malformed("a dict has a key without a value"));
    };
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
