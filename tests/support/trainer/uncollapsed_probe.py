# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The recording probe, in a run whose engine is sent images as the rows hold them: expanded, as verl alone does."""

import videomtr_probe  # noqa: F401
from wrapt import register_post_import_hook


def _send_rows_as_they_are(module):
    module.VideoMTRAgentLoop._as_sent = lambda self, ids, images: ids


register_post_import_hook(_send_rows_as_they_are, "verl_videomtr.verl_plugin.agent_loop")
