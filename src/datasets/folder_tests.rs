use super::*;

fn files(paths: &[&str]) -> Vec<Source> {
    paths.iter().map(|path| Source { path: path.to_string(), size: 1, etag: None }).collect()
}

fn selected(paths: &[&str], text: &str) -> Result<Vec<String>, String> {
    let mut files = files(paths);
    select(&mut files, "list.txt", text).map_err(|e| e.to_string())?;
    Ok(files.into_iter().map(|file| file.path).collect())
}

#[test]
fn a_list_names_paths_or_base_names() {
    let tree = &["0/a.png", "0/b.png", "1/c.png", "c.png"];
    assert_eq!(selected(tree, "b.png\r\n\n0/a.png\n"), Ok(vec!["0/a.png".into(), "0/b.png".into()]));
    assert_eq!(selected(tree, "c.png"), Ok(vec!["c.png".into()]));
    assert_eq!(selected(tree, "1/c.png\n1/c.png"), Ok(vec!["1/c.png".into()]));
}

#[test]
fn a_list_that_does_not_fit_is_one_sentence() {
    let tree = &["0/a.png", "1/a.png"];
    assert_eq!(
        selected(tree, "a.png").unwrap_err(),
        "dataset.list = list.txt: 2 files are called a.png; write their paths"
    );
    assert_eq!(
        selected(tree, "x\ny\n0/a.png").unwrap_err(),
        "2 of the 3 names in list.txt are not in the folder: x, y"
    );
    assert!(selected(tree, "\n \n").unwrap_err().contains("names no files"));
}

#[test]
fn a_block_knows_its_files() {
    let of = |paths: &[&str], beside: &[&str]| {
        let beside = files(beside);
        let beside = Beside::new(&beside);
        let options = DatasetOptions::default();
        let file = |image: Source| File { sidecars: beside.of(&image.path, &options), label: None, image };
        block_source("n", &files(paths).into_iter().map(file).collect::<Vec<_>>())
    };
    let base = of(&["a", "b"], &[]);
    assert_eq!(base.size, 2);
    assert_ne!(base, of(&["a", "c"], &[]));
    assert_ne!(base, of(&["ab"], &[]));
    assert_eq!(base, of(&["a", "b"], &["c.txt"]));
    // What describes an image belongs to it.
    let described = of(&["a", "b"], &["a.txt", "a.json"]);
    assert_eq!(described.size, 3);
    assert_ne!(base.etag, described.etag);
}
