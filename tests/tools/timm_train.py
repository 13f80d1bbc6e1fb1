"""A training script that calls timm as timm's own train.py does, at a tiny size; it ends with JSON.

It stands in for that script, which is in neither timm's wheel nor its sdist. The order of calls,
the names they are imported under and who mixes where are the same.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import torch
from timm.data import (
    AugMixDataset,
    FastCollateMixup,
    Mixup,
    create_dataset,
    create_loader,
    resolve_data_config,
)
from timm.loss import SoftTargetCrossEntropy
from timm.models import create_model, get_pretrained_cfg
from timm.optim import create_optimizer_v2
from timm.utils import ParseKwargs, init_distributed_device
from torch.nn.parallel import DistributedDataParallel


def _set_loader_epoch(loader, epoch):
    if hasattr(loader.dataset, "set_epoch"):
        loader.dataset.set_epoch(epoch)
    if hasattr(loader.batch_sampler, "set_epoch"):
        loader.batch_sampler.set_epoch(epoch)
    elif hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?")
    parser.add_argument("--data-dir")
    parser.add_argument("--num-classes", type=int, default=3)
    parser.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
    parser.add_argument("--scale", type=float, nargs=2)
    parser.add_argument("--opt", default="sgd")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--experiment")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--start-epoch", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--no-prefetcher", action="store_true")
    parser.add_argument("--mixup", type=float, default=0.0)
    parser.add_argument("--cutmix", type=float, default=0.0)
    parser.add_argument("--mixup-mode", default="batch")
    parser.add_argument("--mixup-off-epoch", type=int, default=0)
    parser.add_argument("--aa")
    parser.add_argument("--reprob", type=float, default=0.0)
    parser.add_argument("--aug-splits", type=int, default=0)
    parser.add_argument("--batches", type=int, help="of an epoch, at most")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.prefetcher = not args.no_prefetcher
    root = args.data or args.data_dir
    device = init_distributed_device(args)

    fixed = getattr(get_pretrained_cfg(args.model), "fixed_input_size", False)
    options = {"img_size": args.img_size} if fixed else {}
    options |= args.model_kwargs
    model = create_model(args.model, num_classes=args.num_classes, **options)
    data_config = resolve_data_config({"img_size": args.img_size}, model=model)
    if args.distributed:
        model = DistributedDataParallel(model)
    dataset_train = create_dataset("", root=root, split="train", is_training=True)
    collate_fn = mixup_fn = None
    mixup_active = args.mixup > 0 or args.cutmix > 0
    if mixup_active:
        mixup_args = {
            "mixup_alpha": args.mixup,
            "cutmix_alpha": args.cutmix,
            "mode": args.mixup_mode,
            "num_classes": args.num_classes,
        }
        if args.prefetcher:
            collate_fn = FastCollateMixup(**mixup_args)
        else:
            mixup_fn = Mixup(**mixup_args)
    if args.aug_splits > 1:
        dataset_train = AugMixDataset(dataset_train, num_splits=args.aug_splits)
    loader_train = create_loader(
        dataset_train,
        input_size=data_config["input_size"],
        collate_fn=collate_fn,
        mean=data_config["mean"],
        std=data_config["std"],
        device=device,
        use_prefetcher=args.prefetcher,
        batch_size=args.batch_size,
        is_training=True,
        re_prob=args.reprob,
        re_mode="pixel",
        auto_augment=args.aa,
        scale=args.scale,
        num_aug_splits=args.aug_splits,
        num_workers=args.workers,
        distributed=args.distributed,
    )
    loader_eval = create_loader(
        create_dataset("", root=root, split="validation"),
        input_size=data_config["input_size"],
        batch_size=args.batch_size,
        mean=data_config["mean"],
        std=data_config["std"],
        device=device,
        use_prefetcher=args.prefetcher,
        num_workers=0,
    )
    loss_of = SoftTargetCrossEntropy() if mixup_active else torch.nn.CrossEntropyLoss()
    optimizer = create_optimizer_v2(model, opt=args.opt, lr=args.lr)
    record = {"argv0": Path(__file__).name, "sizes": [], "labels": [], "eval": 0}
    for epoch in range(args.start_epoch, args.epochs):
        _set_loader_epoch(loader_train, epoch)
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
            if args.prefetcher and loader_train.mixup_enabled:
                loader_train.mixup_enabled = False
            elif mixup_fn is not None:
                mixup_fn.mixup_enabled = False
        model.train()
        for input, target in islice(loader_train, args.batches):
            if not args.prefetcher:
                input, target = input.to(device), target.to(device)
                if mixup_fn is not None:
                    input, target = mixup_fn(input, target)
            loss = loss_of(model(input), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert torch.isfinite(loss)
            record["sizes"].append(list(input.shape))
            soft = target.ndim == 2 and bool((target.max(1).values < 0.92).any())
            record["labels"].append("mixed" if soft else "pure")
    model.eval()
    with torch.no_grad():
        for input, target in islice(loader_eval, args.batches):
            record["eval"] += len(model(input))
            assert target.ndim == 1
    if args.out and args.rank == 0:
        args.out.write_text(json.dumps(record))
    if args.distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
