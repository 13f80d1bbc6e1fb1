"""NFA in torchvision's reference training loop: two lines, after flips, before MixUp and CutMix.

    python examples/torchvision_loop.py DATA --checkpoint my-nfa

DATA holds train/ and val/ with one folder per class. Fit the checkpoint to these classes
(nfaug fit). It prints "epoch 1: loss 2.013, top-1 31.5%" for each epoch, then NFA's counters,
{'seen': ..., 'applied': ..., 'far': ..., 'no_partner': ..., ..., 'not_finite': ...}.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from nfaug import NFAugment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--checkpoint", required=True, help="a directory or a Hub repository")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    args = parse()
    device = torch.device(args.device)
    size = args.img_size  # of the shorter side, then of the centre, as nfaug fit has it
    prepare = [v2.ToImage(), v2.Resize(size), v2.CenterCrop(size)]
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    flip = v2.RandomHorizontalFlip()  # here: on a batch, v2 flips all of its images or none
    train = ImageFolder(args.data / "train", v2.Compose([*prepare, flip, *finish]))
    val = ImageFolder(args.data / "val", v2.Compose([*prepare, *finish]))
    train_loader = DataLoader(train, args.batch_size, shuffle=True, num_workers=args.workers)
    val_loader = DataLoader(val, args.batch_size, num_workers=args.workers)

    nfa = NFAugment.from_pretrained(args.checkpoint, p=0.5, mean=MEAN, std=STD)  # line 1
    nfa.check_classes(train)
    mix = v2.RandomChoice([v2.MixUp(num_classes=len(train.classes)),
                           v2.CutMix(num_classes=len(train.classes))])  # fmt: skip

    model = resnet18(num_classes=len(train.classes)).to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for image, target in train_loader:
            image, target = image.to(device), target.to(device)
            image, target = nfa(image, target)  # line 2
            image, target = mix(image, target)
            loss = criterion(model(image), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        model.eval()
        with torch.inference_mode():
            right = sum(
                (model(image.to(device)).argmax(1).cpu() == target).sum().item()
                for image, target in val_loader
            )
        top1 = 100 * right / len(val)
        print(f"epoch {epoch + 1}: loss {total / len(train_loader):.3f}, top-1 {top1:.1f}%")
    print(nfa.stats())


if __name__ == "__main__":
    main()
