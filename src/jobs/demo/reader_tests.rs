use super::*;
use crate::jobs::demo::scenes::Scene;
use crate::jobs::demo::split::Split;
use crate::random::{Purpose, RowKey};

/// A way to spoil a picture, of which `row` gives the random numbers.
type Spoil = fn(&Rgb, RowKey) -> Rgb;

/// The share of attributes read right of `count` test pictures, and of pictures read right altogether.
fn accuracy(count: u64, spoil: Spoil) -> (f64, f64) {
    let (mut attributes, mut whole) = (0, 0);
    for index in 0..count {
        let scene = Scene::new(Split::Test, 4, index);
        let picture = spoil(&scene.draw().unwrap(), RowKey::new(1, "spoil", index, 0));
        let reading = read(&picture).unwrap();
        let score = reading.score(&scene.caption());
        attributes += score.right();
        whole += u64::from(score.is_perfect());
    }
    (f64::from(attributes) / (count as f64 * f64::from(ATTRIBUTES)), whole as f64 / count as f64)
}

fn each(picture: &Rgb, mut value: impl FnMut(usize, f32) -> f32) -> Rgb {
    let values = picture.pixels.iter().enumerate().map(|(at, &old)| value(at, old.into()).round() as u8);
    Rgb { pixels: values.collect(), ..*picture }
}

fn blur(picture: &Rgb, rounds: usize) -> Rgb {
    let mut channels = [0, 1, 2].map(|c| -> Vec<f32> {
        let ground = f32::from(GROUND[c]);
        picture.pixels.iter().skip(c).step_by(3).map(|&value| f32::from(value) - ground).collect()
    });
    for _ in 0..rounds {
        channels = channels.map(|channel| blurred(&channel));
    }
    each(picture, |at, _| channels[at % 3][at / 3] + f32::from(GROUND[at % 3]))
}

/// Gaussian enough: the sum of four uniform numbers, of standard deviation `deviation`.
fn noise(picture: &Rgb, row: RowKey, deviation: f32) -> Rgb {
    each(picture, |at, old| {
        let sum: f32 = (0..4).map(|i| row.uniform(Purpose::Noise, at as u32 * 4 + i) - 0.5).sum();
        old + sum * deviation * 3f32.sqrt()
    })
}

/// Through JPEG at a quality that shows.
fn jpeg(picture: &Rgb, quality: u8) -> Rgb {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality)
        .encode(&picture.pixels, picture.width, picture.height, image::ExtendedColorType::Rgb8)
        .unwrap();
    Rgb { pixels: image::load_from_memory(&bytes).unwrap().into_rgb8().into_raw(), ..*picture }
}

/// Each 8×8 cell's contents moved by up to a pixel, as a codebook of few edges does, and all of it blurred.
fn cells(picture: &Rgb, row: RowKey) -> Rgb {
    let moved = each(picture, |at, _| {
        let (x, y) = (at / 3 % WIDTH, at / 3 / WIDTH);
        let cell = (x / 8 + y / 8 * 8) as u32;
        let shift = |axis: u32| row.below(Purpose::Redraw, 2 * cell + axis, 3) as isize - 1;
        let place = |value: usize, shift: isize| value.saturating_add_signed(shift).min(WIDTH - 1);
        f32::from(picture.pixels[(place(y, shift(1)) * WIDTH + place(x, shift(0))) * 3 + at % 3])
    });
    blur(&moved, 1)
}

/// Colours drawn towards grey, and every channel off by a little.
fn tinted(picture: &Rgb, row: RowKey) -> Rgb {
    each(picture, |at, old| {
        let shift = 24.0 * (row.uniform(Purpose::Noise, (at % 3) as u32) - 0.5);
        128.0 + (old - 128.0) * 0.88 + shift
    })
}

#[test]
fn the_reader_is_right_on_drawings_and_on_what_tokenizers_make_of_them() {
    let spoilt: [(&str, f64, Spoil); 8] = [
        ("as drawn", 1.0, |picture, _| picture.clone()),
        ("blurred", 0.99, |picture, _| blur(picture, 2)),
        ("much blurred", 0.99, |picture, _| blur(picture, 5)),
        ("noisy", 0.99, |picture, row| noise(picture, row, 14.0)),
        ("blurred and noisy", 0.99, |picture, row| noise(&blur(picture, 2), row, 12.0)),
        ("of JPEG's quality 20", 0.99, |picture, _| jpeg(picture, 20)),
        ("of shifted cells", 0.99, cells),
        ("off in colour", 0.99, |picture, row| blur(&tinted(picture, row), 1)),
    ];
    let mut failures = Vec::new();
    for (name, least, spoil) in spoilt {
        let (attributes, whole) = accuracy(400, spoil);
        eprintln!("{name}: {:.2} % of attributes, {:.1} % of pictures", 100.0 * attributes, 100.0 * whole);
        // As many whole pictures as there would be if attributes were missed apart from one another.
        if attributes < least || whole < least.powi(ATTRIBUTES as i32) {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn captions_are_read_off_pictures() {
    for index in 0..200 {
        let scene = Scene::new(Split::Training, 8, index);
        let read = read(&scene.draw().unwrap()).unwrap().caption().unwrap();
        assert!(read == scene.caption() || read == scene.caption().turned(), "{read} is not {}", scene.caption());
    }
}

#[test]
fn an_empty_picture_shows_nothing_and_more_is_noticed() {
    let caption = Scene::new(Split::Test, 0, 0).caption();
    let empty = Rgb { width: SIDE, height: SIDE, pixels: GROUND.repeat(PIXELS) };
    let reading = read(&empty).unwrap();
    assert_eq!((reading.shapes.len(), reading.more, reading.caption()), (0, false, None));
    assert_eq!(reading.score(&caption), Score::default());
    assert!(read(&Rgb { width: 1, height: 1, pixels: vec![0; 3] }).is_err());

    // A third blot, wherever there is room for one.
    for index in 0..50 {
        let scene = Scene::new(Split::Test, 0, index);
        let mut picture = scene.draw().unwrap();
        let free = |x: usize, y: usize| {
            let cell = (0..64).map(|i| ((y + i / 8) * WIDTH + x + i % 8) * 3);
            cell.into_iter().all(|at| picture.pixels[at..at + 3] == GROUND)
        };
        let (x, y) = (0..56 * 56).map(|i| (i % 56, i / 56)).find(|&(x, y)| free(x, y)).unwrap();
        for i in 0..16 {
            let at = ((y + 2 + i / 4) * WIDTH + x + 2 + i % 4) * 3;
            picture.pixels[at..at + 3].copy_from_slice(&Colour::Red.rgb());
        }
        let reading = read(&picture).unwrap();
        let score = reading.score(&scene.caption());
        assert!(reading.more && !score.clean && score.right() == ATTRIBUTES, "{index}: {reading:?}");
    }
}

/// What is not drawn counts as wrong, and a blot is no shape.
#[test]
fn wrong_and_missing_attributes_are_counted() {
    let scene = Scene::new(Split::Test, 0, 3);
    let caption = scene.caption();
    let reading = read(&scene.draw().unwrap()).unwrap();
    let other =
        |look: Look| Look { colour: if look.colour == Colour::Red { Colour::Blue } else { Colour::Red }, ..look };
    let wrong = Caption { first: other(caption.first), ..caption };
    assert_eq!(reading.score(&caption).right(), 7);
    assert_eq!(reading.score(&caption.turned()).right(), 7);
    assert_eq!(reading.score(&wrong).right(), 6);
    assert_eq!(reading.score(&Caption { relation: caption.relation.inverse(), ..caption }).right(), 6);
    let alone = Reading { shapes: vec![reading.shapes[0]], more: false };
    let score = alone.score(&caption);
    assert_eq!((score.right(), score.relations, score.clean), (3, 0, false));

    let mut bar = Rgb { width: SIDE, height: SIDE, pixels: GROUND.repeat(PIXELS) };
    for i in 0..40 * 4 {
        let at = ((20 + i / 40) * WIDTH + 10 + i % 40) * 3;
        bar.pixels[at..at + 3].copy_from_slice(&Colour::Green.rgb());
    }
    let reading = read(&bar).unwrap();
    assert_eq!((reading.shapes[0].colour, reading.shapes[0].kind), (Colour::Green, None), "{reading:?}");
}
