"""Writes tiny valid files for each fuzz target: what the fuzzer starts from.

usage: seeds.py DIRECTORY    needs Pillow, lmdb and zstandard (tests/fuzz/requirements.txt)
"""

import io
import json
import struct
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import lmdb
import zstandard
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def picture(mode="RGB", size=(5, 4)):
    image = Image.new("RGB", size)
    image.putdata([(x * 50 % 256, y * 60 % 256, x * y * 9 % 256) for y in range(size[1]) for x in range(size[0])])
    return image.convert(mode)


def encoded(kind, mode="RGB", size=(5, 4), **options):
    out = io.BytesIO()
    picture(mode, size).save(out, kind, **options)
    return out.getvalue()


PNG = encoded("PNG")


def tar(members, format):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if format == tarfile.PAX_FORMAT:
                info.mtime = 1.5  # a PAX header before every member, as webdataset writes
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tars():
    sample = [("a/b.cls", b"3\n"), ("a/b.json", b'{"caption": "x", "label": 2}'), ("a/b.png", PNG), ("a/b.txt", b"words")]
    yield "ustar", tar(sample, tarfile.USTAR_FORMAT)
    yield "pax", tar(sample, tarfile.PAX_FORMAT)
    long = [("d" * 120 + "/x.png", PNG), ("d" * 120 + "/x.txt", b"y")]
    yield "gnu", tar(long, tarfile.GNU_FORMAT)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def record(payload):
    length = struct.pack("<Q", len(payload))
    return length + masked(length) + payload + masked(payload)


def field(number, data):
    out, length = bytes([number << 3 | 2]), len(data)
    while length > 127:
        out, length = out + bytes([length & 127 | 128]), length >> 7
    return out + bytes([length]) + data


def example(features):
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        else:
            feature = field(3, field(1, bytes(value)))  # packed varints below 128
        entries += field(1, field(1, key.encode()) + field(2, feature))
    return record(field(1, entries))


def records():
    raw = example({"shape": [3, 4, 4], "data": bytes(range(48))})
    yield "raw", b"\0" + raw * 2
    rows = [{"key": b"0000%d" % at, "jpg": encoded("JPEG"), "txt": b"words", "width": [5]} for at in range(2)]
    yield "img2dataset", b"\1" + b"".join(map(example, rows))


def zips():
    for name, labels in ("labels", [["00000/img00000000.png", 3]]), ("none", None):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("00000/img00000000.png", PNG)
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
        yield name, out.getvalue()


def shards():
    def shard(samples):
        start = 4 + 4 * (len(samples) + 1)
        offsets, body = [start], b""
        for image, label in samples:
            body += struct.pack("<I", len(image)) + image + struct.pack("<q", label)
            offsets.append(start + len(body))
        return struct.pack(f"<{len(offsets) + 1}I", len(samples), *offsets) + body

    data = shard([(PNG, 1), (encoded("JPEG"), 2)])
    for compression, stored in (None, data), ("zstd", zstandard.compress(data)):
        name = "x.mds" if compression is None else "x.mds.zstd"
        entry = {
            "format": "mds", "version": 2, "column_names": ["image", "label"], "column_encodings": ["jpeg", "int"],
            "column_sizes": [None, 8], "compression": compression, "hashes": [], "samples": 2, "size_limit": 1 << 20,
            "raw_data": {"basename": "x.mds", "bytes": len(data), "hashes": {}},
            "zip_data": compression and {"basename": name, "bytes": len(stored), "hashes": {}},
        }
        yield compression or "plain", json.dumps({"version": 2, "shards": [entry]}).encode() + b"\0" + stored


def databases():
    for name, count, size in ("one-page", 3, 60), ("overflow", 4, 5000), ("two-levels", 90, 60):
        with tempfile.TemporaryDirectory() as folder:
            with lmdb.open(folder, map_size=1 << 22) as database, database.begin(write=True) as change:
                for at in range(count):
                    change.put(b"%040x" % at, PNG.ljust(size, b"\0"))
            yield name, Path(folder, "data.mdb").read_bytes()


def images():
    for mode in "RGB", "L", "P", "RGBA", "1", "LA", "I;16":
        yield f"{mode.replace(';', '')}.png", encoded("PNG", mode) if mode != "I;16" else i16()
    for name, options in ("base", {}), ("progressive", {"progressive": True}), ("444", {"subsampling": 0}):
        yield f"{name}.jpg", encoded("JPEG", size=(19, 17), **options)
    yield "gray.jpg", encoded("JPEG", "L", (19, 17))
    yield "cmyk.jpg", encoded("JPEG", "CMYK", (19, 17))
    yield "lossy.webp", encoded("WEBP", size=(19, 17))
    yield "lossless.webp", encoded("WEBP", lossless=True)
    yield "alpha.webp", encoded("WEBP", "RGBA")
    yield "plain.gif", encoded("GIF", "P")
    yield "plain.bmp", encoded("BMP")


def i16():
    out = io.BytesIO()
    Image.new("I;16", (5, 4), 4000).save(out, "PNG")
    return out.getvalue()


def pipelines():
    for path in sorted((ROOT / "pipelines").glob("*.toml")):
        yield path.stem, path.read_bytes()


def main(target):
    kinds = {
        "tar": tars, "tfrecord": records, "zip": zips, "mds": shards, "lmdb": databases, "image": images,
        "pipeline": pipelines,
    }
    for kind, seeds in kinds.items():
        folder = Path(target) / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in seeds():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1])
