# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Packaging of verl_videomtr. The verl entry point and the Hydra plug-in make an installation sufficient."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent


def requirements(name: str) -> list[str]:
    lines = (HERE / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith(("#", "-r"))]


# The one place where the supported range of verl stands is requirements/base.in.
VERL = next(line for line in requirements("base.in") if line.startswith("verl"))
# A decoder by name that nothing needs unless it is asked for.
DECORD = next(line for line in requirements("dev.in") if line.startswith("decord"))

setup(
    name="verl-videomtr",
    version=re.search(r'__version__ = "(.+)"', (HERE / "verl_videomtr/__init__.py").read_text(encoding="utf-8"))[1],
    description="Video-MTR for verl: train multimodal LLMs to look for evidence in long video",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    project_urls={"Paper": "https://arxiv.org/abs/2508.20478", "verl": "https://github.com/verl-project/verl"},
    keywords=["reinforcement learning", "video", "multimodal", "verl", "LLM"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10,<3.13",
    # `data_prep` keeps the name by which its commands are called. Recipes are scripts around these, run from a clone.
    packages=find_namespace_packages(include=["verl_videomtr*", "data_prep*", "hydra_plugins*"]),
    package_data={"verl_videomtr": ["conf/**/*.yaml", "prompts/*.yaml", "report/template/*"]},
    install_requires=requirements("base.in"),
    extras_require={
        "decord": [DECORD],
        "dev": requirements("dev.in"),
        "vllm": [VERL.replace("verl", "verl[vllm]", 1)],
    },
    entry_points={
        "verl.plugins": ["videomtr = verl_videomtr.verl_plugin.register"],
        "lmms_eval.models": ["video_mtr = verl_videomtr.integrations.lmms_eval:MANIFEST"],
        "console_scripts": ["videomtr = verl_videomtr.cli:main"],
    },
)
