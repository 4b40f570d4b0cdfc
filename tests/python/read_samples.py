"""Reads a run's samples as its users do, and prints what they saw as one JSON object.

usage: read_samples.py FOLDER PATTERN

With `datasets.load_dataset`: the images and their captions, also by the data-set card of the folder. With DuckDB: the ten best by
score for prompts like PATTERN.
"""

import glob
import json
import sys
import tempfile

import datasets
import duckdb

folder, pattern = sys.argv[1:]
datasets.disable_progress_bars()
files = sorted(glob.glob(folder + "/samples/*.parquet"))
with tempfile.TemporaryDirectory() as cache:
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    by_card = datasets.load_dataset(folder, split="train", cache_dir=cache)
    assert isinstance(rows.features["image"], datasets.Image), rows.features["image"]
    assert list(by_card["key"]) == list(rows["key"]) and isinstance(by_card.features["image"], datasets.Image), by_card.features
    shown = [[row["key"], row["prompt"], row["image"].size, row["image"].mode] for row in rows]
query = """SELECT key, prompt, score FROM read_parquet(?) WHERE prompt LIKE ? ORDER BY score DESC, key LIMIT 10"""
best = duckdb.execute(query, [files, pattern]).fetchall()
print("\n" + json.dumps({"shown": shown, "best": best}))
