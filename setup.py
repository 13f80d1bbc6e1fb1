"""The packages: nfaug/, and the folders that are installed as `nfaug.training` and `nfaug.hub`."""

from setuptools import find_packages, setup

FOLDERS = {"nfaug": "nfaug", "nfaug.training": "training", "nfaug.hub": "hub"}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in (package, *(f"{package}.{part}" for part in find_packages(folder)))
    ],
)
