# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Contradictions found when `main_ppo` starts, before Ray does: a Hydra callback that the groups of this package name.

Inside the cluster the same checks run once more, for launchers that bring their configuration another way. Those that
need the data files run here alone.
"""

from __future__ import annotations

import atexit
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_videomtr.checkpoints import TRACKER, say_how_to_resume
from verl_videomtr.sample import AGENT_NAME
from verl_videomtr.settings import load_settings
from verl_videomtr.verl_plugin.checks import BONUS_ESTIMATOR, ContradictionError, check_config, reward_config
from verl_videomtr.verl_plugin.cluster_watch import ClusterWatch, watch_cluster
from verl_videomtr.verl_plugin.compose import check_group_order

STOCK_MODES = ("sync", "colocate_async", "separate_async")
"""verl's own trainers; each has one of the plugin's on top of it, named `video_mtr_` and its name."""


class LaunchCheck(Callback):
    """Ends the program with one line and exit code 2 where the configuration contradicts itself; then watches Ray."""

    _watch: ClusterWatch | None = None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            check_group_order(HydraConfig.get().overrides.task)
            check_launch(config)
        except (ValueError, OSError) as error:
            # Hydra turns exceptions of a callback into warnings; leaving the program is not one.
            sys.stderr.write(f"verl_videomtr: {error}\n")
            raise SystemExit(2) from None
        self._watch = watch_cluster(config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        has_failed = job_return.status is not JobStatus.COMPLETED
        if self._watch is not None:
            self._watch.has_failed = has_failed
        root = str(OmegaConf.select(config, "trainer.default_local_dir"))
        advice = say_how_to_resume(root)
        # This package's own errors say it; Ray's, of a trainer that was killed, do not.
        if has_failed and (Path(root) / TRACKER).is_file() and advice not in str(job_return._return_value):
            # Behind the traceback, which Hydra prints after this.
            atexit.register(sys.stderr.write, f"verl_videomtr: the run has not reached its end; {advice}\n")


def check_launch(config: DictConfig) -> None:
    """Raise ContradictionError, or another ValueError, for the first contradiction."""
    check_config(config, load_settings(config))
    mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
    if str(config.algorithm.adv_estimator) == BONUS_ESTIMATOR and mode in STOCK_MODES:
        raise ContradictionError(
            f"algorithm.adv_estimator={BONUS_ESTIMATOR} with trainer.v1.trainer_mode={mode}, which hands the critic's "
            "values to no registered estimator; expected the plugin's own",
            overrides=[f"trainer.v1.trainer_mode=video_mtr_{mode}"],
        )
    _check_ground_truth(config)


def _check_ground_truth(config: DictConfig) -> None:
    """Turn-level rewards compare frames with ground truth: without any in the data they would silently be zero."""
    if OmegaConf.select(config, "actor_rollout_ref.rollout.agent.default_agent_loop") != AGENT_NAME:
        return  # verl's own loops know no turn-level rewards
    if OmegaConf.select(config, "trainer.val_only"):
        return  # nothing is trained: a benchmark needs no segments
    reward = reward_config(config)
    if reward is None or reward.accuracy_only or not reward.turn_level:
        return
    files = config.data.train_files
    for file in [files] if isinstance(files, str) else list(files or []):
        if _has_segments(file) is not False:
            return
    raise ValueError(
        f"data.train_files={files}: no row has ground-truth segments, so every turn-level reward would be 0; expected "
        "segments in extra_info of some rows; prepare grounded data (data_prep/README.md), or train without turn-level "
        "rewards: +videomtr/ablation=no_turn_reward"
    )


def _has_segments(file: str) -> bool | None:
    """Whether any row of a file has segments; None where that cannot be seen from here."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(file, columns=["extra_info"])["extra_info"].combine_chunks()
    except (OSError, KeyError, ValueError):
        return None  # a remote or missing file, or one of another form: verl says so itself
    if column.type.get_field_index("segments") < 0:
        return False
    return bool(pc.any(pc.is_valid(pc.struct_field(column, "segments"))).as_py())
