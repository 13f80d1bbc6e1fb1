"""The facts of a run: what was asked for, and by what code. A run goes on only under the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .atomic import write_text
from .errors import reading
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

    def check_same(self, saved: Mapping[str, Any], what: str, cure: str) -> None:
        """Compare these facts with those of an earlier run, which may have more.

        Args:
            saved: The facts of the earlier run.
            what: The earlier run, at the start of a sentence: "runs/a holds a comparison".
            cure: What to do about a difference.

        Raises:
            ValueError: A fact differs; the first that does is named with both values.
        """
        for name, value in self.items():
            if value != saved.get(name):
                raise ValueError(
                    f"{what} with other settings: {name} was {saved.get(name)!r:.200} and is "
                    f"{value!r:.200}. {cure}"
                )
