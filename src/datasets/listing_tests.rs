use super::*;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::sync::Arc;

const TARS: Wanted = Wanted { what: "shards", extensions: &[".tar", ".tar.gz"] };

async fn filled(paths: &[&str]) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    for path in paths {
        store.put(&Path::from(*path), path.as_bytes().to_vec().into()).await.unwrap();
    }
    store
}

async fn names(paths: &[&str], pattern: &str) -> Result<(String, Vec<String>), String> {
    let location = Location::in_store(filled(paths).await, pattern);
    let listing = Listing::find(&location, &TARS).await.map_err(|e| e.to_string())?;
    Ok((listing.root, listing.objects.into_iter().map(|o| o.path).collect()))
}

const TREE: &[&str] = &["d/b.tar", "d/a.tar", "d/a.txt", "d/sub/c.tar.gz", "d/.hidden.tar", "e/x-00.tar", "e/x-01.tar"];

#[tokio::test]
async fn a_prefix_is_listed_in_order() {
    let expected = ("d".to_owned(), ["a.tar", "b.tar", "sub/c.tar.gz"].map(String::from).to_vec());
    assert_eq!(names(TREE, "d").await, Ok(expected.clone()));
    assert_eq!(names(TREE, "/d/").await, Ok(expected));
    assert_eq!(names(TREE, "").await.unwrap().1.len(), 5);
}

#[tokio::test]
async fn braces_keep_their_order_and_name_what_is_missing() {
    assert_eq!(names(TREE, "e/x-{01..00}.tar").await, Ok(("e".into(), vec!["x-01.tar".into(), "x-00.tar".into()])));
    assert_eq!(names(TREE, "{e,d}/{x-00,a}.tar").await.unwrap_err(), {
        "2 of the 4 objects that {e,d}/{x-00,a}.tar names do not exist: e/a.tar, d/x-00.tar"
    });
    let error = names(TREE, "e/{0..9999999}.tar").await.unwrap_err();
    assert!(error.contains("limit"), "{error}");
}

#[tokio::test]
async fn globs_and_lists_are_combined() {
    assert_eq!(names(TREE, "e/*.tar::d/b.tar").await.unwrap(), {
        (String::new(), ["e/x-00.tar", "e/x-01.tar", "d/b.tar"].map(String::from).to_vec())
    });
    assert_eq!(names(TREE, "d/b.tar::e/*.tar").await.unwrap().1, ["d/b.tar", "e/x-00.tar", "e/x-01.tar"]);
    assert_eq!(names(TREE, "d/?.tar").await.unwrap(), ("d".into(), vec!["a.tar".into(), "b.tar".into()]));
    assert_eq!(names(TREE, "d/**").await.unwrap().1, ["a.tar", "b.tar", "sub/c.tar.gz"]);
    assert_eq!(names(TREE, "d/su*").await.unwrap().1, ["sub/c.tar.gz"]);
    assert_eq!(names(TREE, "d/a.tar::d/*").await.unwrap_err(), "d/a.tar::d/* names a.tar twice");
}

#[tokio::test]
async fn nothing_found_is_one_sentence() {
    let error = names(TREE, "nowhere/*.tar").await.unwrap_err();
    assert_eq!(error, "no shards at nowhere/*.tar (looked for .tar, .tar.gz)");
    let error = names(&["d/a.txt"], "d/").await.unwrap_err();
    assert!(error.contains("1 other objects"), "{error}");
    assert!(names(TREE, "nowhere").await.unwrap_err().contains("nowhere does not exist"));
}

#[tokio::test]
async fn an_object_of_any_name_can_be_named() {
    assert_eq!(names(&["d/data", "d/more"], "d/data").await, Ok(("d".into(), vec!["data".into()])));
}

#[test]
fn globs_stay_in_their_segment() {
    let cases: [(&str, &str, bool); 8] = [
        ("a/*.tar", "a/b.tar", true),
        ("a/*.tar", "a/b/c.tar", false),
        ("a/**.tar", "a/b/c.tar", true),
        ("a/**/c.tar", "a/b/b/c.tar", true),
        ("?.tar", "/.tar", false),
        ("*", "", true),
        ("a*b*c", "aXbXXc", true),
        ("a*b*c", "aXcXX", false),
    ];
    for (pattern, path, expected) in cases {
        assert_eq!(glob_matches(pattern.as_bytes(), path.as_bytes()), expected, "{pattern} {path}");
    }
    assert!(!glob_matches("*".repeat(200).replace("**", "*a").as_bytes(), "a".repeat(99).as_bytes()));
}
