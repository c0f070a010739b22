# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that turn annotation files into the rows that verl trains and evaluates on; see README.md."""

from verl_videomtr.missing_packages import explain

try:
    import verl_videomtr.video.container  # noqa: F401  # what every command needs, and an old package breaks
except ImportError as error:
    if (reason := explain(error)) is None:
        raise
    raise SystemExit(f"data_prep: {reason}") from error
