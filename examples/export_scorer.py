"""Exports a scorer for `[choose]` as TorchScript. Needs Python's torch, and for `clip` open_clip_torch.

    python examples/export_scorer.py classifier resnet50.pt      # torchvision's ResNet-50: for a chain of ImageNet's classes
    python examples/export_scorer.py clip clip.pt                # OpenAI's CLIP: for a chain conditioned on text
    imagebart sample PIPELINE --set choose.scorer=clip.pt --set choose.draw=16 \
        --set choose.tokenizer=clip-tokenizer.json --set choose.length=77

What imagebart calls a scorer with:

    images    float32 [batch, 3, height, width], from 0 to 1: the pixels of the files, on the run's device
    ids       int64 [batch, length], where the chain is conditioned on text: of choose.tokenizer, else of the chain's own

and what it takes:

    forward(images)       -> [batch, classes]   logits: the score is the probability of the row's class
    forward(images, ids)  -> [batch]            the score itself
    forward(images)       -> [batch]            the score itself, where the chain has no condition

Resizing and normalising belong into the module. So does the meaning of padding: behind a text imagebart fills up with one id more than
the tokenizer's last, which CLIP's networks do not know.
"""

import sys

import torch
import torch.nn.functional as F


class Prepared(torch.nn.Module):
    """Resizes and normalises images for a network."""

    def __init__(self, side: int, mean: list[float], std: list[float]):
        super().__init__()
        self.side = side
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = F.interpolate(images, [self.side, self.side], mode="bicubic", antialias=True, align_corners=False)
        return (images.clamp(0.0, 1.0) - self.mean) / self.std


class Classifier(torch.nn.Module):
    """forward(images) -> logits."""

    def __init__(self, prepare: Prepared, network: torch.nn.Module):
        super().__init__()
        self.prepare, self.network = prepare, network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(self.prepare(images))


class Similarity(torch.nn.Module):
    """forward(images, ids) -> cosine of the angle between the embeddings of an image and its text."""

    def __init__(self, prepare: Prepared, network: torch.nn.Module, vocabulary: int):
        super().__init__()
        self.prepare, self.network, self.vocabulary = prepare, network, vocabulary

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        # imagebart's padding becomes CLIP's, which is 0.
        ids = torch.where(ids < self.vocabulary, ids, torch.zeros_like(ids))
        image = F.normalize(self.network.encode_image(self.prepare(images)), dim=-1)
        text = F.normalize(self.network.encode_text(ids), dim=-1)
        return (image * text).sum(-1)


def classifier() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    from torchvision.models import ResNet50_Weights, resnet50

    prepare = Prepared(224, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return Classifier(prepare, resnet50(weights=ResNet50_Weights.IMAGENET1K_V2)), (torch.rand(2, 3, 256, 256),)


def clip() -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    import open_clip

    network = open_clip.create_model("ViT-B-32", pretrained="openai")
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    scorer = Similarity(Prepared(224, mean, std), network, 49408)
    ids = open_clip.get_tokenizer("ViT-B-32")(["a red fox", "two owls"])
    return scorer, (torch.rand(2, 3, 256, 256), ids)


def main() -> None:
    kinds = {"classifier": classifier, "clip": clip}
    if len(sys.argv) != 3 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    scorer, example = kinds[sys.argv[1]]()
    scorer.eval()
    with torch.no_grad():
        traced = torch.jit.trace(scorer, example)
        # Traced of two images, right of any number.
        given, expected = traced(*(part[:1] for part in example)), scorer(*(part[:1] for part in example))
    assert torch.allclose(given, expected, atol=1e-4), "the traced module gives other scores"
    traced.save(sys.argv[2])
    print(f"{sys.argv[2]}: {tuple(given.shape[1:]) or 'one number'} an image")


if __name__ == "__main__":
    main()
