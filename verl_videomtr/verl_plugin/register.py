# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Register everything with verl: the target of the `verl.plugins` entry point. Importing this module is enough.

verl imports plug-ins while it is itself half imported, in each of its dozen processes, and logs a failing one at
DEBUG only. So nothing heavy is imported here: each registration waits until verl imports the module that it belongs
to. Recipes also name this module in VERL_USE_EXTERNAL_MODULES, where a failure raises.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable

from wrapt import register_post_import_hook

import verl_videomtr.conf  # noqa: F401  # workers resolve configurations too

logger = logging.getLogger(__name__)
# As verl's own modules do, once for all of this package's.
logging.getLogger("verl_videomtr").setLevel(os.getenv("VERL_LOGGING_LEVEL", "INFO"))

AGENT_LOOP = "video_mtr"
_EDGE = "verl_videomtr.verl_plugin"


def _import_edge(name: str) -> Callable[[object], None]:
    """Make a hook that imports one of this package's modules."""

    def hook(_module: object) -> None:
        try:
            importlib.import_module(f"{_EDGE}.{name}")
        except BaseException:
            logger.exception("verl_videomtr: %s.%s could not be registered with verl", _EDGE, name)
            raise

    return hook


def _register_agent_loop(module: object) -> None:
    # A class path, not a class: verl instantiates it in the workers that need it.
    registry = module._agent_loop_registry  # type: ignore[attr-defined]
    registry[AGENT_LOOP] = {"_target_": f"{_EDGE}.agent_loop.VideoMTRAgentLoop"}


register_post_import_hook(_register_agent_loop, "verl.experimental.agent_loop.agent_loop")
register_post_import_hook(_import_edge("processors"), "verl.utils")
register_post_import_hook(_import_edge("device_patches"), "verl.utils.model")
register_post_import_hook(_import_edge("worker_columns"), "verl.utils.transferqueue_utils")
register_post_import_hook(_import_edge("estimators"), "verl.trainer.ppo.core_algos")
# The package, not its trainer_base: the stock trainers must be importable by then.
register_post_import_hook(_import_edge("trainers"), "verl.trainer.ppo.v1")
register_post_import_hook(_import_edge("verl_defects"), "verl.workers.engine_workers")
register_post_import_hook(_import_edge("tensor_defects"), "transfer_queue")
register_post_import_hook(_import_edge("weight_sockets"), "verl.workers.rollout.vllm_rollout")

if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
    # verl resolves its platform at the first use of a device, which is while it is being imported.
    importlib.import_module(f"{_EDGE}.cpu_platform")
