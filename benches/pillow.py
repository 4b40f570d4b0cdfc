"""Times Pillow on the images of a directory, one round for each line on stdin; the other half of benches/imaging.rs.

usage: pillow.py IMAGES VENV        IMAGES: directory of files; VENV: where to install Pillow if python3 has none

Prints one JSON line when ready, then one for each round: milliseconds an image spent in decode (open, load, convert to RGB)
and resize (crop to the centre square, bicubic to 256 x 256), in the files' order.
"""

import io
import json
import os
import subprocess
import sys
import time


def ensure_pillow(venv):
    """Imports Pillow, from a virtual environment of the bench's own if need be."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        python = os.path.join(venv, "bin", "python")
        if sys.prefix == os.path.abspath(venv):
            raise
        if not os.path.exists(python):
            subprocess.run([sys.executable, "-m", "venv", venv], check=True, stdout=sys.stderr)
            subprocess.run([python, "-m", "pip", "-q", "install", "pillow"], check=True, stdout=sys.stderr)
        os.execv(python, [python] + sys.argv)


def pin():
    """Puts this process and the bench that started it on one and the same core."""
    if hasattr(os, "sched_setaffinity"):
        core = {max(os.sched_getaffinity(0))}
        os.sched_setaffinity(0, core)
        os.sched_setaffinity(os.getppid(), core)
        return max(core)
    return None


def one(data):
    from PIL import Image

    start = time.perf_counter()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.load()
    decoded = time.perf_counter()
    side = min(image.size)
    x, y = (image.width - side) // 2, (image.height - side) // 2
    image.crop((x, y, x + side, y + side)).resize((256, 256), Image.Resampling.BICUBIC)
    done = time.perf_counter()
    return (decoded - start) * 1e3, (done - decoded) * 1e3


def main():
    images, venv = sys.argv[1:3]
    ensure_pillow(venv)
    import PIL
    from PIL import features

    files = [open(os.path.join(images, name), "rb").read() for name in sorted(os.listdir(images))]
    turbo = features.version("libjpeg_turbo")
    print(json.dumps({"pillow": PIL.__version__, "libjpeg_turbo": turbo, "core": pin()}), flush=True)
    for _ in sys.stdin:
        times = [one(data) for data in files]
        print(json.dumps({"decode": [t[0] for t in times], "resize": [t[1] for t in times]}), flush=True)


if __name__ == "__main__":
    main()
