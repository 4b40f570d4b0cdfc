use super::*;

fn options() -> DatasetOptions {
    DatasetOptions::default()
}

fn group(key: &str, fields: &[(&str, &[u8])]) -> Group {
    let mut group = Group::new(key.to_owned());
    for (field, body) in fields {
        if group.member(field, Kind::File, body.len() as u64, 1000) == Want::Body {
            group.body(field, Bytes::copy_from_slice(body));
        }
    }
    group
}

fn finished(fields: &[(&str, &[u8])], options: &DatasetOptions) -> Result<(Option<i32>, Option<String>), Reason> {
    match group("k", fields).finish(options) {
        Outcome::Good { label, caption, .. } => Ok((label, caption)),
        Outcome::Bad { reason, .. } => Err(reason),
    }
}

#[test]
fn names_are_split_at_the_first_dot_of_the_base() {
    let split = |name: &str| split_name(name.as_bytes());
    let pair = |key: &str, field: &str| Some((key.to_owned(), field.to_owned()));
    assert_eq!(split("a.b/c/x.seg.PNG"), pair("a.b/c/x", "seg.png"));
    assert_eq!(split("./x.jpg"), pair("./x", "jpg"));
    assert_eq!(split("x."), pair("x", ""));
    assert_eq!(split("README"), None);
    assert_eq!(split("d/.hidden.jpg"), None);
    assert_eq!(split("a.b/c"), None);
    assert_eq!(split_name(b"caf\xe9.jpg"), pair("caf\\xe9", "jpg"));
}

#[test]
fn labels_are_numbers_in_range() {
    let with = |cls: &[u8]| finished(&[("jpg", b"i"), ("cls", cls)], &options()).map(|(label, _)| label);
    assert_eq!(with(b" 12\n"), Ok(Some(12)));
    assert_eq!(with(b"2147483647"), Ok(Some(i32::MAX)));
    for bad in [&b"2147483648"[..], b"-1", b"+1", b"1.0", b"", b"cat", b"\xff", b"99999999999999999999"] {
        assert_eq!(with(bad), Err(Reason::BadLabel), "{bad:?}");
    }
    let ten = DatasetOptions { classes: Some(10), ..options() };
    assert_eq!(finished(&[("jpg", b"i"), ("cls", b"10")], &ten), Err(Reason::BadLabel));
    let none = DatasetOptions { labels: Labels::None, ..options() };
    assert_eq!(finished(&[("jpg", b"i"), ("cls", b"cat")], &none), Ok((None, None)));
}

#[test]
fn json_stands_in_for_cls_and_txt() {
    let json: &[u8] = br#"{"label": 3, "caption": "a cat", "alt": "other", "n": null}"#;
    assert_eq!(finished(&[("jpg", b"i"), ("json", json)], &options()), Ok((Some(3), Some("a cat".into()))));
    let both: &[(&str, &[u8])] = &[("jpg", b"i"), ("cls", b"4"), ("txt", b"a dog\n"), ("json", b"{broken")];
    assert_eq!(finished(both, &options()), Ok((Some(4), Some("a dog".into()))));
    let alt = DatasetOptions { captions: Captions::Json("alt".into()), ..options() };
    assert_eq!(finished(&[("jpg", b"i"), ("json", json)], &alt), Ok((Some(3), Some("other".into()))));
    assert_eq!(finished(&[("jpg", b"i"), ("json", b"{broken")], &options()), Err(Reason::DecodeError));
    assert_eq!(finished(&[("jpg", b"i"), ("json", b"[1]")], &options()), Ok((None, None)));
    assert_eq!(finished(&[("jpg", b"i"), ("json", br#"{"label": 1.5}"#)], &options()), Err(Reason::BadLabel));
}

#[test]
fn what_is_wrong_is_told() {
    let reason = |fields: &[(&str, &[u8])]| finished(fields, &options()).unwrap_err();
    assert_eq!(reason(&[("txt", b"t")]), Reason::MissingField);
    assert_eq!(reason(&[("jpg", b"")]), Reason::Empty);
    assert_eq!(reason(&[("jpg", &[0; 1001])]), Reason::TooLarge);
    assert_eq!(reason(&[("jpg", b"i"), ("txt", b"\xff")]), Reason::BadUtf8Caption);
    assert_eq!(reason(&[("jpg", b"i"), ("jpg", b"i")]), Reason::DuplicateMember);
    assert_eq!(finished(&[("jpg", b"i"), ("npy", b"1"), ("npy", b"2")], &options()), Ok((None, None)));
    let mut link = Group::new("k".into());
    link.member("jpg", Kind::Other("symbolic link"), 0, 10);
    assert!(matches!(link.finish(&options()), Outcome::Bad { reason: Reason::NotARegularFile, .. }));
    for key in ["../x", "/x", "a/../b", "a\\b", "a\0"] {
        assert!(matches!(
            group(key, &[("jpg", b"i")]).finish(&options()),
            Outcome::Bad { reason: Reason::UnsafePath, .. }
        ));
    }
}

#[test]
fn the_preferred_image_is_taken() {
    for fields in [[("jpg", &b"J"[..]), ("png", b"P")], [("png", b"P"), ("jpg", b"J")]] {
        let Outcome::Good { image, .. } = group("k", &fields).finish(&options()) else { panic!("refused") };
        assert_eq!(&image[..], b"J");
    }
}

/// Runs groups through the window: (key, index, good) in order of leaving it.
fn through(groups: Vec<Group>) -> Vec<(String, u64, Option<Reason>)> {
    let mut window = Window::default();
    let mut left: Vec<(Group, u64)> = groups.into_iter().flat_map(|group| window.push(group)).collect();
    left.extend(window.flush());
    assert_eq!(window.bytes, 0);
    let told = |(group, index): (Group, u64)| {
        let key = group.key.clone();
        match group.finish(&options()) {
            Outcome::Good { .. } => (key, index, None),
            Outcome::Bad { reason, .. } => (key, index, Some(reason)),
        }
    };
    left.into_iter().map(told).collect()
}

#[test]
fn torn_samples_are_found() {
    let torn = Some(Reason::IncompleteSample);
    let jpg = |key: &str| group(key, &[("jpg", b"i")]);
    let txt = |key: &str| group(key, &[("txt", b"t")]);
    let found = through(vec![jpg("1"), jpg("2"), jpg("x"), txt("1"), txt("2")]);
    let expected = [("1", 0, torn), ("2", 1, torn), ("x", 2, None), ("1", 3, torn), ("2", 4, torn)];
    assert_eq!(found, expected.map(|(key, index, reason)| (key.to_owned(), index, reason)));
    // Two samples of one name, each whole.
    assert!(through(vec![jpg("1"), jpg("2"), jpg("1")]).iter().all(|(_, _, reason)| reason.is_none()));
    // Too far apart for the first part: the second is still refused.
    let mut far = vec![jpg("1")];
    far.extend((10..50).map(|n| jpg(&n.to_string())));
    far.push(txt("1"));
    let found = through(far);
    assert_eq!((found[0].2, found[41].2), (None, torn));
    assert_eq!(found.iter().map(|(_, index, _)| *index).collect::<Vec<_>>(), (0..42).collect::<Vec<_>>());
}

#[test]
fn what_waits_is_bounded() {
    let mut window = Window::default();
    for n in 0..100 {
        let mut big = Group::new(n.to_string());
        big.member("jpg", Kind::File, 3 << 20, 1 << 30);
        big.body("jpg", vec![0; 3 << 20].into());
        window.push(big);
        assert!(window.bytes <= WAITING_BYTES && window.waiting.len() <= WAITING);
    }
    assert!(window.push(group("none", &[("npy", b"1")])).is_empty());
    assert_eq!(window.next_index(), 100);
}
