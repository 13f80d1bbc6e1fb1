"""NFA in the Hugging Face Trainer: a dictionary batch with `pixel_values` and `labels`.

    python examples/hf_trainer.py DATA --checkpoint my-nfa

DATA holds one folder per class. Fit the checkpoint to these classes (nfaug fit). `NFAugment`
takes the dictionary that the Trainer passes to `compute_loss`, on the device, and returns a
dictionary. Evaluation does not augment. The script prints the Trainer's log and NFA's counters,
{'seen': ..., 'applied': ..., ...}.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2
from transformers import Trainer, TrainingArguments

from nfaug import NFAugment

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # image_mean and image_std of an image processor


class NFATrainer(Trainer):
    """A Trainer whose training batches are augmented."""

    def __init__(self, *args, nfa: NFAugment, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.nfa = nfa

    def compute_loss(self, model, inputs, *args, **kwargs):
        if model.training:
            inputs = self.nfa(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)


class Classifier(nn.Module):
    """A model without a download; any model of the library works."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = resnet18(num_classes=classes)

    def forward(self, pixel_values, labels=None):
        logits = self.model(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def collate(batch):
    images, labels = zip(*batch, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder of class folders")
    parser.add_argument("--checkpoint", required=True, help="a directory or a Hub repository")
    parser.add_argument("--out", default="hf_trainer_out", help="output folder of the Trainer")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()

    size = args.img_size  # of the shorter side, then of the centre, as nfaug fit has it
    steps = [v2.ToImage(), v2.Resize(size), v2.CenterCrop(size)]
    steps.append(v2.ToDtype(torch.float32, scale=True))
    dataset = ImageFolder(args.data, v2.Compose([*steps, v2.Normalize(MEAN, STD)]))
    nfa = NFAugment.from_pretrained(args.checkpoint, p=0.5, mean=MEAN, std=STD)
    nfa.check_classes(dataset)
    settings = TrainingArguments(
        output_dir=args.out,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    model = Classifier(len(dataset.classes))
    trainer = NFATrainer(model, settings, collate, dataset, nfa=nfa)
    trainer.train()
    print(nfa.stats())


if __name__ == "__main__":
    main()
