"""The rooms of the package and what each may import.

`ROOMS` is the map of the package. A new module must be added to it, with what it may import;
the table then fails when somebody takes a short cut through a wall. Standard library modules
are free. A name that starts with a dot is a module of nfaug.
"""

from __future__ import annotations

import ast
import graphlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"nfaug": "nfaug", "training": "nfaug.training", "hub": "nfaug.hub"}

# What the trainer may use: everything but the command line, the adapters and the Hub, which it
# reaches only through nfaug.checkpoint.load.
CORE = (
    ".atomic .augment .bank .batches .checkpoint .checks .codec .convert .fitting .fixed_point "
    ".fixed_point_config .fixed_point_rules .flow .gaussians .latents .matrix_exp .pca .preview "
    ".statistics"
)

# Module -> what it may import when it is imported, and what it may import besides in a function
# (or for annotations only). "name.*" stands for a folder whose modules share one rule.
ROOMS: dict[str, tuple[str, str]] = {
    # The mathematics: torch and each other, from the bottom up.
    "nfaug.codec": ("torch", ".autoencoder_config"),
    "nfaug.matrix_exp": ("torch", ""),
    "nfaug.layers": ("torch .matrix_exp", ""),
    "nfaug.coupling_net": ("torch .layers", ""),
    "nfaug.coupling": ("torch .coupling_net .layers .matrix_exp", ""),
    "nfaug.flow_config": ("", ""),
    "nfaug.autoencoder_config": ("", ""),
    "nfaug.autoencoder": ("torch .autoencoder_config", "diffusers huggingface_hub"),
    "nfaug.latents": ("torch .autoencoder .autoencoder_config .codec .flow_config", ""),
    "nfaug.flow": ("torch .codec .coupling .flow_config .layers", ".checkpoint"),
    "nfaug.gaussians": ("torch", ""),
    "nfaug.statistics": ("torch", ""),
    "nfaug.fixed_point_config": ("torch", ""),
    "nfaug.fixed_point_rules": ("torch .gaussians", ""),
    "nfaug.fixed_point_anderson": ("torch", ""),
    "nfaug.fixed_point_loop": ("torch .fixed_point_anderson .fixed_point_config", ""),
    "nfaug.fixed_point_means": (
        "torch .fixed_point_config .fixed_point_loop .fixed_point_rules .gaussians",
        "",
    ),
    "nfaug.fixed_point": (
        "torch .fixed_point_config .fixed_point_loop .fixed_point_means .fixed_point_rules "
        ".gaussians",
        "",
    ),
    "nfaug.fixed_point_dense_rules": ("torch .fixed_point_rules", ""),
    "nfaug.fixed_point_dense": (
        "torch .fixed_point .fixed_point_config .fixed_point_dense_rules .fixed_point_loop "
        ".fixed_point_rules",
        "",
    ),
    "nfaug.classwise": ("torch", ""),
    "nfaug.pca": ("torch .classwise", ""),
    # Files and data sets.
    "nfaug.atomic": ("", ""),
    "nfaug.bundled": ("", ""),
    "nfaug.jsonable": ("", ""),
    "nfaug.checks": ("", ""),
    "nfaug.batches": ("torch tqdm", ".training.images"),
    "nfaug.checkpoint_files": ("", ""),
    "nfaug.checkpoint_config": (
        ".autoencoder_config .checkpoint_files .flow_config .jsonable",
        ".",
    ),
    "nfaug.tensor_files": ("torch safetensors .checkpoint_files .jsonable", ""),
    "nfaug.checkpoint_pca": (
        "torch .checkpoint_config .checkpoint_files .classwise .tensor_files",
        "",
    ),
    "nfaug.checkpoint": (
        "torch .atomic .bundled .checkpoint_config .checkpoint_files .checkpoint_pca .codec "
        ".flow .flow_config .gaussians .pca .tensor_files",
        ". .hub.pull .latents",
    ),
    # What people use.
    "nfaug.counters": ("torch", ""),
    "nfaug.draws": ("torch", ""),
    "nfaug.labels": ("torch", ""),
    "nfaug.pixels": ("torch", ""),
    "nfaug.sample": ("torch", ""),
    "nfaug.switch": ("torch", ""),
    "nfaug.engine": ("torch .classwise .codec .draws .flow .gaussians .pixels", ""),
    "nfaug.augment_checks": ("torch .checks .draws .engine", ""),
    "nfaug.augment": (
        "torch .augment_checks .checks .counters .draws .engine .labels .pixels .sample .switch",
        ".checkpoint",
    ),
    "nfaug.bank_format": ("torch numpy .atomic", ""),
    "nfaug.bank_dataset": ("torch numpy PIL .bank_format .checks .switch", ""),
    "nfaug.bank_export": ("numpy PIL tqdm .bank_format", ""),
    "nfaug.bank": (
        "torch numpy tqdm .atomic .augment .bank_dataset .bank_export .bank_format .checks",
        "",
    ),
    "nfaug.fitting": (
        "torch tqdm .batches .checkpoint .codec .fixed_point .fixed_point_config .flow .gaussians "
        ".pca .statistics",
        ".training.data",
    ),
    "nfaug.invertibility": ("torch .codec .flow", ""),
    "nfaug.views": ("torch numpy PIL .augment .bank_format .checks .pixels", ""),
    "nfaug.torch_zip": ("torch", ""),
    "nfaug.convert": ("torch .flow .flow_config .gaussians .torch_zip", ""),
    "nfaug.preview": ("torch PIL tqdm .augment .checkpoint .codec .flow .gaussians .pca", ""),
    "nfaug": (".augment .checkpoint .codec .fitting .fixed_point .flow .gaussians .pca", ""),
    # The command line: a verb's module, and all that it needs, is imported when it is called.
    "nfaug.cli": (".jsonable", "."),
    "nfaug.__main__": (".cli", ""),
    "nfaug.commands.*": (
        "jsonargparse torch PIL tqdm yaml .checkpoint_files .commands.* .jsonable .training.* "
        + CORE,
        ". .hub.* .integrations.* .invertibility .views",
    ),
    # The adapters: the one place where the libraries of others are met.
    "nfaug.integrations": ("", ""),
    "nfaug.integrations.timm": (
        ".integrations.timm_loader .integrations.timm_script .integrations.timm_transforms",
        "",
    ),
    "nfaug.integrations.timm_transforms": ("timm", ""),
    "nfaug.integrations.timm_loader": ("torch timm .augment .bank", ""),
    "nfaug.integrations.timm_script": ("torch timm .augment .integrations.timm_loader", ""),
    "nfaug.integrations.torchvision": ("torch torchvision .augment .bank", ""),
    "nfaug.integrations.albumentations": (
        "torch numpy albumentations .augment .augment_checks .bank .checks",
        "",
    ),
    # Training knows nothing of the Hub, and the Hub nothing of training.
    "nfaug.training.__main__": (".cli", ""),
    "nfaug.training.*": (
        "torch torchvision numpy PIL tqdm safetensors ema_pytorch .coupling_net .flow_config "
        ".jsonable .layers .tensor_files .training.* " + CORE,
        ". accelerate diffusers jsonargparse matplotlib sklearn tensorboard timm yaml",
    ),
    "nfaug.hub.*": (
        "torch huggingface_hub .atomic .checkpoint .checkpoint_config .checkpoint_files .hub.* "
        ".tensor_files",
        ".",
    ),
}

# Where the distribution that brings a module has another name.
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# Only these may ask for an extra when they are imported.
NEED_AN_EXTRA = ("nfaug.training", "nfaug.integrations")
# What `import nfaug` must never bring in.
HEAVY = ("accelerate", "albumentations", "diffusers", "ema_pytorch", "matplotlib", "timm")


class Import(NamedTuple):
    """One imported module and where the import stands."""

    module: str
    line: int
    lazy: bool
    relative: bool


def find_modules() -> dict[str, Path]:
    """Dotted name -> file, for every module of the three folders."""
    modules = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            modules[".".join((package, *parts))] = path
    return modules


MODULES = find_modules()


def imports(module: str) -> list[Import]:
    """All imports of a module, those in functions and under TYPE_CHECKING marked lazy."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return list(walk(ast.parse(path.read_text(encoding="utf-8")), package, lazy=False))


def walk(node: ast.AST, package: str, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, lazy, relative=False)
        elif isinstance(child, ast.ImportFrom):
            name = "." * child.level + (child.module or "")
            base = importlib.util.resolve_name(name, package)
            for alias in child.names:
                # `from . import flow` names a module, `from .flow import Flow` does not.
                whole = f"{base}.{alias.name}"
                target = whole if whole in MODULES else base
                yield Import(target, child.lineno, lazy, relative=child.level > 0)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from walk(child, package, lazy=lazy or inside or for_types)


def internal(name: str) -> bool:
    return name == "nfaug" or name.startswith("nfaug.")


def rule(module: str) -> str | None:
    """The entry of the table that a module falls under."""
    if module in ROOMS:
        return module
    return next((key for key in ROOMS if key.endswith(".*") and within(module, key)), None)


def within(module: str, pattern: str) -> bool:
    """Whether a dotted name is the pattern, or in the folder that "name.*" stands for."""
    if pattern.endswith(".*"):
        return module == pattern[:-2] or module.startswith(pattern[:-1])
    return module == pattern


def allowed(found: Import, module: str) -> bool:
    eager, lazy = ROOMS[rule(module) or module]
    names = (eager + " " + lazy if found.lazy else eager).split()
    if not internal(found.module):
        root = found.module.partition(".")[0]
        return root in names or root in sys.stdlib_module_names
    rooms = ["nfaug" + name.rstrip(".") for name in names if name.startswith(".")]
    return any(within(found.module, room) for room in rooms)


@pytest.mark.parametrize("module", MODULES)
def test_module_stays_in_its_room(module: str) -> None:
    assert rule(module), f"{module} is not in the table of tests/test_imports.py: add it"
    broken = [
        f"{MODULES[module].relative_to(ROOT)}:{found.line} imports {found.module}"
        + (" in a function" if found.lazy else "")
        for found in imports(module)
        if not allowed(found, module)
    ]
    assert not broken, "not allowed by the table: " + "; ".join(broken)


def test_table_has_no_stale_entry() -> None:
    stale = [key for key in ROOMS if not any(within(module, key) for module in MODULES)]
    assert not stale, f"no such module any more: {stale}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_inside_the_package_are_relative(module: str) -> None:
    """`import training` from the repository's root must fail, not make a second copy."""
    absolute = [found for found in imports(module) if internal(found.module) != found.relative]
    assert not absolute


def test_modules_import_each_other_in_one_direction() -> None:
    graph = {
        module: {found.module for found in imports(module) if not found.lazy} & set(MODULES)
        for module in MODULES
    }
    # A package runs before its modules, so an import of its own package is no edge.
    edges = {
        module: {target for target in targets if not module.startswith(target + ".")}
        for module, targets in graph.items()
    }
    graphlib.TopologicalSorter(edges).prepare()


def test_every_library_is_declared() -> None:
    """Core modules need core dependencies only; an extra is for training and the adapters."""
    core, extra = set(), set()
    for requirement in importlib.metadata.requires("nfaug") or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        (extra if "extra ==" in requirement else core).add(name)
    missing = []
    for module in MODULES:
        for found in imports(module):
            root = found.module.partition(".")[0]
            if root == "nfaug" or root in sys.stdlib_module_names:
                continue
            name = DISTRIBUTIONS.get(root, root).lower().replace("_", "-")
            may_need_extra = found.lazy or module.startswith(NEED_AN_EXTRA)
            if name not in core and not (may_need_extra and name in extra):
                missing.append(f"{module}:{found.line} {root}")
    assert not missing, f"no dependency in pyproject.toml brings {missing}"


def test_import_nfaug_is_light() -> None:
    code = "import sys, nfaug; print(*sys.modules, sep='\\n')"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = run.stdout.split()
    assert "nfaug.flow" in loaded
    found = [name for name in loaded if name.partition(".")[0] in HEAVY]
    found += [name for name in loaded if name.startswith(("nfaug.training", "nfaug.integrations"))]
    assert not found, f"import nfaug also imports {found}"


def test_folder_is_no_package_of_its_own() -> None:
    """From the repository's root, `training` is importable by accident: it must fail loudly."""
    run = subprocess.run(
        [sys.executable, "-c", "import training.config"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "attempted relative import beyond top-level package" in run.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_use_what_is_public(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
    public = ("nfaug", "nfaug.bank", "nfaug.training", "nfaug.training.config", "nfaug.hub",
              "nfaug.integrations.*")  # fmt: skip
    for found in walk(ast.parse(text), "", lazy=False):
        allowed_name = any(within(found.module, room) for room in public)
        assert not internal(found.module) or allowed_name, f"line {found.line}: {found.module}"


@pytest.mark.parametrize(
    ("text", "module", "expected"),
    [
        ("import timm.data", "nfaug.flow", "timm.data"),
        ("from .gaussians import ClassGaussians", "nfaug.flow", "nfaug.gaussians"),
        ("from . import statistics", "nfaug.flow", "nfaug.statistics"),
        ("if True:\n    import timm", "nfaug.augment", "timm"),
        ("def f():\n    from ..hub import push", "nfaug.training.config", "nfaug.hub.push"),
        ("def f():\n    from ..training import config", "nfaug.hub.x", "nfaug.training.config"),
    ],
)
def test_a_wrong_import_is_seen(text: str, module: str, expected: str) -> None:
    (found,) = walk(ast.parse(text), module.rpartition(".")[0], lazy=False)
    assert found.module == expected
    assert found.lazy == text.startswith("def")
    assert not allowed(found, module)
