"""Reads Parquet files with each of four libraries and prints the rows they saw, as one JSON object.

usage: read.py LIBRARY FILE...    LIBRARY: pyarrow | duckdb | polars | datasets

Images are printed as their pixels, numbers of settings rounded to six digits.
"""

import io
import json
import sys
import tempfile


def pyarrow(files):
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(file) for file in files]
    # The types that the files promise, not only the values.
    for table in tables:
        if "tokens" in table.column_names:
            kind = table.schema.field("tokens").type
            assert pa.types.is_fixed_size_list(kind) and kind.value_type == pa.uint16(), kind
        if "index" in table.column_names:
            assert table.schema.field("index").type == pa.uint64()
        if "image" in table.column_names:
            kind = table.schema.field("image").type
            assert kind.field("bytes").type == pa.binary() and kind.field("path").type == pa.string(), kind
            assert table.schema.field("temperature").type.value_type == pa.float32()
            assert table.schema.field("top_k").type.value_type == pa.uint32()
    return [row for table in tables for row in table.to_pylist()]


def duckdb(files):
    import duckdb as db

    rows = []
    for file in files:
        result = db.execute("SELECT * FROM read_parquet(?)", [file])
        names = [column[0] for column in result.description]
        rows += [dict(zip(names, row)) for row in result.fetchall()]
    return rows


def polars(files):
    import polars as pl

    return [row for file in files for row in pl.read_parquet(file).to_dicts()]


def datasets(files):
    import datasets as hf

    hf.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        data = hf.load_dataset("parquet", data_files={"train": files}, split="train", cache_dir=cache)
        if "image" in data.features:
            # Shown as an image, not as a struct of bytes: an item is decoded.
            assert isinstance(data.features["image"], hf.Image), data.features["image"]
            return [data[at] for at in range(len(data))]
        return data.to_list()


def plain(row):
    """The row with its image as pixels, whatever the reader made of it."""
    from PIL import Image

    if "image" in row:
        image = row["image"]
        if isinstance(image, dict):
            assert image["path"] == row["key"] + ".png", image["path"]
            image = Image.open(io.BytesIO(image["bytes"]))
        pixels = list(image.convert("RGB").tobytes())
        row["image"] = {"width": image.width, "height": image.height, "pixels": pixels}
        for setting in ["temperature", "top_p", "guidance"]:
            row[setting] = [round(value, 6) for value in row[setting]]
    return row


if __name__ == "__main__":
    read = {"pyarrow": pyarrow, "duckdb": duckdb, "polars": polars, "datasets": datasets}[sys.argv[1]]
    rows = [plain(row) for row in read(sys.argv[2:])]
    # On a line of its own: libraries may print too.
    print("\n" + json.dumps({"rows": rows}))
