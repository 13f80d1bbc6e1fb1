"""A Hugging Face Dataset: fit a flow to it, then train with the Trainer and a collate function."""

import json
import sys

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from torch import nn
from torchvision.transforms.functional import pil_to_tensor
from transformers import Trainer, TrainingArguments

import nfaug

NAMES = ["night", "dusk", "day"]


def make_dataset() -> Dataset:
    """24 photographs in memory, of which each class has its own brightness."""
    levels = np.random.default_rng(0)
    labels = [index % 3 for index in range(24)]
    images = [levels.integers(70 * y, 70 * y + 60, (40, 36, 3), np.uint8) for y in labels]
    features = Features({"id": Value("int32"), "image": Image(), "label": ClassLabel(names=NAMES)})
    columns = {"id": list(range(24)), "image": images, "label": labels}
    return Dataset.from_dict(columns, features=features)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 40 * 36, len(NAMES))

    def forward(self, pixel_values, labels):
        logits = self.head(pixel_values.flatten(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main(out: str) -> None:
    dataset = make_dataset()
    checkpoint = nfaug.fit("builtin:rgb32", dataset, rank=4, progress=False)
    nfa = nfaug.NFAugment(checkpoint, p=1.0, gate=False)
    nfa.check_classes(dataset)

    def collate(rows):
        images = torch.stack([pil_to_tensor(row["image"]) for row in rows]) / 255
        labels = torch.tensor([row["label"] for row in rows])
        return nfa({"pixel_values": images, "labels": labels})

    settings = TrainingArguments(
        output_dir=out,
        num_train_epochs=2,
        per_device_train_batch_size=6,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(Classifier(), settings, collate, dataset)
    steps = trainer.train().global_step
    names = checkpoint.config.class_names
    print(json.dumps({"classes": names, "steps": steps, **nfa.stats()}))


if __name__ == "__main__":
    main(sys.argv[1])
