//! What `imagebart edit` draws anew, and what stays to the bit.

use crate::common::model::support::unconditional;
use crate::common::model::{SIDE, rows};
use crate::common::{imagebart, picture, stderr, succeed};
use crate::edit::{Edits, mask};
use image::RgbImage;
use imagebart::tables::SampleRow;

fn pixels(row: &SampleRow) -> RgbImage {
    image::load_from_memory(&row.image.bytes).unwrap().to_rgb8()
}

/// The number of the image that a row was drawn over.
fn index(row: &SampleRow) -> u64 {
    row.parent.as_ref().unwrap().trim_end_matches(".png").parse().unwrap()
}

/// Expects the pixels that are `known` to be those of the image, which lies at `at`, and the others to be drawn: tells how many
/// of these differ from it.
#[track_caller]
fn compare(row: &SampleRow, at: (u32, u32), known: impl Fn(u32, u32) -> bool) -> u32 {
    let (edited, original) = (pixels(row), picture(index(row), SIDE, SIDE));
    let mut differing = 0;
    for (x, y, pixel) in original.enumerate_pixels() {
        let edited = edited.get_pixel(x + at.0, y + at.1);
        match known(x, y) {
            true => assert_eq!(edited, pixel, "{}: ({x}, {y})", row.key),
            false => differing += u32::from(edited != pixel),
        }
    }
    differing
}

/// Known pixels are the image's to the bit, down to the pixel, where known tokens are whole.
#[test]
fn known_pixels_are_unchanged() {
    let edits = Edits::new(unconditional(), "");
    // Not along tokens, which have 4 pixels.
    let known = |x: u32, y: u32| x < 13 || y % 8 == 5;
    for number in 0..5 {
        mask(&edits.mask(&format!("{number}.bmp")), (SIDE, SIDE), known);
    }
    let encoded = edits.encoded();
    for format in ["png", "webp"] {
        let drawn = edits.draw(format, &[&format!("sample.image={format}"), "edit.count=2"]);
        for row in &drawn {
            assert!(compare(row, (0, 0), known) > 300);
            let image = &encoded[index(row) as usize];
            assert!((0..64).filter(|place| place % 8 < 3).all(|place| row.tokens[place] == image[place]));
        }
    }
    // Without blending, all pixels are the tokenizer's; the tokens are the same.
    let blended = edits.draw("blended", &[]);
    let plain = edits.draw("plain", &["edit.blend=false"]);
    for (blended, plain) in blended.iter().zip(&plain) {
        assert_eq!(blended.tokens, plain.tokens);
        let (blended, plain) = (pixels(blended), pixels(plain));
        let same = blended.enumerate_pixels().filter(|(x, y, pixel)| plain.get_pixel(*x, *y) == *pixel);
        assert!(same.filter(|(x, y, _)| known(*x, *y)).count() < 100);
        assert!(blended.enumerate_pixels().all(|(x, y, pixel)| known(x, y) || plain.get_pixel(x, y) == pixel));
    }
}

/// A feathered seam lies in the known part, and is as wide as it says.
#[test]
fn seams_are_feathered() {
    let edits = Edits::new(unconditional(), "");
    let plain = edits.draw("plain", &["edit.blend=false"]);
    let soft = edits.draw("soft", &["edit.feather=3"]);
    let half = SIDE / 2;
    for (soft, plain) in soft.iter().zip(&plain) {
        assert_eq!(soft.tokens, plain.tokens);
        assert!(compare(soft, (0, 0), |x, _| x < half - 3) > 0);
        let (edited, drawn, original) = (pixels(soft), pixels(plain), picture(index(soft), SIDE, SIDE));
        for (x, y, pixel) in edited.enumerate_pixels() {
            let (drawn, original) = (drawn.get_pixel(x, y), original.get_pixel(x, y));
            // Of four parts as many are the image's as it is pixels away.
            let share = if x < half { (half - x).min(4) } else { 0 };
            for channel in 0..3 {
                let [drawn, original] = [drawn, original].map(|pixel| u32::from(pixel.0[channel]));
                let expected = (original * share + drawn * (4 - share) + 2) / 4;
                assert_eq!(u32::from(pixel.0[channel]), expected, "({x}, {y})");
            }
        }
    }
}

#[test]
fn halves_need_no_masks() {
    let edits = Edits::new(unconditional(), "");
    let encoded = edits.encoded();
    for (mode, first) in [("upper-half", 32), ("lower-half", 0)] {
        let drawn = edits.draw(mode, &["edit.masks=", &format!("edit.mode={mode}")]);
        for row in &drawn {
            let known = |y: u32| (y < SIDE / 2) == (mode == "lower-half");
            assert!(compare(row, (0, 0), |_, y| known(y)) > 400);
            assert_eq!(row.tokens[first..first + 32], encoded[index(row) as usize][first..first + 32]);
        }
    }
}

#[test]
fn a_canvas_grows_around_its_image() {
    let edits = Edits::new(unconditional(), "");
    let encoded = edits.encoded();
    // 3 tokens to the left, 1 above, 10 to the right, more than the chain's grid has at once beside the image.
    let settings = ["edit.masks=", "edit.mode=outpaint", "edit.margins=[12, 4, 40, 0]"];
    let drawn = edits.draw("out", &settings);
    assert_eq!(drawn.len(), 5);
    for row in &drawn {
        assert_eq!((pixels(row).dimensions(), row.tokens.len()), ((84, 36), 21 * 9));
        assert_eq!(compare(row, (12, 4), |_, _| true), 0);
        for (place, token) in encoded[index(row) as usize].iter().enumerate() {
            assert_eq!(row.tokens[(place / 8 + 1) * 21 + place % 8 + 3], *token, "{place}");
        }
        // Nowhere is the canvas left empty.
        let margin: Vec<u16> = row.tokens.chunks(21).flat_map(|line| [&line[..3], &line[11..]].concat()).collect();
        assert!(margin.iter().filter(|&&token| token == 0).count() < margin.len() / 4, "{margin:?}");
    }
    let verified = succeed(["verify", edits.out("out").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&verified.stdout).contains("samples: 2 of 2 units done, 5 rows, 0 rejects"));
    let page = edits.root.path().join("page.png");
    succeed(["gallery", edits.out("out").to_str().unwrap(), "--to", page.to_str().unwrap()]);

    // However rows are batched; and another seed draws other margins.
    let tokens = |rows: &[SampleRow]| rows.iter().map(|row| row.tokens.clone()).collect::<Vec<_>>();
    let single = edits.draw("single", &[&settings[..], &["sample.batch_size=1"]].concat());
    assert_eq!(tokens(&single), tokens(&drawn));
    let other = edits.draw("other", &[&settings[..], &["run.seed=8"]].concat());
    assert!(other.iter().zip(&drawn).all(|(other, drawn)| other.tokens != drawn.tokens));

    let mut command = imagebart();
    command.arg("edit").arg(&edits.file).arg("--dry-run");
    let output = command.args(settings.iter().flat_map(|setting| ["--set", setting])).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("margins up to 84 × 36 pixels, in 10 windows"), "{text}{}", stderr(&output));
    assert!(rows(&edits.out("out")).len() == 5);
}
