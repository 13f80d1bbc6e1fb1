"""ResNet-18 on CIFAR-10, with NFA after crop and flip.

    nfaug train --data torch/cifar10 --download --augmentation.hflip true --out flow
    python examples/resnet18_cifar10.py torch/cifar10 --checkpoint flow

SGD with momentum 0.9 and weight decay 5e-4, a one-cycle schedule up to 0.1, batches of 100, 30
epochs: network and settings with which the paper's authors judge images that a flow generates
(CNN-Acc). Of a ResNet with NFA the paper has no result. The data can be anything that `nfaug train
--data` takes. Without --checkpoint, the run is the same without NFA. It prints "epoch 1: loss
1.523, top-1 52.4%" for each epoch, then NFA's counters.
"""

from __future__ import annotations

import argparse

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from nfaug import NFAugment, open_dataset


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="torch/cifar10, an image folder, a tar of one, ...")
    parser.add_argument("--checkpoint", help="a directory, a Hub repository or builtin:NAME")
    parser.add_argument("--nfa-prob", type=float, default=0.5)
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--max-lr", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def resnet18(channels: int, classes: int) -> nn.Module:
    """timm's ResNet-18 with a stem for 32-pixel images: a 3x3 convolution without pooling."""
    model = timm.create_model("resnet18", num_classes=classes, in_chans=channels)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def unit(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def main() -> None:
    args = parse()
    train = open_dataset(args.data, split="train", image_size=args.img_size)
    test = open_dataset(args.data, split=args.test_split, image_size=args.img_size)
    loader = DataLoader(
        train, args.batch_size, shuffle=True, num_workers=args.workers, drop_last=True
    )
    test_loader = DataLoader(test, 500, num_workers=args.workers)

    nfa = NFAugment.from_pretrained(args.checkpoint, p=args.nfa_prob) if args.checkpoint else None
    if nfa is not None:
        nfa.check_classes(train)
    shift = v2.Compose([v2.RandomCrop(args.img_size, padding=4), v2.RandomHorizontalFlip()])

    model = resnet18(train.channels, len(train.classes)).to(args.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=args.max_lr, total_steps=args.epochs * len(loader)
    )
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for images, labels in loader:
            images, labels = images.to(args.device), labels.to(args.device)
            images = torch.stack([shift(image) for image in images])
            if nfa is not None:
                images, labels = nfa(images, labels)
            loss = nn.functional.cross_entropy(model(unit(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        model.eval()
        with torch.inference_mode():
            right = sum(
                int((model(unit(images.to(args.device))).argmax(1).cpu() == labels).sum())
                for images, labels in test_loader
            )
        top1 = 100 * right / len(test)
        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}, top-1 {top1:.1f}%")
    print(nfa.stats() if nfa is not None else {})


if __name__ == "__main__":
    main()
