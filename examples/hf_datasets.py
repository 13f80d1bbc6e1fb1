"""NFA on a Hugging Face `Dataset`, trained with the Trainer.

    python examples/hf_datasets.py DATA --checkpoint my-nfa --where collator

DATA holds train/ and test/ with one folder per class. Fit the checkpoint to these classes
(nfaug fit). `collator` runs NFA in a data collator; the Trainer collates evaluation batches with it
too, so a callback switches NFA off for them. `transform` runs it in the `set_transform` of the
training split, which the loader calls with the rows of a whole batch. It prints the Trainer's log,
then the test accuracy and NFA's counters, {'accuracy': ..., 'seen': ..., 'applied': ..., ...}.
"""

from __future__ import annotations

import argparse

import torch
from datasets import load_dataset
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification

from transformers import Trainer, TrainerCallback, TrainingArguments  # isort: skip

from nfaug import NFAugment


class NFACollator:
    """Stack rows into a batch of `pixel_values` and `labels`, and augment it."""

    def __init__(self, nfa: NFAugment | None) -> None:
        self.nfa = nfa

    def __call__(self, rows):
        images = torch.stack([row["pixel_values"] for row in rows])
        batch = {"pixel_values": images, "labels": torch.tensor([row["label"] for row in rows])}
        return batch if self.nfa is None else self.nfa(batch)


class OnlyInTraining(TrainerCallback):
    """Switch NFA off between epochs, where the Trainer evaluates; also in the loader's workers."""

    def __init__(self, nfa: NFAugment) -> None:
        self.nfa = nfa

    def on_epoch_begin(self, *args, **kwargs) -> None:
        self.nfa.enabled = True

    def on_epoch_end(self, *args, **kwargs) -> None:
        self.nfa.enabled = False


def accuracy(predictions):
    return {"accuracy": float((predictions[0].argmax(1) == predictions[1]).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder with train/ and test/")
    parser.add_argument("--checkpoint", required=True, help="a directory or a Hub repository")
    parser.add_argument("--where", choices=["collator", "transform"], default="collator")
    parser.add_argument("--out", default="hf_datasets_out", help="output folder of the Trainer")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    data = load_dataset("imagefolder", data_dir=args.data)
    nfa = NFAugment.from_pretrained(args.checkpoint, p=0.5)
    nfa.check_classes(data["train"])
    size = args.img_size  # of the shorter side, then of the centre, as nfaug fit has it
    steps = [v2.RGB(), v2.ToImage(), v2.Resize(size), v2.CenterCrop(size)]
    read = v2.Compose([*steps, v2.ToDtype(torch.float32, True)])

    def plain(rows):
        return {"pixel_values": [read(x) for x in rows["image"]], "label": rows["label"]}

    def augmented(rows):
        images, labels = nfa(torch.stack(plain(rows)["pixel_values"]), torch.tensor(rows["label"]))
        return {"pixel_values": [*images], "label": labels.tolist()}

    in_collator = args.where == "collator"
    data["train"].set_transform(plain if in_collator else augmented)
    data["test"].set_transform(plain)
    settings = TrainingArguments(
        args.out, num_train_epochs=args.epochs, learning_rate=1e-3, eval_strategy="epoch",
        save_strategy="no", report_to="none", remove_unused_columns=False,
        label_names=["labels"], dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    model = ResNetForImageClassification(  # ResNet-18, without a download
        ResNetConfig(layer_type="basic", depths=[2] * 4, hidden_sizes=[64, 128, 256, 512],
                     num_labels=len(nfa.classes))
    )  # fmt: skip
    trainer = Trainer(
        model, settings, NFACollator(nfa if in_collator else None), data["train"], data["test"],
        compute_metrics=accuracy, callbacks=[OnlyInTraining(nfa)] if in_collator else None,
    )  # fmt: skip
    trainer.train()
    print({"accuracy": trainer.evaluate()["eval_accuracy"], **nfa.stats()})


if __name__ == "__main__":
    main()
