"""Fine-tune any timm model on an image folder with NFA, after the paper's Table 6.

    python examples/finetune_timm.py DATA --checkpoint my-nfa \\
        --model eva02_base_patch14_448.mim_in22k_ft_in22k_in1k

DATA holds train/ and val/ with one folder per class. Fit the checkpoint to these classes (nfaug
fit). As there: SGD, learning rate 1e-5, 3 epochs. Ours: momentum 0.9, gradients clipped to norm 1,
batches of 64, and all settings of NFA, of which the paper names none. The paper's baseline, 90.90%
of ImageNet, is timm's figure of this model on the ReaL labels, not on the usual ones.

It prints "epoch 1: loss 1.234, top-1 56.7%" for each epoch, then NFA's counters: with the default
probability of 0.5, about half of the images are applied.
"""

from __future__ import annotations

import argparse

import timm
import torch
from timm.data import Mixup, create_dataset, create_loader, resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from torch import nn

from nfaug import NFAugment
from nfaug.integrations.timm import NFALoader


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder with train/ and val/")
    parser.add_argument("--checkpoint", required=True, help="a directory or a Hub repository")
    parser.add_argument(
        "--nfa-prob", type=float, default=0.5, help="probability that NFA replaces an image"
    )
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, help="pixels (default: of the model)")
    parser.add_argument("--no-pretrained", dest="pretrained", action="store_false")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--mixup", type=float, default=0.0, help="alpha of mixup, after NFA")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--no-prefetcher", dest="prefetcher", action="store_false")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def loader_of(args, split, config, device):
    return create_loader(
        create_dataset("", root=args.data, split=split),
        batch_size=args.batch_size,
        is_training=split == "train",
        num_workers=args.workers,
        use_prefetcher=args.prefetcher,
        device=device,
        **{key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")},
    )


@torch.no_grad()
def top1(model, loader, device) -> float:
    model.eval()
    right = total = 0
    for images, labels in loader:
        right += (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
        total += len(labels)
    return right / total


def main() -> None:
    args = parse()
    device = torch.device(args.device)
    nfa = NFAugment.from_pretrained(args.checkpoint, p=args.nfa_prob)
    fixed = getattr(timm.get_pretrained_cfg(args.model), "fixed_input_size", False)
    size = {"img_size": args.img_size} if args.img_size and fixed else {}  # others take any size
    model = timm.create_model(
        args.model, pretrained=args.pretrained, num_classes=nfa.num_classes, **size
    ).to(device)
    config = resolve_data_config({"img_size": args.img_size}, model=model)
    validation = loader_of(args, "validation", config, device)
    mixup = Mixup(args.mixup, num_classes=nfa.num_classes) if args.mixup > 0 else None
    loader = NFALoader(loader_of(args, "train", config, device), nfa, mixup=mixup, device=device)

    loss_of = SoftTargetCrossEntropy() if mixup else nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for images, labels in loader:
            loss = loss_of(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        accuracy = top1(model, validation, device)
        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}, top-1 {100 * accuracy:.1f}%")
    print(nfa.stats())


if __name__ == "__main__":
    main()
