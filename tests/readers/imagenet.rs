//! ImageNet's archives and folders: fixtures, requests, the index, and what users may get wrong.

use crate::formats::{Fixture, lines, objects, options, tar_of};
use crate::messages::sentence;
use crate::stores::{Fault, Faulty, in_memory, on_disk};
use imagebart::datasets::{
    DatasetError, DatasetOptions, Entry, Folder, Format, ImageNetTar, Labels, Location, Reader, Split, Unit, open,
    read_unit,
};
use object_store::path::Path;
use object_store::{GetRange, ObjectStoreExt};
use std::sync::{Arc, LazyLock};

/// A mapping of the validation images 1 to 8; the second and the seventh are kit foxes, the others toilet tissue.
static MAPPING: LazyLock<(tempfile::TempDir, String)> = LazyLock::new(|| {
    let wnid = |number| if number == 2 || number == 7 { "n02119789" } else { "n15075141" };
    let line = |number| format!("ILSVRC2012_val_{number:08}.JPEG {}\n", wnid(number));
    let directory =
        on_disk(&[("validation_synset.txt".to_owned(), (1..=8).map(line).collect::<String>().into_bytes())]);
    let url = directory.path().join("validation_synset.txt").display().to_string();
    (directory, url)
});

fn mapped() -> DatasetOptions {
    DatasetOptions { mapping: Some(MAPPING.1.clone()), ..options() }
}

fn tar_reader(location: Location) -> Arc<dyn Reader> {
    Arc::new(ImageNetTar::new(location, options()))
}

/// A link where an image should be, which the builder of the other fixtures cannot write.
fn with_link(mut archive: Vec<u8>, name: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_link(&mut header, name, "n01440764_1.JPEG").unwrap();
    archive.truncate(archive.len() - 1024);
    [archive, builder.into_inner().unwrap()].concat()
}

pub fn train_tar() -> Fixture {
    let big = [b'x'; 5001];
    let tench = tar_of(&[
        ("n01440764_1.JPEG", b"tench 1"),
        ("n01440764_2.JPEG", &big),
        ("._n01440764_2.JPEG", b"a Mac's"),
        ("notes.txt", b"no image"),
        ("n01440764_3.JPEG", b""),
        ("n01440764_4.JPEG", &[b't'; 1500]),
    ]);
    let tench = with_link(tench, "n01440764_5.JPEG");
    let fox = tar_of(&[("n02119789_7.JPEG", b"fox 7"), ("n02119789_8.JPEG", b"fox 8"), ("n02119789_9.JPEG", b"fox 9")]);
    let archive = tar_of(&[
        ("n01440764.tar", &tench),
        ("readme.txt", b"no synset"),
        // Cut within the header of its last image.
        ("n02119789.tar", &fox[..2100]),
        ("n15075141.tar", &tar_of(&[])),
        ("n15075141.tar.part", b"not finished"),
    ]);
    // The outer archive breaks behind these.
    let cut = archive[..archive.len() - 1024].to_vec();
    Fixture {
        name: "imagenet-tar, train",
        objects: objects(vec![("i/ILSVRC2012_img_train.tar", cut)]),
        pattern: "i/",
        names_for_http: "i/ILSVRC2012_img_train.tar",
        reader: tar_reader,
        expected: lines(&[
            &[
                "ILSVRC2012_img_train.tar|n01440764_1.JPEG|0|-|tench 1",
                "ILSVRC2012_img_train.tar|n01440764_2.JPEG|too_large",
                "ILSVRC2012_img_train.tar|n01440764_3.JPEG|empty",
                &format!("ILSVRC2012_img_train.tar|n01440764_4.JPEG|0|-|{}", "t".repeat(1500)),
                "ILSVRC2012_img_train.tar|n01440764_5.JPEG|not_a_regular_file",
            ],
            &[
                "ILSVRC2012_img_train.tar|n02119789_7.JPEG|278|-|fox 7",
                "ILSVRC2012_img_train.tar|n02119789_8.JPEG|278|-|fox 8",
                "ILSVRC2012_img_train.tar||truncated",
            ],
            &[],
            &["ILSVRC2012_img_train.tar||truncated"],
        ]),
    }
}

/// Nine images of a kilobyte with their headers, in slices of about three; the ninth has no class.
pub fn val_tar() -> Fixture {
    let names: Vec<String> = (1..=9).map(|number| format!("ILSVRC2012_val_{number:08}.JPEG")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    let line = |number: usize| {
        let name = &names[number - 1];
        let class = if number == 2 || number == 7 { 278 } else { 999 };
        match number {
            9 => format!("ILSVRC2012_img_val.tar|{name}|bad_label"),
            _ => format!("ILSVRC2012_img_val.tar|{name}|{class}|-|{name}"),
        }
    };
    Fixture {
        name: "imagenet-tar, val",
        objects: objects(vec![("i/ILSVRC2012_img_val.tar", tar_of(&members))]),
        pattern: "i/*.tar",
        names_for_http: "i/ILSVRC2012_img_val.tar",
        reader: |location| Arc::new(ImageNetTar::new(location, mapped())),
        // Cut behind the first member that begins at 3 or 6 kilobytes.
        expected: [1..5, 5..8, 8..10].map(|unit| unit.map(line).collect()).to_vec(),
    }
}

pub fn train_folder() -> Fixture {
    Fixture {
        name: "imagenet-folder, train",
        objects: objects(vec![
            ("i/train/n01440764/n01440764_1.JPEG", b"tench 1".to_vec()),
            ("i/train/n02119789/images/2.jpeg", b"fox 2".to_vec()),
            ("i/train/n02119789/n02119789_3.JPEG", Vec::new()),
            ("i/train/n15075141_4.JPEG", b"tissue 4".to_vec()),
            ("i/val/other/ILSVRC2012_val_00000001.JPEG", b"another split".to_vec()),
        ]),
        pattern: "i",
        names_for_http: "i/{train/n01440764/n01440764_1.JPEG,train/n02119789/images/2.jpeg,\
                         train/n02119789/n02119789_3.JPEG,train/n15075141_4.JPEG,val/other/ILSVRC2012_val_00000001.JPEG}",
        reader: |location| {
            let options = DatasetOptions { split: Some(Split::Train), ..options() };
            Arc::new(Folder::imagenet(location, options))
        },
        expected: lines(&[
            &[
                "train/n01440764/n01440764_1.JPEG|train/n01440764/n01440764_1.JPEG|0|-|tench 1",
                "train/n02119789/images/2.jpeg|train/n02119789/images/2.jpeg|278|-|fox 2",
                "train/n02119789/n02119789_3.JPEG|train/n02119789/n02119789_3.JPEG|empty",
            ],
            &["train/n15075141_4.JPEG|train/n15075141_4.JPEG|999|-|tissue 4"],
        ]),
    }
}

pub fn val_folder() -> Fixture {
    Fixture {
        name: "imagenet-folder, val",
        objects: objects(vec![
            ("i/val/ILSVRC2012_val_00000001.JPEG", b"one".to_vec()),
            ("i/val/ILSVRC2012_val_00000002.JPEG", b"two".to_vec()),
            ("i/val/n01440764/ILSVRC2012_val_00000077.JPEG", b"sorted into its synset".to_vec()),
        ]),
        pattern: "i/val/",
        names_for_http: "i/val/{ILSVRC2012_val_0000000{1,2},n01440764/ILSVRC2012_val_00000077}.JPEG",
        reader: |location| Arc::new(Folder::imagenet(location, mapped())),
        expected: lines(&[&[
            "ILSVRC2012_val_00000001.JPEG|ILSVRC2012_val_00000001.JPEG|999|-|one",
            "ILSVRC2012_val_00000002.JPEG|ILSVRC2012_val_00000002.JPEG|278|-|two",
            "n01440764/ILSVRC2012_val_00000077.JPEG|n01440764/ILSVRC2012_val_00000077.JPEG|0|-|sorted into its synset",
        ]]),
    }
}

/// The wnids, from the table that the program has.
fn wnids() -> Vec<&'static str> {
    let table = include_str!("../../src/datasets/imagenet_synsets.txt");
    table.lines().filter(|line| !line.starts_with('#')).collect()
}

/// A tar of a tar for each of the 1000 synsets, each of several GETs' size.
fn thousand_synsets() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (number, wnid) in wnids().into_iter().enumerate() {
        let images: Vec<(String, Vec<u8>)> =
            (0..2).map(|image| (format!("{wnid}_{image}.JPEG"), vec![number as u8; 4000 + number * 7])).collect();
        let images: Vec<(&str, &[u8])> = images.iter().map(|(name, body)| (name.as_str(), body.as_slice())).collect();
        let inner = tar_of(&images);
        let mut header = tar::Header::new_gnu();
        header.set_size(inner.len() as u64);
        builder.append_data(&mut header, format!("{wnid}.tar"), &inner[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

const TRAIN: &str = "i/ILSVRC2012_img_train.tar";

/// A remote store with that archive, whose entity tags last, and a place for the index.
struct Remote {
    store: Arc<Faulty>,
    index: tempfile::TempDir,
}

impl Remote {
    async fn new(archive: Vec<u8>) -> Remote {
        let store = in_memory(&objects(vec![(TRAIN, archive)])).await;
        Remote { store: Arc::new(Faulty::new(store, Fault::Refuse, 0)), index: tempfile::tempdir().unwrap() }
    }

    fn reader(&self) -> ImageNetTar {
        let location = Location { lasting_etags: true, ..Location::in_store(self.store.clone(), TRAIN) };
        let index = Some(format!("{}/index", self.index.path().display()));
        ImageNetTar::new(location, DatasetOptions { index, ..DatasetOptions::default() })
    }

    fn index_file(&self) -> std::path::PathBuf {
        self.index.path().join("index/ILSVRC2012_img_train.tar.json")
    }

    /// The units, and the sizes of the GETs that finding them took.
    async fn units(&self, reader: &ImageNetTar) -> (Vec<Unit>, Vec<u64>) {
        self.store.take_gets();
        let units = reader.units().await.unwrap();
        let size = |get: Option<GetRange>| match get {
            Some(GetRange::Bounded(range)) => range.end - range.start,
            other => panic!("{other:?} has no bounds"),
        };
        (units, self.store.take_gets().into_iter().map(size).collect())
    }
}

#[tokio::test]
async fn a_thousand_synsets_are_found_by_a_thousand_small_requests() {
    let remote = Remote::new(thousand_synsets()).await;
    let reader = remote.reader();
    let (units, gets) = remote.units(&reader).await;
    let names: Vec<String> = wnids().iter().map(|wnid| format!("ILSVRC2012_img_train.tar/{wnid}.tar")).collect();
    assert_eq!(units.iter().map(|unit| &unit.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    assert!(gets.len() <= 1100, "{} requests", gets.len());
    assert!(gets.iter().all(|size| *size <= 64 << 10), "{gets:?}");
    println!("{} requests of at most {} bytes", gets.len(), gets.iter().max().unwrap());
    for (class, unit) in units.iter().enumerate().step_by(111) {
        let entries = read_unit(&reader, unit).await.unwrap();
        assert_eq!(entries.len(), 2);
        for entry in entries {
            let Entry::Sample(sample) = entry else { panic!("{entry:?}") };
            assert_eq!(sample.label, Some(class as i32));
            assert!(sample.image.iter().all(|byte| *byte == class as u8) && sample.image.len() == 4000 + class * 7);
        }
    }
}

#[tokio::test]
async fn the_index_spares_the_walk_and_never_misleads() {
    let archive = thousand_synsets();
    let remote = Remote::new(archive.clone()).await;
    let walked = remote.reader();
    let (units, _) = remote.units(&walked).await;
    assert!(!remote.index_file().exists(), "listing writes nothing");
    walked.keep().await;
    let good = std::fs::read(remote.index_file()).unwrap();

    let (indexed, gets) = remote.units(&remote.reader()).await;
    assert_eq!(indexed, units);
    assert!(gets.len() <= 2, "{gets:?}");
    let entries = read_unit(&remote.reader(), &units[7]).await.unwrap();
    assert_eq!(entries, read_unit(&walked, &units[7]).await.unwrap());

    // Broken, and of another archive: ignored.
    for broken in [&good[..good.len() / 2], b"", b"{}", b"\xff"] {
        std::fs::write(remote.index_file(), broken).unwrap();
        let (listed, gets) = remote.units(&remote.reader()).await;
        assert!(listed == units && gets.len() > 1000);
    }
    std::fs::write(remote.index_file(), &good).unwrap();
    let mut shorter = archive.clone();
    shorter.truncate(archive.len() / 2);
    let path = Path::parse(TRAIN).unwrap();
    remote.store.put(&path, shorter.into()).await.unwrap();
    let (halved, _) = remote.units(&remote.reader()).await;
    assert!(halved.len() < 800, "{} units", halved.len());
    let reader = remote.reader();
    reader.units().await.unwrap();
    reader.keep().await;
    assert_eq!(std::fs::read(remote.index_file()).unwrap(), good, "what breaks off is not kept");
}

/// An index of the archive's size and entity tag that says something else: as if both did not tell a change.
#[tokio::test]
async fn a_forged_index_gives_no_wrong_images() {
    let archive = thousand_synsets();
    let remote = Remote::new(archive.clone()).await;
    let walked = remote.reader();
    let (units, _) = remote.units(&walked).await;
    walked.keep().await;
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(remote.index_file()).unwrap()).unwrap();
    let forge = |change: &dyn Fn(&mut Vec<serde_json::Value>)| {
        let mut forged = good.clone();
        change(forged["members"].as_array_mut().unwrap());
        // As the program does: compact, fields in its order.
        let text = forged["members"].as_array().unwrap().iter().map(|place| {
            let (name, start, end, file) = (&place["name"], &place["start"], &place["end"], &place["file"]);
            format!(r#"{{"name":{name},"start":{start},"end":{end},"file":{file}}}"#)
        });
        let text = format!("[{}]", text.collect::<Vec<_>>().join(","));
        forged["sha256"] = crate::corpora::sha256(text.as_bytes()).into();
        std::fs::write(remote.index_file(), forged.to_string()).unwrap();
    };
    forge(&|_| {});
    assert!(remote.units(&remote.reader()).await.1.len() <= 2, "the forger's checksum is right");
    // A member too few: the end mark does not follow.
    forge(&|members| drop(members.pop()));
    let (listed, gets) = remote.units(&remote.reader()).await;
    assert!(listed == units && gets.len() > 1000);
    // Two members the other way round, and a border between two of them moved.
    forge(&|members| {
        let name = members[3]["name"].take();
        members[3]["name"] = std::mem::replace(&mut members[4]["name"], name);
        let border = members[8]["end"].as_u64().unwrap() + 512;
        members[8]["end"] = border.into();
        members[9]["start"] = border.into();
    });
    let reader = remote.reader();
    let (listed, gets) = remote.units(&reader).await;
    assert!(gets.len() <= 2 && listed != units);
    for (at, unit) in listed.iter().enumerate().take(20) {
        match read_unit(&reader, unit).await {
            Err(DatasetError::Changed { detail, .. }) if [3, 4, 8, 9].contains(&at) => {
                assert!(detail.contains("does not lie at byte") && detail.contains("index/"), "{detail}");
            }
            read => assert_eq!(read.unwrap(), read_unit(&walked, &units[at]).await.unwrap(), "{at}"),
        }
    }
}

#[tokio::test]
async fn nothing_is_kept_for_files_without_lasting_entity_tags() {
    let disk = on_disk(&objects(vec![(TRAIN, tar_of(&[("n01440764.tar", &tar_of(&[("a.JPEG", b"a")]))]))]));
    let index = disk.path().join("index");
    let options = DatasetOptions { index: Some(index.display().to_string()), ..DatasetOptions::default() };
    let reader = open(Format::ImageNetTar, &disk.path().join("i").display().to_string(), options).await.unwrap();
    assert_eq!(reader.units().await.unwrap().len(), 1);
    reader.keep().await;
    assert!(!index.exists());
}

#[tokio::test]
async fn what_imagenet_needs_is_said() {
    let synset = tar_of(&[("a.JPEG", b"a")]);
    let disk = on_disk(&objects(vec![
        ("t/ILSVRC2012_img_train.tar", tar_of(&[("n01440764.tar", &synset)])),
        ("t/ILSVRC2012_img_val.tar", tar_of(&[("ILSVRC2012_val_00000001.JPEG", b"1")])),
        ("w/fall11_whole.tar", tar_of(&[("n01440764.tar", &synset), ("n00004475.tar", &synset)])),
        ("g/train.tar", vec![0x1f, 0x8b, 8, 0, 0, 0]),
        ("f/train/n00004475/a.JPEG", b"a".to_vec()),
        ("f/val/ILSVRC2012_val_00000099.JPEG", b"a".to_vec()),
    ]));
    let root = disk.path().display().to_string();
    let plain = DatasetOptions::default;
    let of = |split| DatasetOptions { split: Some(split), ..plain() };
    let tar = async |place: &str, options| sentence(Format::ImageNetTar, &format!("{root}/{place}"), options).await;
    let folder =
        async |place: &str, options| sentence(Format::ImageNetFolder, &format!("{root}/{place}"), options).await;

    let text = tar("t", plain()).await;
    assert!(text.ends_with("holds training and validation images: set dataset.split to train or val"), "{text}");
    let text = tar("t", of(Split::Val)).await;
    assert!(text.contains("set dataset.mapping to the devkit ILSVRC2012_devkit_t12.tar.gz"), "{text}");
    let text = tar("w", plain()).await;
    assert!(text.contains("n00004475.tar in fall11_whole.tar: n00004475 is none of the 1000 synsets"), "{text}");
    assert!(tar("g", plain()).await.contains("is compressed"));
    let text = folder("f", of(Split::Train)).await;
    assert!(text.contains("train/n00004475/a.JPEG") && text.contains("none of the 1000 synsets"), "{text}");
    let text = folder("f", of(Split::Val)).await;
    assert!(text.contains("validation images need dataset.mapping"), "{text}");
    let text = folder("f", DatasetOptions { split: Some(Split::Val), ..mapped() }).await;
    assert!(text.contains("val/ILSVRC2012_val_00000099.JPEG") && text.contains("does not name it"), "{text}");
    let missing = DatasetOptions { mapping: Some(format!("{root}/none.txt")), ..of(Split::Val) };
    assert!(folder("f", missing).await.ends_with("none.txt does not exist"));

    let text = sentence(Format::Folder, &root, of(Split::Val)).await;
    assert!(text.contains("dataset.split work with \"imagenet-tar\""), "{text}");
    let few = DatasetOptions { classes: Some(100), ..plain() };
    assert!(tar("t", few).await.contains("dataset.classes must be 1000"));
    let labels = DatasetOptions { labels: Labels::Directory, ..plain() };
    assert!(folder("f", labels).await.contains("dataset.labels = \"directory\" works with"));

    // Without classes, all of them can be read.
    for (format, place) in
        [(Format::ImageNetTar, "w"), (Format::ImageNetFolder, "f/train"), (Format::ImageNetFolder, "f/val")]
    {
        let options = DatasetOptions { labels: Labels::None, ..plain() };
        let reader = open(format, &format!("{root}/{place}"), options).await.unwrap();
        for unit in reader.units().await.unwrap() {
            let entries = read_unit(&*reader, &unit).await.unwrap();
            assert!(matches!(&entries[..], [Entry::Sample(sample)] if sample.label.is_none()), "{entries:?}");
        }
    }
}

/// A header inside an image, as a tar in a tar has: a slice that begins there says that it fits nothing.
#[tokio::test]
async fn what_looks_like_a_member_within_an_image_loses_nothing_silently() {
    let inner = tar_of(&[("x.JPEG", &[1; 300]), ("y.JPEG", &[2; 300]), ("z.JPEG", &[3; 300])]);
    let names: Vec<String> = (0..12).map(|number| format!("n01440764_{number:02}.JPEG")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), inner.as_slice())).collect();
    let store = in_memory(&objects(vec![("i/a.tar", tar_of(&members))])).await;
    for unit_rows in 1..=12 {
        let options = DatasetOptions { unit_rows, ..options() };
        let reader = ImageNetTar::new(Location::in_store(store.clone(), "i/"), options);
        let mut entries = Vec::new();
        for unit in reader.units().await.unwrap() {
            entries.extend(read_unit(&reader, &unit).await.unwrap());
        }
        let rejected = entries.iter().any(|entry| matches!(entry, Entry::Reject(reject) if reject.key.is_empty()));
        let keys = entries.iter().filter_map(|entry| match entry {
            Entry::Sample(sample) => Some(sample.key.clone()),
            Entry::Reject(_) => None,
        });
        let whole = keys.collect::<Vec<_>>() == names;
        assert!(whole || rejected, "units of {unit_rows}");
    }
}
