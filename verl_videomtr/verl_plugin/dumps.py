"""Trajectories of a run written out, one JSON line each, one file a step."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from verl_videomtr.settings import DumpConfig
from verl_videomtr.trajectory import Trajectory


def dump_step(config: DumpConfig, trajectories: Sequence[Trajectory], *, step: int, is_first: bool) -> None:
    """Write a share of a step's trajectories; nothing where no folder is configured.

    Args:
        is_first: whether this is the first batch of the step: a step that is trained again after a resumption
            replaces what it wrote before.
    """
    if not config.dir:
        return
    directory = Path(config.dir)
    directory.mkdir(parents=True, exist_ok=True)
    # By chance, not the first ones: verl has sorted the batch by length.
    kept = random.Random(step).sample(trajectories, round(config.share * len(trajectories)))
    lines = [json.dumps({"step": step, **trajectory.to_dict()}, ensure_ascii=False) + "\n" for trajectory in kept]
    with open(directory / f"step_{step:06d}.jsonl", "w" if is_first else "a", encoding="utf-8") as file:
        file.writelines(lines)
