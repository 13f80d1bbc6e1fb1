"""A small Swin transformer from scratch on a small dataset, after the paper's Table 5.

    nfaug bank --checkpoint my-nfa --data DATA/train --out bank
    python examples/swin_small_data.py DATA --bank bank

DATA holds train/ and val/ with one folder per class, as images of 32 pixels. Variants come from a
bank, before flip, crop, RandAugment, erasing, mixup and cutmix, so that training runs no flow. As
there: patches of 2, windows of 4, width 96, depths 2, 6 and 4, heads 3, 6 and 12, stochastic depth
0.1 (7.0 M weights), 1,000 epochs, learning rate 2e-3. Other than there: AdamW with weight decay
0.05 for Adam, no AutoAugment, no pretraining without labels on the same images; the place of NFA
and p are ours, since the paper names none. It prints "epoch 1: loss 2.310, top-1
14.2%" for each epoch, then the share of images with variants.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy

from nfaug.bank import Bank, BankDataset


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--bank", required=True, help="output of nfaug bank for DATA/train")
    parser.add_argument(
        "--prob", type=float, default=0.5, help="probability that an image is replaced"
    )
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=96, help="of the first stage")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    args = parse()
    device = torch.device(args.device)
    plain = create_dataset("", root=str(args.data / "train"))
    classes = len(plain.reader.class_to_idx)
    shared = {"input_size": (3, args.img_size, args.img_size), "num_workers": args.workers,
              "batch_size": args.batch_size, "device": device}  # fmt: skip
    loader = create_loader(
        BankDataset(plain, args.bank, p=args.prob),
        is_training=True,
        scale=(0.5, 1.0),
        auto_augment="rand-m9-mstd0.5",
        re_prob=0.25,
        **shared,
    )
    held = create_loader(create_dataset("", root=str(args.data / "val")), crop_pct=1.0, **shared)
    mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=classes)

    model = timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=classes, img_size=args.img_size, patch_size=2,
        window_size=4, embed_dim=args.width, depths=(2, 6, 4), num_heads=(3, 6, 12), mlp_ratio=2.0,
        drop_path_rate=0.1,
    ).to(device)  # fmt: skip
    loss_of = SoftTargetCrossEntropy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=5e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for images, labels in loader:
            images, targets = mix(images.to(device), labels.to(device))
            loss = loss_of(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        model.eval()
        with torch.inference_mode():
            right = sum(
                int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
                for images, labels in held
            )
        top1 = 100 * right / len(held.dataset)
        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}, top-1 {top1:.1f}%")
    print({"with_variants": float(Bank(args.bank).applied[:].any(1).mean())})


if __name__ == "__main__":
    main()
