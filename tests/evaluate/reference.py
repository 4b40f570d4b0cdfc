"""Writes reference.safetensors: small arrays, and what the Python implementations in wide use make of them.

    pip install numpy scipy scikit-image prdc pillow safetensors torch torchvision torchmetrics clean-fid
    python tests/evaluate/reference.py

The file's metadata say which versions gave the figures.

FID: the formula of Heusel et al. with scipy's matrix square root, as pytorch-fid and clean-fid have it. KID: the unbiased
estimate of sums over the whole kernel matrices (Binkowski et al., eq. 4). Inception Score: the mean over contiguous splits, the
population's standard deviation over them, as torch-fidelity has it. Precision, recall, density, coverage: the package prdc.
PSNR and SSIM: scikit-image. Besides, the classes of torchmetrics and the functions of clean-fid on the same features, with all
rows in one subset and one split, since both draw theirs at random: these are of the first 64 real rows. Resizing: clean-fid's (Pillow's bicubic on float channels, clipped) and pytorch-fid's (bilinear over
pixel centres, PyTorch's `align_corners=False`).
"""

import importlib.metadata
import json
import pathlib

import numpy as np
import prdc
import scipy.linalg
import torch
from cleanfid.fid import frechet_distance as cleanfid_frechet
from cleanfid.fid import kernel_distance as cleanfid_kernel
from PIL import Image
from safetensors.numpy import save_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

DIMS, REAL, FAKE, CLASSES, SPLITS, NEAREST = 16, 80, 64, 12, 4, 3
PACKAGES = ["numpy", "scipy", "scikit-image", "prdc", "pillow", "torch", "torchmetrics", "clean-fid"]


def frechet(x, y):
    mu_x, mu_y = x.mean(0), y.mean(0)
    sigma_x, sigma_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.asarray(scipy.linalg.sqrtm(sigma_x @ sigma_y)).real
    return ((mu_x - mu_y) ** 2).sum() + np.trace(sigma_x + sigma_y - 2 * root)


def kernel_distance(x, y):
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3
    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return within - 2 * xy.mean()


def inception(logits):
    p = scipy.special.softmax(logits, axis=1)
    scores = []
    for i in range(SPLITS):
        part = p[i * len(p) // SPLITS : (i + 1) * len(p) // SPLITS]
        divergence = part * (np.log(part) - np.log(part.mean(0, keepdims=True)))
        scores.append(np.exp(divergence.sum(1).mean()))
    return np.mean(scores), np.std(scores)


class Same(torch.nn.Module):
    """Features are what comes in."""

    num_features = DIMS

    def forward(self, features):
        return features


def torchmetrics_figures(real, fake, logits):
    sides = [(torch.from_numpy(rows).double(), which) for rows, which in ((real, True), (fake, False))]
    fid = FrechetInceptionDistance(feature=Same()).set_dtype(torch.float64)
    kid = KernelInceptionDistance(feature=Same(), subsets=1, subset_size=FAKE).set_dtype(torch.float64)
    for rows, which in sides:
        fid.update(rows, real=which)
        kid.update(rows[:FAKE], real=which)
    inception = InceptionScore(feature=Same(), splits=1).set_dtype(torch.float64)
    inception.update(torch.from_numpy(logits).double())
    return dict(
        torchmetrics_frechet=fid.compute(),
        torchmetrics_kernel_distance=kid.compute()[0],
        torchmetrics_inception=inception.compute()[0],
    )


def cleanfid_figures(x, y):
    moments = [part for rows in (x, y) for part in (rows.mean(0), np.cov(rows, rowvar=False))]
    return dict(
        cleanfid_frechet=cleanfid_frechet(*moments),
        cleanfid_kernel_distance=cleanfid_kernel(x[:FAKE], y, num_subsets=1, max_subset_size=FAKE),
    )


def picture(random, side):
    y, x = np.mgrid[0:side, 0:side] / side
    planes = [np.sin(5 * x + 3 * y), x * y, np.cos(9 * x * y)]
    return np.clip(128 + 90 * np.stack(planes, -1) + random.normal(0, 8, (side, side, 3)), 0, 255).astype(np.uint8)


def clean(image, side):
    planes = [Image.fromarray(image[..., c].astype(np.float32), mode="F") for c in range(3)]
    resized = [np.asarray(plane.resize((side, side), Image.BICUBIC)) for plane in planes]
    return np.clip(np.stack(resized, -1), 0, 255).astype(np.float32)


def legacy(image, side):
    def along(array, axis):
        size = array.shape[axis]
        at = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        high, share = np.minimum(low + 1, size - 1), at - low
        shape = [side if i == axis else 1 for i in range(3)]
        return array.take(low, axis) * (1 - share).reshape(shape) + array.take(high, axis) * share.reshape(shape)

    return along(along(image.astype(np.float64), 0), 1).astype(np.float32)


def main():
    random = np.random.default_rng(7)
    mix = random.normal(size=(DIMS, DIMS))
    real = (random.normal(size=(REAL, DIMS)) @ mix).astype(np.float32)
    fake = (0.8 * random.normal(size=(FAKE, DIMS)) @ mix + 0.5).astype(np.float32)
    logits = (3 * random.normal(size=(50, CLASSES))).astype(np.float32)
    original = picture(random, 24)
    noise = random.normal(0, 12, original.shape)
    decoded = np.clip(original + noise, 0, 255).astype(np.uint8)

    x, y = real.astype(np.float64), fake.astype(np.float64)
    score, spread = inception(logits.astype(np.float64))
    ssim = dict(channel_axis=2, data_range=255)
    expected = dict(
        frechet=frechet(x, y),
        kernel_distance=kernel_distance(x, y),
        inception=score,
        inception_spread=spread,
        psnr=peak_signal_noise_ratio(original, decoded, data_range=255),
        ssim_uniform=structural_similarity(original, decoded, **ssim),
        ssim_gaussian=structural_similarity(
            original, decoded, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, **ssim
        ),
        l1=np.abs(original.astype(float) - decoded).mean() / 255,
        **prdc.compute_prdc(x, y, NEAREST),
        **torchmetrics_figures(real, fake, logits),
        **cleanfid_figures(x, y),
    )
    settings = dict(splits=SPLITS, nearest=NEAREST)
    metadata = {name: repr(float(value)) for name, value in expected.items()}
    metadata |= {name: json.dumps(value) for name, value in settings.items()}
    metadata["versions"] = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    arrays = dict(real=real, fake=fake, logits=logits, original=original, decoded=decoded)
    arrays |= dict(clean=clean(original, 9), legacy=legacy(original, 9))
    save_file(arrays, pathlib.Path(__file__).parent / "reference.safetensors", metadata=metadata)
    print(json.dumps(metadata, indent=2))


if __name__ == "__main__":
    main()
