"""The commands of `nfaug`, with a module for each.

Its `parser()` makes the parser. Its `run(arguments)` returns figures or a text, or None on all
processes but the main one.
"""

__all__ = ["COMMANDS", "GROUPS", "TOPICS"]

#: What each command does, in the groups and the order of `nfaug --help`.
GROUPS = {
    "Try it on your images": {
        "compare": "measure which augmentation gains accuracy, and get advice",
        "preview": "draw images beside their variants, in a PNG file",
    },
    "Make a checkpoint": {
        "fit": "fit a checkpoint to your classes: one pass, no training",
        "train": "train a flow on your images",
    },
    "Use it in training": {
        "timm": "run timm's train.py, or a script like it, with NFA",
        "bank": "compute variants in advance, and store them on disk",
    },
    "Look into a checkpoint": {
        "info": "describe it: flow, classes, figures, cost",
        "eval": "measure bits/dim, accuracy and exactness on images",
        "sample": "draw random images of each class",
    },
    "Share it": {
        "push": "upload a checkpoint to the Hugging Face Hub",
        "pull": "download a checkpoint from the Hub",
        "list": "list the checkpoints on the Hub",
    },
    "Your shell": {
        "completion": "print the script that completes commands and options",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
#: What `nfaug help` explains besides commands: the functions of topics.py.
TOPICS = ("data",)
