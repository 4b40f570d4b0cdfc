use super::*;
use std::io::Write;

async fn read(parts: &[&[u8]]) -> Result<Mapping, String> {
    let directory = tempfile::tempdir().unwrap();
    let mut urls = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let path = directory.path().join(number.to_string());
        std::fs::write(&path, part).unwrap();
        urls.push(path.display().to_string());
    }
    Mapping::read(&urls.join("::")).await.map_err(|error| error.to_string())
}

const TRUTH: &[u8] = b"2\n1\n2\n";
const IDS: &[u8] = b"1 n02119789\n2 n02100735\n";

fn devkit(members: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = ::tar::Builder::new(gzip);
    for (name, body) in members {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        builder.append_data(&mut header, name, *body).unwrap();
    }
    let mut gzip = builder.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn every_file_says_the_same() {
    let names = b"ILSVRC2012_val_00000001.JPEG n02100735\r\nILSVRC2012_val_00000002.JPEG n02119789\nILSVRC2012_val_00000003.JPEG n02100735\n";
    let csv = b"ImageId,PredictionString\nILSVRC2012_val_00000003,n02100735 1 2 3 4 n02100735 5 6 7 8 \n\
        ILSVRC2012_val_00000002,n02119789 0 0 1 1 \nILSVRC2012_val_00000001,n02100735 0 0 1 1\n";
    let words = b"n01440764 tench, Tinca tinca\nn02119789 kit fox, Vulpes macrotis\n";
    let first = read(&[names]).await.unwrap();
    // English setter, kit fox.
    let classes = [1, 2, 3, 4].map(|n| first.class(&format!("val/ILSVRC2012_val_{n:08}.JPEG")));
    assert_eq!(classes, [Some(212), Some(278), Some(212), None]);
    for parts in [&[&csv[..]][..], &[csv, words], &[TRUTH, IDS], &[IDS, TRUTH]] {
        let other = read(parts).await.unwrap();
        assert_eq!((&other.classes, other.digest()), (&first.classes, first.digest()));
    }
    assert_ne!(read(&[b"a.JPEG n02119789"]).await.unwrap().digest(), first.digest());
}

#[tokio::test]
async fn what_is_no_mapping_is_one_sentence() {
    let said = async |parts: &[&[u8]]| read(parts).await.unwrap_err();
    let text = said(&[TRUTH]).await;
    assert!(text.contains("ILSVRC2012_devkit_t12.tar.gz itself") && text.contains("`::`"), "{text}");
    let text = said(&[b"4\n", IDS]).await;
    assert!(text.contains("validation image 1 has the ILSVRC2012_ID 4"), "{text}");
    let text = said(&[b"a.JPEG n02119789\nb.JPEG n07646067\n"]).await;
    assert!(text.ends_with("line 2: n07646067 is none of the 1000 synsets of ILSVRC2012"), "{text}");
    // Kaggle's and Caffe's val.txt look alike, and count differently.
    let text = said(&[b"\xef\xbb\xbfILSVRC2012_val_00000001 1\n"]).await;
    assert!(text.contains("line 1, \"ILSVRC2012_val_00000001 1\", is not as in"), "{text}");
    let text = said(&[b"a.JPEG n02119789\na.JPEG n02100735\n"]).await;
    assert!(text.contains("line 2: a is of two synsets"), "{text}");
    assert!(said(&[b"n01440764 tench\n"]).await.contains("names no images"));
    assert!(said(&[b"1 n02119789\n1 n02100735\n"]).await.contains("1 is n02100735 here and n02119789 elsewhere"));
    assert!(said(&[b"\xff\xfe"]).await.contains("not UTF-8"));
    let text = said(&[&devkit(&[("d/data/ILSVRC2012_validation_ground_truth.txt", TRUTH)])]).await;
    assert!(text.contains("has not both") && text.contains("meta.mat"), "{text}");
    let mut cut = devkit(&[("d/data/meta.mat", b"MATLAB 5.0")]);
    assert!(said(&[&cut]).await.contains("meta.mat in it: it is no little-endian MATLAB 5 file"));
    cut.truncate(cut.len() / 2);
    assert!(said(&[&cut]).await.contains("dataset.mapping = "));
}

#[test]
fn paths_tell_classes() {
    let plain = Classifier::default();
    assert_eq!(plain.class("train/n01440764/x.JPEG"), Ok(0));
    assert_eq!(plain.class("n01440764/images/x.JPEG"), Ok(0));
    assert_eq!(plain.class("n02119789_7.JPEG"), Ok(278));
    assert!(plain.class("n07646067/x.JPEG").unwrap_err().contains("none of the 1000"));
    assert!(plain.class("val/ILSVRC2012_val_00000001.JPEG").is_err());
    // A name that is a wnid alone has no number behind it: it is no image of the training set.
    assert!(plain.class("n02119789").is_err());
    let classes = HashMap::from([("x".to_owned(), 5)]);
    let mapped = Classifier { mapping: Some(Mapping { url: "m.txt".to_owned(), classes }) };
    assert_eq!(mapped.class("val/x.JPEG"), Ok(5));
    assert_eq!(mapped.class("n01440764/x.JPEG"), Ok(0));
    assert_eq!(mapped.class("val/y.JPEG"), Err("m.txt does not name it".to_owned()));
}
