# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Video-MTR for verl: train multimodal LLMs to look for evidence in long video.

Nothing is imported here on purpose. vLLM's workers import submodules of this package before verl is ready, and
verl imports the package in every one of its processes, so importing it must be free.
"""

__version__ = "0.1.0"
