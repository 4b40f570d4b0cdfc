//! Writes the scenes as WebDataset shards: `<key>.cls`, `<key>.png`, `<key>.txt` in `shapes-0000.tar`, `shapes-0001.tar`, …
//!
//! The bytes depend on seed and counts alone: no times, owners or modes of this machine go into the archive.

use super::DemoError;
use super::scenes::Scene;
use super::split::Split;
use crate::imaging;
use crate::jobs::archive::append;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Draws pictures `0..count` of a split and writes `per_shard` of them to a shard, into the existing folder `dir`.
/// Returns the shards' paths in order.
pub fn write(dir: &Path, split: Split, seed: u64, count: u64, per_shard: u64) -> Result<Vec<PathBuf>, DemoError> {
    let mut paths = Vec::new();
    for (path, pictures) in plan(dir, count, per_shard) {
        write_one(&path, split, seed, pictures)?;
        paths.push(path);
    }
    Ok(paths)
}

/// The shards of `count` pictures, each with the pictures that are in it.
pub(super) fn plan(dir: &Path, count: u64, per_shard: u64) -> impl Iterator<Item = (PathBuf, Range<u64>)> {
    let per_shard = per_shard.max(1);
    (0..count.div_ceil(per_shard)).map(move |shard| {
        let first = shard * per_shard;
        (dir.join(format!("shapes-{shard:04}.tar")), first..count.min(first + per_shard))
    })
}

/// Writes a shard, under its name only when it is whole.
pub(super) fn write_one(path: &Path, split: Split, seed: u64, pictures: Range<u64>) -> Result<(), DemoError> {
    let failed = |source| DemoError::Write { path: path.to_owned(), source };
    let partial = path.with_extension("tar.partial");
    let file = BufWriter::new(File::create(&partial).map_err(failed)?);
    let mut archive = tar::Builder::new(file);
    for index in pictures {
        let scene = Scene::new(split, seed, index);
        let png = imaging::encode_png(&scene.draw()?)?;
        let key = format!("{index:06}");
        append(&mut archive, &format!("{key}.cls"), scene.label().to_string().as_bytes()).map_err(failed)?;
        append(&mut archive, &format!("{key}.png"), &png).map_err(failed)?;
        append(&mut archive, &format!("{key}.txt"), scene.caption().to_string().as_bytes()).map_err(failed)?;
    }
    archive.into_inner().and_then(|mut file| file.flush()).map_err(failed)?;
    std::fs::rename(&partial, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let dirs = [0, 1, 2].map(|_| tempfile::tempdir().unwrap());
        let write = |dir: usize, seed| write(dirs[dir].path(), Split::Training, seed, 10, 4).unwrap();
        let bytes = |paths: &[PathBuf]| paths.iter().map(|p| std::fs::read(p).unwrap()).collect::<Vec<_>>();
        let (a, b, other) = (write(0, 1), write(1, 1), write(2, 2));
        assert_eq!(a.len(), 3);
        assert_eq!(bytes(&a), bytes(&b));
        assert_ne!(bytes(&a), bytes(&other));
    }

    #[test]
    fn a_shard_holds_pictures_classes_and_captions() {
        let dir = tempfile::tempdir().unwrap();
        let paths = write(dir.path(), Split::Test, 1, 10, 4).unwrap();
        assert!(paths[2].ends_with("shapes-0002.tar"));
        let mut names = Vec::new();
        for member in tar::Archive::new(File::open(&paths[2]).unwrap()).entries().unwrap() {
            let mut member = member.unwrap();
            let name = member.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes).unwrap();
            let scene = Scene::new(Split::Test, 1, name[..6].parse().unwrap());
            match &name[7..] {
                "cls" => assert_eq!(bytes, scene.label().to_string().as_bytes()),
                "txt" => assert_eq!(bytes, scene.caption().to_string().as_bytes()),
                "png" => {
                    let picture = image::load_from_memory(&bytes).unwrap().into_rgb8();
                    assert_eq!(picture.into_raw(), scene.draw().unwrap().pixels);
                }
                field => panic!("unexpected field {field}"),
            }
            names.push(name);
        }
        assert_eq!(names, ["000008.cls", "000008.png", "000008.txt", "000009.cls", "000009.png", "000009.txt"]);
    }
}
