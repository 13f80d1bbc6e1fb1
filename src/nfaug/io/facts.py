"""The facts of a run: what its results depend on. A run goes on only under the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .atomic import write_text
from .errors import FileError, reading
from .strict_json import jsonable, read_json


class Facts(dict[str, Any]):
    """The facts of a run by name, as JSON values.

    Args:
        values: The facts; tuples become lists.

    Raises:
        TypeError: A value has a type that JSON lacks.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(jsonable(values))

    @classmethod
    def read(cls, file: Path) -> Facts:
        """The facts that `save` wrote.

        Raises:
            FileError: The file is no strict JSON object.
        """
        with reading(file):
            return cls(read_json(file))

    def save(self, file: Path) -> None:
        """Write the facts to a JSON file, whole or not at all."""
        write_text(file, json.dumps(self, indent=2))

    def sha256(self) -> str:
        """The hash of the facts, whatever their order and the layout of their file."""
        text = json.dumps(self, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_format(self, expected: int, what: str, cure: str) -> None:
        """Check the fact `format` of an earlier run, before its other facts are compared.

        Args:
            expected: The format that this version of nfaug reads.
            what: The earlier run, at the start of a sentence: "runs/a holds a comparison".
            cure: What to do about another format.

        Raises:
            FileError: The format is another.
        """
        found = self.get("format")
        if found != expected:
            raise FileError(
                f"{what} of another version of nfaug: its format is {found!r:.40}, and this "
                f"version reads {expected}. {cure}"
            )

    def check_same(self, saved: Mapping[str, Any], what: str, cure: str) -> None:
        """Compare these facts with those of an earlier run.

        Args:
            saved: The facts of the earlier run.
            what: As in `check_format`.
            cure: What to do about a difference.

        Raises:
            ValueError: A fact differs, or only one of the runs has it; the first that does is named
                with both values.
        """
        for name in {**self, **saved}:
            was = saved.get(name)
            now = self.get(name)
            if was != now:
                raise ValueError(
                    f"{what} of other images or settings: {name} was {was!r:.200} and is "
                    f"{now!r:.200}. {cure}"
                )
