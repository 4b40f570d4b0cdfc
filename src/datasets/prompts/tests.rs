use super::*;
use ::parquet::arrow::ArrowWriter;
use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray, UInt64Array};
use arrow::datatypes::Float32Type;
use arrow::record_batch::RecordBatch;
use std::io::Write;
use std::path::Path;

async fn read(path: &Path, ignored: &[&str]) -> Result<Vec<PromptRow>, String> {
    let ignored: Vec<String> = ignored.iter().map(|name| (*name).to_owned()).collect();
    let table = PromptTable::open(path.to_str().unwrap(), &ignored, Column::Prompt).await;
    let mut rows = table.map_err(|error| error.to_string())?.rows();
    let mut all = Vec::new();
    while let Some(row) = rows.next().await.map_err(|error| error.to_string())? {
        all.push(row);
    }
    Ok(all)
}

/// Reads `text` as a file called `name`.
async fn written(name: &str, text: impl AsRef<[u8]>) -> Result<Vec<PromptRow>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    read(&path, &["url"]).await
}

fn parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// Two rows, without their places.
fn expected() -> Vec<PromptRow> {
    vec![
        PromptRow {
            prompt: Some("a red, \"small\" circle".to_owned()),
            key: Some("a".to_owned()),
            seed: Some(5),
            temperature: vec![1.0, 0.5],
            ..PromptRow::default()
        },
        PromptRow { prompt: Some("a blue square".to_owned()), count: Some(3), top_k: vec![7], ..PromptRow::default() },
    ]
}

fn placeless(rows: Result<Vec<PromptRow>, String>) -> Vec<PromptRow> {
    rows.unwrap().into_iter().map(|row| PromptRow { at: 0, ..row }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_says_the_same() {
    let json = concat!(
        "{\"prompt\": \"a red, \\\"small\\\" circle\", \"key\": \"a\", \"seed\": 5, \"temperature\": [1, 0.5]}\n",
        "{\"count\": 3, \"prompt\": \"a blue square\", \"top_k\": 7, \"seed\": null, \"url\": {}}",
    );
    assert_eq!(placeless(written("p.jsonl", json.replace(", \"url\": {}", "")).await), expected());
    assert_eq!(placeless(written("p.JSONL", json).await), expected());
    let csv = concat!(
        "\u{feff}prompt,key,seed,temperature,count,top_k,url\r\n",
        "\"a red, \"\"small\"\" circle\",a,5,\"[1, 0.5]\",,,h\r\n",
        "a blue square,,,,3,7,\r\n",
    );
    assert_eq!(placeless(written("p.csv", csv).await), expected());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(csv.as_bytes()).unwrap();
    assert_eq!(placeless(written("p.csv.gz", gzip.finish().unwrap()).await), expected());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.parquet");
    let prompts = ["a red, \"small\" circle", "a blue square"];
    let lists = vec![Some(vec![Some(1.0), Some(0.5)]), None];
    parquet(
        &path,
        vec![
            ("url", Arc::new(Int64Array::from(vec![1, 2]))),
            ("prompt", Arc::new(StringArray::from(prompts.to_vec()))),
            ("key", Arc::new(StringArray::from(vec![Some("a"), None]))),
            ("seed", Arc::new(UInt64Array::from(vec![Some(5), None]))),
            ("temperature", Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))),
            // As pandas writes whole numbers with gaps.
            ("count", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(3.0)]))),
            ("top_k", Arc::new(Int64Array::from(vec![None, Some(7)]))),
        ],
    );
    assert_eq!(placeless(read(&path, &["url"]).await), expected());
    assert!(read(&path, &[]).await.unwrap_err().contains("unknown column `url`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_text_are_prompts() {
    let rows = written("p.txt", "a red circle\r\na \"blue\" square\n").await.unwrap();
    let texts: Vec<&str> = rows.iter().filter_map(|row| row.prompt.as_deref()).collect();
    assert_eq!((texts, rows[1].at), (vec!["a red circle", "a \"blue\" square"], 2));
    assert_eq!(written("p.txt", "").await, Ok(Vec::new()));
    assert_eq!(written("p.csv", "prompt,seed\n").await, Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn long_tables_come_whole_and_in_order() {
    let lines: Vec<String> = (0..5000).map(|number| format!("prompt {number}")).collect();
    let rows = written("p.txt", lines.join("\n")).await.unwrap();
    assert!(rows.iter().zip(&lines).all(|(row, line)| row.prompt.as_ref() == Some(line)));
    assert_eq!((rows.len(), rows[4999].at), (5000, 5000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_with_its_line() {
    let cases = [
        ("p.txt", "a\n\nb", "line 2: its prompt is empty"),
        (
            "p.jsonl",
            "{\"prompt\": \"a\"}\n{\"promt\": \"b\"}",
            "line 2: unknown column `promt`: did you mean `prompt`?",
        ),
        ("p.jsonl", "{\"prompt\": \"a\"}\n[1]", "line 2: it is no JSON object"),
        ("p.jsonl", "{\"prompt\": \" \"}", "line 1: its prompt is empty"),
        ("p.jsonl", "{\"prompt\": \"a\", \"seed\": -1}", "line 1: its seed is -1"),
        ("p.jsonl", "{\"prompt\": {}}", "line 1: its prompt is neither text nor a number"),
        ("p.csv", "prompt,sed\na,1\n", "its first line: unknown column `sed`: did you mean `seed`?"),
        ("p.csv", "prompt,seed\n\n\"a\n\nb\",1\nb,x\n", "row 2: its seed is \"x\""),
        ("p.csv", "prompt,seed\na,1\nb\n", "row 2: it has 1 values, the first line names 2 columns"),
        ("p.parquet", "PAR1", "it cannot be read as Parquet"),
    ];
    for (name, text, expected) in cases {
        let fault = written(name, text).await.unwrap_err();
        assert!(fault.contains(expected) && fault.contains(name), "{name} {text:?}: {fault}");
    }
    let open = format!("prompt\n\"{}", "a".repeat(3 << 20));
    assert!(written("p.csv", open).await.unwrap_err().contains("is a quote not closed?"));
    assert!(written("p.txt", b"a\n\xff\n").await.unwrap_err().contains("line 2: it is not UTF-8"));
    assert!(written("p.txt", "a".repeat(3 << 20)).await.unwrap_err().contains("line 1: it has more than"));
    assert!(read(Path::new("/nowhere/p.txt"), &[]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_stops_early_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.txt");
    std::fs::write(&path, "a prompt\n".repeat(100_000)).unwrap();
    let table = PromptTable::open(path.to_str().unwrap(), &[], Column::Prompt).await.unwrap();
    let mut rows = table.rows();
    assert!(rows.next().await.unwrap().is_some());
    let reading = rows.reading.take().unwrap();
    drop(rows);
    reading.await.unwrap().unwrap();
}
