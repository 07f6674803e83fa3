"""Adds jobs/ and configs/ to the package, so that a wheel holds every command and the configs that ship."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["echodfkd*"]), "echodfkd.jobs", "echodfkd.configs"],
    package_dir={"echodfkd.jobs": "jobs", "echodfkd.configs": "configs"},
)
