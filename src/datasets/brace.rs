//! Brace expansion, as shells do it and WebDataset users write it: `{000000..000123}`, `{a,b}`, several groups, nested ones.
//!
//! - `{x,y,z}`: the alternatives in order; an alternative may be empty or hold further groups.
//! - `{first..last}` and `{first..last..step}`: whole numbers, up or down. Where an end has leading zeros, every number is
//!   padded to the wider end's width. `{a..f}`: single ASCII letters.
//! - Any other `{...}` is taken as it stands.
//! - Several patterns are joined with `::` (FORMATS: WebDataset); see [`split_list`].
//!
//! The number of results is counted before any is made, so that `{0..99999999999}` costs nothing.

/// How deep groups may nest.
const MAX_DEPTH: usize = 16;

/// Why a pattern could not be expanded, to be read behind the pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BraceError {
    #[error("a '{{' at character {at} is never closed")]
    Unclosed { at: usize },
    #[error("its braces nest deeper than {MAX_DEPTH}")]
    TooDeep,
    #[error("it stands for {count} names, more than the limit of {limit}")]
    TooMany { count: u64, limit: u64 },
    #[error("the step of {{{range}}} is zero")]
    ZeroStep { range: String },
}

/// Splits a `::` list into its patterns. `::` inside square brackets belongs to an IPv6 address.
pub fn split_list(list: &str) -> Vec<&str> {
    let (mut parts, mut start, mut bracket, mut skip) = (Vec::new(), 0, false, false);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            _ if skip => skip = false,
            b'[' => bracket = true,
            b']' => bracket = false,
            b':' if !bracket && list[at..].starts_with("::") => {
                parts.push(&list[start..at]);
                start = at + 2;
                skip = true;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

/// Everything `pattern` stands for, in order; the pattern itself when it has no group.
pub fn expand(pattern: &str, limit: u64) -> Result<Vec<String>, BraceError> {
    let sequence = parse(pattern, 0, 0)?;
    let count = count(&sequence);
    if count > limit {
        return Err(BraceError::TooMany { count, limit });
    }
    Ok(produce(&sequence))
}

/// A part of a pattern.
#[derive(Debug)]
enum Node {
    Text(String),
    Choice(Vec<Vec<Node>>),
    Numbers { first: i64, last: i64, step: u64, width: usize },
    Letters { first: u8, last: u8, step: u64 },
}

fn parse(pattern: &str, offset: usize, depth: usize) -> Result<Vec<Node>, BraceError> {
    if depth > MAX_DEPTH {
        return Err(BraceError::TooDeep);
    }
    let mut nodes = Vec::new();
    let mut rest = pattern;
    while let Some(open) = rest.find('{') {
        let at = offset + (pattern.len() - rest.len()) + open;
        let inside = &rest[open + 1..];
        let (close, commas) = matching(inside).ok_or(BraceError::Unclosed { at })?;
        nodes.push(Node::Text(rest[..open].to_owned()));
        let body = &inside[..close];
        if !commas.is_empty() {
            let mut start = 0;
            let mut choices = Vec::with_capacity(commas.len() + 1);
            for end in commas.into_iter().chain([close]) {
                choices.push(parse(&inside[start..end], at + 1 + start, depth + 1)?);
                start = end + 1;
            }
            nodes.push(Node::Choice(choices));
        } else if let Some(range) = range(body)? {
            nodes.push(range);
        } else {
            nodes.push(Node::Text("{".to_owned()));
            nodes.extend(parse(body, at + 1, depth + 1)?);
            nodes.push(Node::Text("}".to_owned()));
        }
        rest = &inside[close + 1..];
    }
    nodes.push(Node::Text(rest.to_owned()));
    Ok(nodes)
}

/// Where the group that `inside` starts in ends, and the commas of its own level.
fn matching(inside: &str) -> Option<(usize, Vec<usize>)> {
    let (mut depth, mut commas) = (0usize, Vec::new());
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some((at, commas)),
            b'}' => depth -= 1,
            b',' if depth == 0 => commas.push(at),
            _ => {}
        }
    }
    None
}

/// `first..last` or `first..last..step`, if `body` is one.
fn range(body: &str) -> Result<Option<Node>, BraceError> {
    let parts: Vec<&str> = body.split("..").collect();
    let (first, last, step) = match parts[..] {
        [first, last] => (first, last, "1"),
        [first, last, step] => (first, last, step),
        _ => return Ok(None),
    };
    let Ok(step) = step.parse::<i64>().map(i64::unsigned_abs) else { return Ok(None) };
    let node = match (number(first), number(last), first.as_bytes(), last.as_bytes()) {
        (Some(a), Some(b), _, _) => Node::Numbers { first: a, last: b, step, width: width(first, last) },
        (_, _, &[a], &[b]) if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
            Node::Letters { first: a, last: b, step }
        }
        _ => return Ok(None),
    };
    match step {
        0 => Err(BraceError::ZeroStep { range: body.to_owned() }),
        _ => Ok(Some(node)),
    }
}

/// A decimal number of at most 18 digits, so that arithmetic on it cannot overflow.
fn number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = (1..=18).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn width(first: &str, last: &str) -> usize {
    let digits = |text: &str| text.trim_start_matches('-').len();
    let padded = |text: &str| digits(text) > 1 && text.trim_start_matches('-').starts_with('0');
    if padded(first) || padded(last) { digits(first).max(digits(last)) } else { 0 }
}

fn count(sequence: &[Node]) -> u64 {
    let steps = |a: i64, b: i64, step: u64| a.abs_diff(b) / step + 1;
    sequence.iter().fold(1, |product: u64, node| {
        product.saturating_mul(match node {
            Node::Text(_) => 1,
            Node::Choice(choices) => choices.iter().map(|c| count(c)).fold(0, u64::saturating_add),
            Node::Numbers { first, last, step, .. } => steps(*first, *last, *step),
            Node::Letters { first, last, step } => steps((*first).into(), (*last).into(), *step),
        })
    })
}

fn produce(sequence: &[Node]) -> Vec<String> {
    let mut results = vec![String::new()];
    for node in sequence {
        let words = match node {
            Node::Text(text) => {
                results.iter_mut().for_each(|result| result.push_str(text));
                continue;
            }
            Node::Choice(choices) => choices.iter().flat_map(|choice| produce(choice)).collect(),
            Node::Numbers { first, last, step, width } => numbers(*first, *last, *step)
                .map(|n| {
                    let sign = if n < 0 { "-" } else { "" };
                    format!("{sign}{:0width$}", n.unsigned_abs())
                })
                .collect(),
            Node::Letters { first, last, step } => numbers((*first).into(), (*last).into(), *step)
                .filter_map(|n| u8::try_from(n).ok().map(|b| char::from(b).to_string()))
                .collect::<Vec<_>>(),
        };
        results = results.iter().flat_map(|head| words.iter().map(move |word| format!("{head}{word}"))).collect();
    }
    results
}

fn numbers(first: i64, last: i64, step: u64) -> impl Iterator<Item = i64> {
    let up = first <= last;
    (0..=first.abs_diff(last) / step).map(move |i| {
        // Within first..=last, hence within 18 digits.
        let distance = (i * step) as i64;
        if up { first + distance } else { first - distance }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(pattern: &str) -> Vec<String> {
        expand(pattern, 1000).unwrap()
    }

    #[test]
    fn numbers_keep_their_width() {
        assert_eq!(expanded("a-{08..11}.tar"), ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]);
        assert_eq!(expanded("{8..11}"), ["8", "9", "10", "11"]);
        assert_eq!(expanded("{0..010..5}"), ["000", "005", "010"]);
        assert_eq!(expanded("{3..1}"), ["3", "2", "1"]);
        assert_eq!(expanded("{-1..1}"), ["-1", "0", "1"]);
        assert_eq!(expanded("{0..0}"), ["0"]);
    }

    #[test]
    fn alternatives_nest_and_combine() {
        assert_eq!(expanded("{a,b}{0..1}"), ["a0", "a1", "b0", "b1"]);
        assert_eq!(expanded("x{,y{1,2}}z"), ["xz", "xy1z", "xy2z"]);
        assert_eq!(expanded("{c..a}"), ["c", "b", "a"]);
    }

    #[test]
    fn other_braces_stand_for_themselves() {
        assert_eq!(expanded("plain"), ["plain"]);
        assert_eq!(expanded("{one}"), ["{one}"]);
        assert_eq!(expanded("{x{1,2}}"), ["{x1}", "{x2}"]);
        assert_eq!(expanded("{1..b}"), ["{1..b}"]);
        assert_eq!(expanded("a}b"), ["a}b"]);
        assert_eq!(expanded("{1..99999999999999999999}"), ["{1..99999999999999999999}"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(expand("ab{c,d", 10), Err(BraceError::Unclosed { at: 2 }));
        assert_eq!(expand("{1..5..0}", 10), Err(BraceError::ZeroStep { range: "1..5..0".into() }));
        assert_eq!(expand(&"{a,".repeat(20), 10), Err(BraceError::Unclosed { at: 0 }));
        let deep = format!("{}x{}", "{a,".repeat(40), "}".repeat(40));
        assert_eq!(expand(&deep, 10), Err(BraceError::TooDeep));
    }

    #[test]
    fn the_count_is_checked_before_anything_is_made() {
        let huge = "{0..999999999999999999}{0..999999999999999999}";
        assert_eq!(expand(huge, 1000), Err(BraceError::TooMany { count: u64::MAX, limit: 1000 }));
        assert_eq!(expand("{1..11}", 10), Err(BraceError::TooMany { count: 11, limit: 10 }));
    }

    #[test]
    fn lists_are_split_outside_brackets() {
        assert_eq!(split_list("a::b"), ["a", "b"]);
        assert_eq!(split_list("http://[::1]:80/a::c"), ["http://[::1]:80/a", "c"]);
        assert_eq!(split_list("a"), ["a"]);
        assert_eq!(split_list("a::"), ["a", ""]);
    }
}
