# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What the plugin's unit tests stand on: verl's real agent-loop class and our own around a scripted server.

No Ray, no vLLM, no video: the server answers from a list, and frames are made on the spot. Tokenizer, processor, chat
template, verl's Continuous Token builder and configuration are the real ones.
"""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from doctor_setting import GROUPS, Composed, make_checkpoint
from omegaconf import open_dict
from rollout_setting import SAMPLE, MadeFrames
from verl.experimental.agent_loop.agent_loop import DictConfigWrap
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.utils.tokenizer import hf_processor, hf_tokenizer
from verl.workers.rollout.replica import TokenOutput

from verl_videomtr.sample import Sample
from verl_videomtr.trajectory import Trajectory
from verl_videomtr.verl_plugin import agent_loop
from verl_videomtr.verl_plugin.batch_rows import TRAJECTORY_FIELD

LOOK = "<think>red</think><retrieve>10,19</retrieve>"


@dataclasses.dataclass
class Call:
    """One request that the server got."""

    prompt_ids: list[int]
    token_ids: list[int]
    images: list[Any]
    max_tokens: int


class ScriptedEngine:
    """Answers with the responses of a list, in order.

    A response is a text, which ends with the tokenizer's end token, or a list of token ids as they are; or a dict of
    `TokenOutput` fields with a `text` or `token_ids`.
    """

    def __init__(self, tokenizer: Any, responses: list[Any]) -> None:
        self.tokenizer = tokenizer
        self.responses = list(responses)
        self.calls: list[Call] = []

    async def generate(self, request_id, *, prompt_ids, sampling_params, image_data=None) -> TokenOutput:
        response = self.responses.pop(0)
        fields = dict(response) if isinstance(response, dict) else {"text": response}
        text = fields.pop("text", None)
        ids = fields.pop("token_ids", text)
        if isinstance(ids, str):
            ids = [*self.tokenizer.encode(ids, add_special_tokens=False), self.tokenizer.eos_token_id]
        ids = list(ids)[: sampling_params["max_tokens"]]
        self.calls.append(
            Call(
                prompt_ids=list(prompt_ids),
                token_ids=ids,
                images=list(image_data or []),
                max_tokens=sampling_params["max_tokens"],
            )
        )
        # No log-probability of a real token is below -1e9: positions can be told apart by them.
        logprobs = [-1.0 - i for i in range(len(ids))]
        versions = {"global_steps": 1, "min_global_steps": 1, "max_global_steps": 1}
        return TokenOutput(
            **{
                "token_ids": ids,
                "log_probs": logprobs,
                "num_preempted": 0,
                "stop_reason": "completed",
                "extra_fields": versions,
                **fields,
            }
        )


def make_sample(**changes: Any) -> Sample:
    """A question on a video of 64 s."""
    values = {"video": "/videos/v.mp4", "duration_seconds": 64.0, "segments": ((10.0, 20.0),), **changes}
    return dataclasses.replace(SAMPLE, **values)


@dataclasses.dataclass(kw_only=True)
class LoopResult:
    """What one run of the agent loop gave."""

    outputs: list[Any]
    server: ScriptedEngine
    error: BaseException | None

    @property
    def trajectory(self) -> Trajectory:
        return Trajectory.from_dict(self.outputs[-1].extra_fields[TRAJECTORY_FIELD])

    @property
    def rows(self) -> list[list[int]]:
        return [output.prompt_ids + output.response_ids for output in self.outputs]


class LoopSetting:
    """Runs the real agent loop on scripted responses."""

    def __init__(self, model: Path, monkeypatch: pytest.MonkeyPatch, composed: Composed) -> None:
        self.model = model
        self.tokenizer = hf_tokenizer(str(model))
        self.processor = hf_processor(str(model))
        self._monkeypatch = monkeypatch
        self._composed = composed

    def config(self, *overrides: str) -> Any:
        config = self._composed.config(*overrides)
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"  # as the plugin's trainer leaves it for verl
        return config

    def loop(
        self, config: Any, responses: list[Any], *, frames: MadeFrames | None = None, reward_fn: Any = None
    ) -> Any:
        worker = agent_loop._WorkerState(config)
        worker.frames.close()
        worker.frames = frames or MadeFrames(worker.settings.episode.pool_size, duration_seconds=64.0)
        if reward_fn is not None:
            worker.reward_fn = reward_fn
        self._monkeypatch.setattr(agent_loop.VideoMTRAgentLoop, "_shared", worker)
        return agent_loop.VideoMTRAgentLoop(
            DictConfigWrap(config),
            ScriptedEngine(self.tokenizer, responses),
            self.tokenizer,
            self.processor,
            RLHFDataset,
            DictConfigWrap(config.data),
            hf_model_type="qwen2_5_vl",
        )

    def play(
        self,
        responses: list[Any],
        *overrides: str,
        sample: Sample | None = None,
        frames: MadeFrames | None = None,
        reward_fn: Any = None,
    ) -> LoopResult:
        """Play one episode; what the loop raises is kept, not raised."""
        row = (sample or make_sample()).to_row()
        row["raw_prompt"] = row.pop("prompt")
        del row["agent_name"]  # as verl's worker hands the row over

        async def run() -> LoopResult:
            loop = self.loop(self.config(*overrides), responses, frames=frames, reward_fn=reward_fn)
            try:
                outputs, error = await loop.run({}, **row, uid="u", session_id=0, global_steps=1), None
            except Exception as raised:
                outputs, error = [], raised
            return LoopResult(outputs=outputs, server=loop.server_manager, error=error)

        return asyncio.run(run())


@pytest.fixture(scope="session")
def plugin_model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("plugin_model") / "tiny")


@pytest.fixture(scope="session")
def plugin_composed(plugin_model) -> Composed:
    model = [f"actor_rollout_ref.model.path={plugin_model}", f"critic.model.path={plugin_model}"]
    return Composed([*GROUPS, *model])


@pytest.fixture
def setting(plugin_model, plugin_composed, monkeypatch) -> LoopSetting:
    return LoopSetting(plugin_model, monkeypatch, plugin_composed)
