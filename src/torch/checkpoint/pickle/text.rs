//! The literals of protocol 0, and integers of any length.

use super::{Node, Problem};

/// UTF-8, or the bytes as they are.
pub fn text_or_bytes(bytes: Vec<u8>) -> Node {
    String::from_utf8(bytes).map_or_else(|error| Node::Bytes(error.into_bytes()), Node::Text)
}

fn ascii(line: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(line).map_err(|_| Problem::malformed("a line of text is not ASCII"))
}

/// INT: a decimal, or the booleans `00` and `01`.
pub fn int(line: &[u8]) -> Result<Node, Problem> {
    match line {
        b"00" => Ok(Node::Bool(false)),
        b"01" => Ok(Node::Bool(true)),
        _ => long(line),
    }
}

/// LONG: a decimal, with an `L` at its end or without.
pub fn long(line: &[u8]) -> Result<Node, Problem> {
    let digits = ascii(line)?.trim().trim_end_matches('L');
    digits.parse().map(Node::Int).map_err(|_| Problem::malformed(format!("{:?} is no integer", shorten(digits))))
}

/// FLOAT: a decimal as Python's `repr` writes it.
pub fn float(line: &[u8]) -> Result<Node, Problem> {
    let digits = ascii(line)?.trim();
    digits.parse().map(Node::Float).map_err(|_| Problem::malformed(format!("{:?} is no number", shorten(digits))))
}

/// A memo index in decimal.
pub fn index(line: &[u8]) -> Result<u64, Problem> {
    ascii(line)?.trim().parse().map_err(|_| Problem::malformed("a memo index is no integer"))
}

/// LONG1 and LONG4: little-endian two's complement of any length.
pub fn little_endian(bytes: Vec<u8>) -> Node {
    if bytes.len() > 16 {
        return Node::HugeInt(bytes);
    }
    let fill = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
    let mut wide = [fill; 16];
    wide[..bytes.len()].copy_from_slice(&bytes);
    Node::Int(i128::from_le_bytes(wide))
}

/// STRING: a quoted string with backslash escapes, as `repr` of Python 2 writes it.
pub fn quoted(line: &[u8]) -> Result<Node, Problem> {
    let line = line.trim_ascii();
    let inner = match line {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        _ => return Err(Problem::malformed("a string lacks its quotes")),
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&escape, tail)) = rest.split_first() else {
            return Err(Problem::malformed("a string ends inside an escape"));
        };
        rest = tail;
        match escape {
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'x' => out.push(number(&mut rest, 2, 16)? as u8),
            b'0'..=b'7' => {
                rest = &inner[inner.len() - rest.len() - 1..];
                let digits = rest.iter().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                out.push(number(&mut rest, digits, 8)? as u8);
            }
            _ => out.extend([b'\\', escape]),
        }
    }
    Ok(text_or_bytes(out))
}

/// UNICODE: raw-unicode-escape, Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
pub fn raw_unicode(line: &[u8]) -> Result<Node, Problem> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let digits = match (byte, rest.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                out.push(char::from(byte));
                continue;
            }
        };
        rest = &rest[1..];
        // A lone surrogate has no place in a Rust string.
        out.push(char::from_u32(number(&mut rest, digits, 16)?).unwrap_or(char::REPLACEMENT_CHARACTER));
    }
    Ok(Node::Text(out))
}

/// The number of the next `digits` digits.
fn number(rest: &mut &[u8], digits: usize, radix: u32) -> Result<u32, Problem> {
    let broken = || Problem::malformed("a string has a broken escape");
    let (head, tail) = rest.split_at_checked(digits).ok_or_else(broken)?;
    *rest = tail;
    let valid = head.iter().all(|&byte| char::from(byte).is_digit(radix));
    let head = std::str::from_utf8(head).ok().filter(|_| valid).ok_or_else(broken)?;
    u32::from_str_radix(head, radix).map_err(|_| broken())
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: Result<Node, Problem>) -> String {
        match node.unwrap() {
            Node::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn python_literals() {
        assert_eq!(int(b"01").unwrap(), Node::Bool(true));
        assert_eq!(int(b"-7").unwrap(), Node::Int(-7));
        assert_eq!(long(b"119547037146038801333356L").unwrap(), Node::Int(0x1950_a86a_20f9_469c_fc6c));
        assert_eq!(float(b"-1.5e-3").unwrap(), Node::Float(-1.5e-3));
        assert_eq!(float(b"inf").unwrap(), Node::Float(f64::INFINITY));
        assert!(int(b"x").is_err() && float(b"").is_err() && long(b"\xff").is_err() && index(b"-1").is_err());
        assert_eq!(little_endian(vec![]), Node::Int(0));
        assert_eq!(little_endian(vec![0xff]), Node::Int(-1));
        assert_eq!(little_endian(vec![0xff, 0]), Node::Int(255));
        assert_eq!(little_endian(vec![1; 17]), Node::HugeInt(vec![1; 17]));
    }

    #[test]
    fn strings_of_protocol_0() {
        assert_eq!(text(quoted(br#"'a\'\n\x41\101\7\q'"#)), "a'\nAA\x07\\q");
        assert_eq!(quoted(br"'\xff'").unwrap(), Node::Bytes(vec![0xff]));
        assert_eq!(quoted(br"'\777'").unwrap(), Node::Bytes(vec![0xff]));
        for broken in [&b"'"[..], b"abc", b"'a\"", br"'\x4'", br"'\xzz'", b"'\\'"] {
            assert!(quoted(broken).is_err(), "{broken:?}");
        }
        assert_eq!(text(raw_unicode(b"caf\xe9 \\u20ac \\U0001f600 \\n \\ud800")), "café € 😀 \\n \u{fffd}");
        assert!(raw_unicode(b"\\u12").is_err() && raw_unicode(b"\\u+123").is_err());
    }
}
