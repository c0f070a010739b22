# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The tool in verl's own `tool_agent` loop: real loop, template, tokens and video; only the model's words are given.

A run of the trainer with a model that makes the calls itself is in e2e/test_retrieve_tool.py.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import awkward_videos as awkward
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict

from verl_videomtr.rewards import compute_score
from verl_videomtr.sample import Sample, write_rows
from verl_videomtr.verl_plugin.tool_dataset import (
    ToolCallDataset,
    check_template,
    check_tool_settings,
)
from verl_videomtr.video.errors import VideoError

sys.path.insert(0, str(Path(__file__).parents[1] / "support/trainer"))
from make_tool_model import PROMPTS, load_schemas, make_tool_processor, write_call

ANSWER = "<think>seen</think><answer>A</answer>"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    awkward.write_video(folder / "counted.mp4", count=80)
    (folder / "broken.mp4").write_bytes(b"no video" * 200)
    return folder


@pytest.fixture(scope="module")
def config(videos):
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(
            "ppo_trainer",
            overrides=["+videomtr=paper", "+videomtr/loop=tool_agent", "+videomtr/model=tiny"]
            + [f"videomtr.prompts={PROMPTS}", f"videomtr.video.root={videos}"]
            + ["data.max_prompt_length=1024", "actor_rollout_ref.rollout.max_model_len=2048"],
        )


@pytest.fixture(scope="module")
def processor():
    return make_tool_processor()


@pytest.fixture
def dataset(config, processor, tmp_path):
    samples = [make_sample(index, video) for index, video in enumerate(["counted.mp4", "broken.mp4"])]
    path = write_rows(tmp_path / "rows.parquet", samples)
    return ToolCallDataset(data_files=str(path), tokenizer=processor.tokenizer, processor=processor, config=config.data)


@pytest.fixture(autouse=True)
async def _fresh_worker():
    """A frame service belongs to one event loop, and each test has its own."""
    ToolCallDataset._shared = None
    yield
    if ToolCallDataset._shared is not None:
        ToolCallDataset._shared.frames.close()
        ToolCallDataset._shared = None


def make_sample(index, video):
    return Sample(
        data_source="test",
        sample_id=f"t-{index}",
        index=index,
        split="train",
        video=video,
        duration_seconds=80 / 24,
        question="Which shape?",
        options=("cross", "dot"),
        answer="A",
        question_type="multiple_choice",
        segments=((0.5, 1.0),),
    )


class ToolEngine:
    """In the language model's place: gives the words, and keeps what it was asked with."""

    def __init__(self, tokenizer, responses, meanwhile):
        self.tokenizer, self.responses, self.requests = tokenizer, list(responses), []
        self.meanwhile = meanwhile

    async def generate(self, *, prompt_ids, image_data, **_):
        self.requests.append((list(prompt_ids), list(image_data or ())))
        self.meanwhile()
        ids = self.tokenizer.encode(self.responses.pop(0) + "<|im_end|>", add_special_tokens=False)
        return SimpleNamespace(
            token_ids=ids,
            log_probs=[-0.5] * len(ids),
            num_preempted=0,
            routed_experts=None,
            extra_fields={"min_global_steps": 1, "max_global_steps": 1},
        )


async def play(config, processor, row, responses, meanwhile=lambda: None):
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
    from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
    from verl.tools.tool_registry import load_all_tools

    server = ToolEngine(processor.tokenizer, responses, meanwhile)
    loop = ToolAgentLoop(
        trainer_config=DictConfigWrap(config),
        server_manager=server,
        tokenizer=processor.tokenizer,
        processor=processor,
        dataset_cls=ToolCallDataset,
        data_config=DictConfigWrap(config.data),
        hf_model_type="qwen2_5_vl",
        tools=ToolListWrap(load_all_tools(config.actor_rollout_ref.rollout.multi_turn.tool_config_path, None)),
    )
    return await loop.run({}, **row), server


def text_of(processor, ids):
    return processor.tokenizer.decode(ids, skip_special_tokens=True)


def test_row_keeps_its_prompt_textual_and_names_the_loop(dataset):
    row = dataset[0]
    assert row["agent_name"] == "tool_agent"
    assert row["raw_prompt"][0]["content"] == "Which shape?\nA. cross\nB. dot"
    assert row["index"] == 0


async def test_episode_of_two_calls_and_an_answer(config, processor, dataset):
    output, server = await play(
        config, processor, dataset[0], [f"<think>?</think>{write_call(0, 15)}", write_call(40, 50), ANSWER]
    )
    tokenizer = processor.tokenizer
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    # Overview of 8, then 4 and 4: all of the budget of 16.
    assert [len(images) for _, images in server.requests] == [8, 12, 16]
    assert [ids.count(image) for ids, _ in server.requests] == [8, 12, 16]
    assert len(output.multi_modal_data["images"]) == 16
    assert output.prompt_ids.count(image) == 8
    assert output.response_ids.count(image) == 8
    # What was trained is what was sampled from: each request is a prefix of the trajectory.
    whole = output.prompt_ids + output.response_ids
    assert all(whole[: len(ids)] == ids for ids, _ in server.requests)
    sampled = [token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert text_of(processor, sampled) == f"<think>?</think>{write_call(0, 15)}{write_call(40, 50)}{ANSWER}"
    assert image not in sampled
    said = text_of(processor, output.response_ids)
    assert said.count("Which shape?") == 2
    assert "Looks left: 1" in said
    assert "Answer now." in said
    record = output.extra_fields["retrieve_frames"]
    assert record["ranges"] == [[0, 15], [40, 50]]
    assert record["frames"][1:] == [[0, 5, 10, 15]]
    assert output.extra_fields["max_global_steps"] == 1
    assert "retrieve_frames" in text_of(processor, output.prompt_ids)


async def test_reward_without_an_episode_reads_the_last_message(config, processor, dataset):
    row = dataset[0]
    output, _ = await play(config, processor, row, [f"<answer>A</answer>{write_call(0, 15)}", "<think>?</think>B"])
    # What verl's reward manager hands over: the whole response, and the loop's extra fields beside the row's.
    info = {**row["extra_info"], **output.extra_fields}
    scored = compute_score("test", text_of(processor, output.response_ids), "A", info)
    assert scored == {"score": 0.0, "acc": 0.0, "format": 0.0}
    output, _ = await play(config, processor, row, [write_call(0, 15), ANSWER])
    scored = compute_score("test", text_of(processor, output.response_ids), "A", info)
    assert scored == {"score": 1.1, "acc": 1.0, "format": 0.1}


async def test_unusable_calls_are_told_so_and_cost_their_turn(config, processor, dataset):
    wrong_name = write_call(0, 3).replace("retrieve_frames", "look")
    output, server = await play(config, processor, dataset[0], [wrong_name, write_call(9, 3), ANSWER])
    said = text_of(processor, output.response_ids)
    assert "Unknown function 'look'" in said
    assert "runs backwards" in said
    assert "Answer now." in said
    assert [len(images) for _, images in server.requests] == [8, 8, 8]
    assert output.extra_fields["retrieve_frames"]["actions"] == ["invalid", "invalid"]


async def test_loop_ends_with_the_last_turn_whatever_it_holds(config, processor, dataset):
    output, server = await play(config, processor, dataset[0], [write_call(0, 3)] * 3)
    assert len(server.requests) == 3
    assert output.extra_fields["retrieve_frames"]["actions"] == ["retrieve", "retrieve"]


async def test_unreadable_video_ends_the_trajectory_before_it_begins(config, processor, dataset, caplog):
    with pytest.raises(VideoError, match=r"broken\.mp4"):
        await play(config, processor, dataset[1], [])
    assert "sample 't-1' of 'test' is left out" in caplog.text


async def test_video_that_fails_behind_the_overview_ends_the_trajectory(config, processor, dataset, videos, tmp_path):
    # verl would tell the policy of an error in a tool, and train on it.
    video = videos / "vanishing.mp4"
    awkward.write_video(video, count=80)
    sample = make_sample(0, "vanishing.mp4")
    path = write_rows(tmp_path / "one.parquet", [sample])
    dataset.data_files = [str(path)]
    dataset._read_files_and_tokenize()

    with pytest.raises(VideoError, match=r"vanishing\.mp4"):
        await play(
            config,
            processor,
            dataset[0],
            [write_call(0, 15), ANSWER],
            meanwhile=lambda: video.write_bytes(b"gone"),
        )


async def test_call_without_an_episode_ends_the_trajectory(config, processor, dataset):
    row = {**dataset[0], "raw_prompt": [{"role": "user", "content": [{"type": "text", "text": "?"}]}]}
    with pytest.raises(RuntimeError, match=r"without an episode.*\+videomtr/loop=tool_agent"):
        await play(config, processor, row, [write_call(0, 15)])


MULTI_TURN = "actor_rollout_ref__rollout__multi_turn"


def override(config, **values):
    changed = copy.deepcopy(config)
    with open_dict(changed):
        for key, value in values.items():
            OmegaConf.update(changed, key.replace("__", "."), value, force_add=True)
    return changed.data


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"videomtr__episode__max_turns": 1}, r"leaves no turn for a call.*set videomtr\.episode\.max_turns=3"),
        ({"videomtr__episode__window": 1}, r"keeps every turn.*set videomtr\.episode\.window=2"),
        ({f"{MULTI_TURN}__max_assistant_turns": 5}, "expected the same.*max_assistant_turns=3"),
        ({f"{MULTI_TURN}__max_parallel_calls": 2}, "max_parallel_calls=1"),
        ({"videomtr__episode__unit": "seconds"}, r"expected number.*_seconds\.yaml"),
    ],
)
def test_contradiction_stops_at_the_start(config, values, message):
    with pytest.raises(ValueError, match=message):
        check_tool_settings(override(config, **values), load_schemas())


def test_missing_parts_and_tool_stop_at_the_start(config):
    with pytest.raises(ValueError, match=r"data\.videomtr is missing.*add \+videomtr/loop=tool_agent"):
        check_tool_settings(OmegaConf.create({}), load_schemas())
    with pytest.raises(ValueError, match=r"gives the tools \[\]; expected retrieve_frames"):
        check_tool_settings(config.data, None)


def test_template_without_tools_stops_at_the_start(processor):
    from recipes.learning_study.tiny_model import make_processor

    check_template(processor, load_schemas())
    with pytest.raises(ValueError, match="leaves out tools"):
        check_template(make_processor(), load_schemas())


def test_both_tool_files_load_in_verl(config):
    from verl.tools.tool_registry import load_all_tools

    folder = Path(config.actor_rollout_ref.rollout.multi_turn.tool_config_path).parent
    files = sorted(folder.glob("retrieve_frames_*.yaml"))
    assert [file.stem.rsplit("_", 1)[1] for file in files] == ["index", "seconds"]
    for file, kind in zip(files, ("integer", "number"), strict=True):
        (tool,) = load_all_tools(str(file), None)
        assert tool.name == "retrieve_frames"
        assert {p.type for p in tool.tool_schema.function.parameters.properties.values()} == {kind}
