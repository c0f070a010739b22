# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Hydra finds this by its place: it puts the package's groups on every application's search path.

So `+videomtr=paper` composes on verl's stock trainer as soon as the package is installed.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class VideoMTRSearchPath(SearchPathPlugin):
    """Appends `verl_videomtr/conf`; a user's own groups of the same name come first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="verl_videomtr", path="pkg://verl_videomtr.conf")
