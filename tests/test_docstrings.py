"""Docstrings of public names are complete and their examples run; settings have their lines."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

import nfaug
from nfaug.augment.config import MixConfig
from nfaug.flows.mef_config import MefConfig

SOURCE = Path(__file__).resolve().parent.parent / "src"
# What the API reference says that its examples assume. Examples of methods continue that of their
# class.
NAMES = {"PIL": PIL, "nfaug": nfaug, "torch": torch}
PUBLIC = (
    "nfaug",
    "nfaug.bank",
    "nfaug.classes.fixed_point",
    "nfaug.compare",
    "nfaug.hub",
    "nfaug.integrations.albumentations",
    "nfaug.integrations.timm",
    "nfaug.integrations.torchvision",
    "nfaug.pictures",
    "nfaug.training",
)

# The library that a module needs, where not every set of extras has it.
LIBRARIES = {"nfaug.integrations.albumentations": "albumentations"}


def is_installed(module: str) -> bool:
    return module not in LIBRARIES or importlib.util.find_spec(LIBRARIES[module]) is not None


def public_callables() -> dict[str, Any]:
    """Functions and classes in `__all__` of the public modules, and the methods of the classes.

    A method that a library calls, such as `extra_repr`, has its text in that library.
    """
    found: dict[str, Any] = {}
    for module_name in filter(is_installed, PUBLIC):
        module = importlib.import_module(module_name)
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value):  # a version
                continue
            found[f"{value.__module__}:{value.__qualname__}"] = value
            if inspect.isclass(value):
                found.update(public_methods(value))
    return found


def public_methods(cls: type) -> dict[str, Any]:
    methods = {}
    for name, member in vars(cls).items():
        method = member.__func__ if isinstance(member, classmethod) else member
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        others = [base for base in cls.__mro__ if not base.__module__.startswith("nfaug")]
        called_by_library = any(name in vars(base) for base in others) and name != "forward"
        if called_by_library and method.__doc__ is None:
            continue
        methods[f"{cls.__module__}:{cls.__qualname__}.{name}"] = method
    return methods


# Methods that a library calls, which have a text of their own.
OF_LIBRARIES = {
    "nfaug.integrations.albumentations:NFATransform.apply",
    "nfaug.integrations.albumentations:NFATransform.get_params_dependent_on_data",
}
CALLABLES = {name: value for name, value in public_callables().items() if name not in OF_LIBRARIES}


def takes_arguments(value: Any) -> bool:
    is_class = inspect.isclass(value)
    if is_class and issubclass(value, BaseException) and "__init__" not in vars(value):
        return False  # it takes a message, as Python's own
    names = list(inspect.signature(value).parameters)
    return any(name not in ("self", "cls") for name in names)


def returns_something(value: Any) -> bool:
    return not inspect.isclass(value) and value.__annotations__.get("return") != "None"


def raises(value: Any) -> bool:
    """Whether its own statements raise; not those of what it calls."""
    function = value
    if inspect.isclass(value):
        made_by_dataclass = dataclasses.is_dataclass(value)
        function = vars(value).get("__post_init__" if made_by_dataclass else "__init__")
    if function is None:
        return False
    function = inspect.unwrap(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree))


@pytest.mark.parametrize("name", CALLABLES)
def test_a_public_callable_is_documented(name: str) -> None:
    value = CALLABLES[name]
    doc = inspect.cleandoc(value.__doc__ or "")
    headings = {line.strip() for line in doc.splitlines()}
    missing = []
    if takes_arguments(value) and not headings & {"Args:", "Attributes:"}:
        missing.append("Args:")
    if returns_something(value) and not headings & {"Returns:", "Yields:"}:
        missing.append("Returns:")
    if raises(value) and "Raises:" not in headings:
        missing.append("Raises:")
    is_method = "." in name.partition(":")[2]
    if not is_method and ("Example:" not in headings or ">>> " not in doc):
        missing.append("Example:")
    assert missing == []
    assert doc[0].isupper() or doc[0] == "`", "a sentence"


def examples() -> dict[str, list[tuple[str, Any, str]]]:
    """The docstrings with examples, for each module: classes before their methods."""
    found: dict[str, list[tuple[str, Any, str]]] = {}
    for path in sorted((SOURCE / "nfaug").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>> " not in text:
            continue
        parts = path.relative_to(SOURCE).with_suffix("").parts
        module = ".".join(name for name in parts if name != "__init__")
        found[module] = []
        tree = ast.parse(text)
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found[module].append((node.name, node.name, ast.get_docstring(node) or ""))
                for part in node.body:
                    if isinstance(part, ast.FunctionDef):
                        doc = ast.get_docstring(part) or ""
                        found[module].append((f"{node.name}.{part.name}", node.name, doc))
            elif isinstance(node, ast.FunctionDef):
                found[module].append((node.name, None, ast.get_docstring(node) or ""))
        assert sum(doc.count(">>> ") for _, _, doc in found[module]) == text.count(">>> ")
    return found


EXAMPLES = {module: found for module, found in examples().items() if is_installed(module)}


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An example of a method continues that of its class."""
    monkeypatch.chdir(tmp_path)
    parser = doctest.DocTestParser()
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    runner = doctest.DocTestRunner(optionflags=flags)
    of_class: dict[str, dict[str, Any]] = {}
    names = vars(importlib.import_module(module)) | NAMES
    for name, owner, doc in EXAMPLES[module]:
        test = parser.get_doctest(doc, dict(of_class.get(owner, names)), name, module, 0)
        if not test.examples:
            continue
        runner.run(test, clear_globs=False)
        if name == owner:
            of_class[name] = test.globs
    assert runner.tries > 0
    assert runner.failures == 0


@pytest.mark.parametrize(
    ("documented", "names"),
    [
        (MixConfig, [field.name for field in dataclasses.fields(MixConfig)]),
        (MefConfig, [field.name for field in dataclasses.fields(MefConfig)]),
    ],
)
def test_each_setting_has_an_entry(documented: type, names: Sequence[str]) -> None:
    doc = inspect.cleandoc(documented.__doc__ or "")
    assert [name for name in names if f"\n    {name}: " not in doc] == []
