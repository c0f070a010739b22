# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the examples of docs/appendix/doctor_examples.md: the doctor's output on good and broken configurations.

    python tests/support/write_doctor_examples.py

A tiny checkpoint and a few videos are made in a temporary folder, which the examples name by relative paths.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]
os.environ |= {"VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}

from doctor_setting import GROUPS, make_checkpoint, paths  # noqa: E402

from data_prep import synthetic  # noqa: E402
from verl_videomtr.verl_plugin.compose import ComposeError  # noqa: E402
from verl_videomtr.verl_plugin.doctor.examine import examine  # noqa: E402
from verl_videomtr.verl_plugin.doctor.findings import Level, summary  # noqa: E402

DOCUMENT = ROOT / "docs" / "appendix" / "doctor_examples.md"
BEGIN, END = "<!-- examples: written by tests/support/write_doctor_examples.py -->", "<!-- end of examples -->"
ROLLOUT, ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"

BROKEN = [
    ("A misspelt key", ["data.train_batchsize=16"]),
    ("A group that does not exist", ["+videomtr/budget=b100"]),
    ("A path that Hydra cannot read", ["actor_rollout_ref.model.path=~/models/Qwen2.5-VL-7B-Instruct"]),
    ("A setting out of its range", ["videomtr.credit.gamma_turn=1.5"]),
    ("The estimator without its critic", ["critic.enable=false"]),
    ("verl's trainer mode under the plugin's estimator", ["trainer.v1.trainer_mode=sync"]),
    ("A larger budget, and the lengths of the smaller one", ["videomtr.episode.frame_budget=128"]),
    ("Longer responses than the episode has room for", ["videomtr.max_response_tokens=64"]),
    ("Fewer images than an episode shows", [f"{ROLLOUT}.limit_images=8"]),
    ("Micro-batches that hold no whole row", [f"{ACTOR}.ppo_max_token_len_per_gpu=128"]),
    ("The critic's micro-batches, by the key that counts", ["critic.ppo_infer_max_token_len_per_gpu=128"]),
    (
        "Eight GPUs, and a mini-batch of twelve",
        ["trainer.n_gpus_per_node=8", "ray_kwargs.ray_init.num_cpus=64", f"{ACTOR}.ppo_mini_batch_size=12"],
    ),
    ("verl's default mini-batch", [f"{ACTOR}.ppo_mini_batch_size=256"]),
    ("The critic's path forgotten", ["critic.model.path='~/models/deepseek-llm-7b-chat'"]),
    ("A text model", ["actor_rollout_ref.model.path=text_only"]),
    ("Videos elsewhere than the root says", ["videomtr.video.root=model"]),
    ("More rows in a batch than in the file", ["data.train_batch_size=64"]),
    ("verl's attention defaults without flash-attn", ["actor_rollout_ref.model.use_remove_padding=true"]),
    ("Keys that nothing reads", ["algorithm.gamma=0.9", "trainer.balance_batch=false"]),
    ("Temperature zero in training", [f"{ROLLOUT}.temperature=0"]),
    ("A cache under a file", ["videomtr.video.cache.dir=data/train.parquet/cache"]),
]
"""What is wrong, and the overrides that make it so."""


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_setting()
        text = "\n".join([*example("A configuration that runs", [], every=True)])
        for title, overrides in BROKEN:
            text += "\n" + "\n".join(example(title, overrides))
        text = text.replace(str(Path(folder).resolve()), "/run")
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    DOCUMENT.write_text(f"{head}{BEGIN}\n\n{text}\n{END}{tail}", encoding="utf-8")
    return 0


def make_setting() -> None:
    """The files that the examples name."""
    arguments = ["--out", "data", "--seed", "1", "--num-train", "16", "--num-val", "4", "--num-test", "4"]
    code = synthetic.main([*arguments, "--pool-size", "64", "--num-scenes", "4", "--num-distractors", "3"])
    assert code == 0, code
    make_checkpoint(Path("model"))
    shutil.copytree("model", "text_only", ignore=shutil.ignore_patterns("*processor*"))


def example(title: str, overrides: list[str], *, every: bool = False) -> list[str]:
    """One run of the doctor, as Markdown."""
    shown = " ".join(overrides)
    lines = [f"### {title}", "", "```"] + ([f"videomtr doctor ... {shown}"] if overrides else ["videomtr doctor ..."])
    try:
        findings = examine([*GROUPS, *paths(Path("model"), Path("data")), *overrides], fresh=every)
    except ComposeError as error:
        return [*lines, f"videomtr doctor: {' '.join(str(error).split())}", "```", ""]
    order = list(Level)
    for finding in sorted(findings, key=lambda finding: order.index(finding.level)):
        if every or finding.level in (Level.ERROR, Level.WARNING):
            lines.append(finding.line())
    # How long it took is the machine's affair, and would change with every writing.
    return [*lines, summary(findings, seconds=0).removesuffix(" (0.0 s)"), "```", ""]


if __name__ == "__main__":
    sys.exit(main())
