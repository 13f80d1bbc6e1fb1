"""Two views of each image, one from a bank, with the Jensen-Shannon loss of timm (--jsd-loss).

    nfaug bank --checkpoint my-nfa --data DATA --image-size 256 --out bank
    python examples/jsd_bank.py DATA --bank bank --model resnet18

DATA holds one folder per class. A batch holds the images and then, in the same order, a variant of
each, as `JsdCrossEntropy` expects: cross-entropy on the images, and a penalty on the difference of
the predictions for the two views (AugMix, arXiv:1912.02781). Crop and flip are the same for both
views. timm's train.py makes such views with --aug-splits, which NFA in the loader refuses: a bank
takes the place of AugMix here, and training runs no flow. It prints "epoch 1: loss 2.310, views
agree on 71.0%" for each epoch.
"""

from __future__ import annotations

import argparse

import timm
import torch
from timm.data import create_dataset
from timm.loss import JsdCrossEntropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from nfaug.bank import BankDataset


class TwoViews(Dataset):
    """Items (views, label): an image and a variant of it from the bank, (2, C, H, W).

    An image without a variant is its own second view.
    """

    def __init__(self, images: Dataset, bank: str, size: int) -> None:
        self.plain = BankDataset(images, bank, p=0.0)
        self.variants = BankDataset(images, bank, p=1.0)
        self.read = v2.Compose([v2.RGB(), v2.ToImage(), v2.Resize(size), v2.CenterCrop(size)])
        # A transform of torchvision draws once for a stack of images.
        self.shared = v2.Compose([
            v2.RandomResizedCrop(size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.plain[index]
        variant, _ = self.variants[index]
        return self.shared(torch.stack([self.read(image), self.read(variant)])), label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--bank", required=True, help="output of nfaug bank for DATA")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    images = create_dataset("", root=args.data)
    views = TwoViews(images, args.bank, args.img_size)
    loader = DataLoader(
        views, args.batch_size, shuffle=True, num_workers=args.workers, drop_last=True
    )
    model = timm.create_model(args.model, num_classes=len(images.reader.class_to_idx))
    model.to(args.device).train()
    loss_of = JsdCrossEntropy(num_splits=2, smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    for epoch in range(1, args.epochs + 1):
        total, agree, count = 0.0, 0, 0
        for pairs, labels in loader:
            batch = pairs.transpose(0, 1).flatten(0, 1).to(args.device)  # all images, all variants
            logits = model(batch)
            loss = loss_of(logits, labels.repeat(2).to(args.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            first, second = logits.argmax(1).chunk(2)
            agree += int((first == second).sum())
            total, count = total + loss.item() * len(labels), count + len(labels)
        print(f"epoch {epoch}: loss {total / count:.3f}, views agree on {agree / count:.1%}")


if __name__ == "__main__":
    main()
