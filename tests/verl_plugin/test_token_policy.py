# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The token side of an episode: every response is trained exactly where it was sampled, and nothing else is."""

from __future__ import annotations

import dataclasses

import pytest
from plugin_setting import LOOK
from rollout_setting import ANSWER

from verl_videomtr.verl_plugin.turn_end import TurnEnd, read_turn_end

pytest_plugins = ["plugin_setting"]

FIVE_TURNS = ["videomtr.episode.max_turns=5", "videomtr.episode.initial_frames=6"]


@pytest.mark.parametrize("window", [0, 1, 2, 4])
def test_every_request_is_a_prefix_of_the_row_that_trains_its_response(setting, window):
    played = setting.play([LOOK] * 4 + [ANSWER], *FIVE_TURNS, f"videomtr.episode.window={window}")
    trajectory = played.trajectory
    assert len(played.rows) == 5 - window
    for turn, call in enumerate(played.server.calls):
        row, (start, end) = trajectory.turn_rows[turn], trajectory.turn_spans[turn]
        output, ids = played.outputs[row], played.rows[row]
        at = len(output.prompt_ids) + start
        assert ids[:at] == call.prompt_ids
        assert ids[at : at + end - start] == call.token_ids
        assert output.response_mask[start:end] == [1] * (end - start)
        assert output.response_logprobs[start:end] == [-1.0 - i for i in range(end - start)]
    for output in played.outputs:
        assert len(output.response_mask) == len(output.response_ids) == len(output.response_logprobs)
    sampled = sum(len(call.token_ids) for call in played.server.calls)
    assert sum(sum(output.response_mask) for output in played.outputs) == sampled


def test_markov_context_holds_the_newest_observation_alone(setting):
    played = setting.play([LOOK, LOOK, ANSWER], "videomtr.episode.window=0", "videomtr.episode.initial_frames=6")
    assert [len(call.images) for call in played.server.calls] == [6, 5, 5]
    brightness = [int(call.images[0][0, 0, 0]) for call in played.server.calls[1:]]
    assert brightness == [10, 10]


def test_context_is_the_templates_own_rendering(setting):
    played = setting.play([LOOK, LOOK, ANSWER])
    (row,) = played.rows
    text = setting.tokenizer.decode(row)
    assert text.count("<|im_end|>\n<|im_start|>user") == 2
    assert text.count("<|im_start|>assistant\n<think>") == 3


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|im_end|>", ""])
def test_every_turn_is_closed_as_the_template_closes_it(setting, end):
    ids = setting.tokenizer.encode(LOOK + end, add_special_tokens=False)
    overrides = [] if end else [f"videomtr.max_response_tokens={len(ids)}"]
    played = setting.play([ids, ANSWER], *overrides)
    before_next = played.server.calls[1].prompt_ids
    shown = setting.tokenizer.decode(before_next)
    foreign = end if end != "<|im_end|>" else ""
    assert f"</retrieve>{foreign}<|im_end|>\n<|im_start|>user" in shown
    # What the template adds was not sampled.
    start, stop = played.trajectory.turn_spans[0]
    assert stop - start == len(ids)
    assert played.outputs[0].response_mask[stop] == 0


def test_end_tokens_alone_are_left_out_of_the_text(setting):
    ids = [*setting.tokenizer.encode("<|object_ref_start|>" + ANSWER, add_special_tokens=False)]
    played = setting.play([[*ids, setting.tokenizer.eos_token_id]])
    assert played.trajectory.episode["responses"] == ["<|object_ref_start|>" + ANSWER]


def test_tags_that_are_special_tokens_survive(setting):
    setting.tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]},
        replace_extra_special_tokens=False,
    )
    played = setting.play([ANSWER])
    assert played.trajectory.episode["responses"] == [ANSWER]
    assert played.trajectory.correct


def test_response_cut_by_its_own_limit_uses_up_its_turn_only(setting):
    long = setting.tokenizer.encode("<think>" + " red" * 20, add_special_tokens=False)
    played = setting.play([long, ANSWER], "videomtr.max_response_tokens=12")
    assert played.trajectory.episode["actions"] == ["invalid", "answer"]
    assert played.trajectory.finish_reasons == ["length", "stop"]


def _limits(setting, *, room: int) -> list[str]:
    """A context that leaves `room` tokens behind the overview."""
    prompt = len(setting.play([ANSWER]).outputs[0].prompt_ids)
    return [f"data.max_prompt_length={prompt}", f"actor_rollout_ref.rollout.max_model_len={prompt + room}"]


def test_response_that_ends_at_its_limit_is_not_cut(setting):
    length = len(setting.tokenizer.encode(ANSWER, add_special_tokens=False)) + 1
    played = setting.play([ANSWER], *_limits(setting, room=length))
    assert played.trajectory.episode["stop_reason"] == "answered"
    assert played.trajectory.finish_reasons == ["stop"]


def test_response_cut_by_the_context_ends_the_episode(setting):
    long = setting.tokenizer.encode("<think>" + " red" * 20, add_special_tokens=False)
    played = setting.play([long], *_limits(setting, room=5))
    assert played.trajectory.episode["stop_reason"] == "length_limit"
    assert len(played.outputs[0].response_ids) == 5


def test_observation_that_leaves_no_room_is_not_shown(setting):
    whole = setting.play([LOOK, ANSWER])
    num_response = len(whole.outputs[0].response_ids)
    last = len(whole.server.calls[-1].token_ids)
    for room in range(num_response - last - 2, num_response + 1):
        played = setting.play([LOOK, ANSWER], f"data.max_response_length={room}")
        (output,) = played.outputs
        assert len(output.response_ids) <= room
        # A row never ends with an observation that was not answered.
        assert output.response_mask[-1] == 1
        num_frames = sum(len(frames) for frames in played.trajectory.episode["frames"])
        assert len(output.multi_modal_data["images"]) == num_frames


@pytest.mark.parametrize("window", [0, 1, 2])
def test_slid_context_that_does_not_fit_ends_the_episode(setting, window):
    overrides = [*FIVE_TURNS, "videomtr.episode.initial_frames=2", f"videomtr.episode.window={window}"]
    whole = setting.play([LOOK] * 4 + [ANSWER], *overrides)
    longest = max(len(output.prompt_ids) for output in whole.outputs)
    assert longest > len(whole.outputs[0].prompt_ids)
    played = setting.play([LOOK] * 4 + [ANSWER], *overrides, f"data.max_prompt_length={longest - 1}")
    assert played.error is None
    assert played.trajectory.episode["stop_reason"] == "length_limit"
    assert all(len(output.prompt_ids) < longest for output in played.outputs)


def test_overview_that_does_not_fit_is_an_error_with_its_remedy(setting):
    first = len(setting.play([ANSWER]).outputs[0].prompt_ids)
    played = setting.play([ANSWER], f"data.max_prompt_length={first - 1}")
    assert f"the overview takes {first} tokens" in str(played.error)
    assert f"data.max_prompt_length={first - 1}" in str(played.error)


def test_oldest_and_newest_weights_of_an_episode_are_kept(setting):
    def at(step: int, text: str) -> dict:
        return {"text": text, "extra_fields": {"min_global_steps": step, "max_global_steps": step}}

    played = setting.play([at(3, LOOK), at(4, LOOK), at(5, ANSWER)])
    fields = played.outputs[0].extra_fields
    assert (fields["min_global_steps"], fields["max_global_steps"]) == (3, 5)
    assert played.trajectory.policy_version == {"min": 3, "max": 5}


def test_template_that_opens_the_thought(setting):
    template = setting.processor.chat_template
    setting.processor.chat_template = template.replace("assistant\\n", "assistant\\n<think>")
    assert setting.processor.chat_template != template
    played = setting.play(["red</think><answer>A</answer>"])
    assert played.trajectory.episode["format_ok"] == [True]
    assert played.trajectory.episode["responses"] == [ANSWER]


def test_images_travel_as_arrays_to_vllm_alone(setting):
    played = setting.play([ANSWER])
    assert all(image.shape == (28, 28, 3) for image in played.server.calls[0].images)


def test_turn_end_is_read_off_the_template(setting):
    end = read_turn_end(setting.tokenizer, setting.processor)
    assert setting.tokenizer.decode(list(end.closing_ids)) == "<|im_end|>\n"
    assert setting.tokenizer.eos_token_id in end.end_ids


def test_end_tokens_of_the_generation_config_count(setting):
    endoftext = setting.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    (setting.model / "generation_config.json").write_text(f'{{"eos_token_id": [{endoftext}]}}')
    try:
        assert endoftext in read_turn_end(setting.tokenizer, setting.processor).end_ids
    finally:
        (setting.model / "generation_config.json").unlink()


def test_template_that_hides_the_assistant_is_refused(setting):
    setting.processor.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match="does not show what an assistant says"):
        read_turn_end(setting.tokenizer, setting.processor)


def test_only_what_is_missing_closes_a_turn():
    end = TurnEnd(closing_ids=(7, 8), end_ids=frozenset({7, 9}))
    assert [end.missing(ids) for ids in ([1, 2], [1, 7], [1, 7, 8], [1, 9], [])] == [[7, 8], [8], [], [7, 8], [7, 8]]
    assert TurnEnd(closing_ids=(), end_ids=frozenset()).missing([1]) == []
    assert end.without_end([1, 7, 2, 9]) == [1, 2]


def test_token_that_ends_a_response_and_begins_the_next_message_stays_sampled(setting, monkeypatch):
    """GLM's `<|user|>`: verl's builder takes it off the response and writes it again."""
    from verl.utils.tokenizer.continuous_token import QwenVLContinuousTokenBuilder

    start = setting.tokenizer.convert_tokens_to_ids("<|im_start|>")
    merge = QwenVLContinuousTokenBuilder._merge_context_token_ids

    def glm(self, runtime_token_ids, appended_token_ids, **kwargs):
        if runtime_token_ids[-1] != start:
            return merge(self, runtime_token_ids, appended_token_ids, **kwargs)
        result = merge(self, runtime_token_ids[:-1], appended_token_ids, **kwargs)
        return dataclasses.replace(result, removed_prefix_token_count=1)

    monkeypatch.setattr(QwenVLContinuousTokenBuilder, "_merge_context_token_ids", glm)
    monkeypatch.setattr(
        "verl_videomtr.verl_plugin.agent_loop.read_turn_end",
        lambda *_args, **_kwargs: TurnEnd(closing_ids=(), end_ids=frozenset({start})),
    )
    look = [*setting.tokenizer.encode(LOOK, add_special_tokens=False), start]
    played = setting.play([look, ANSWER])
    begin, end = played.trajectory.turn_spans[0]
    assert end - begin == len(look)
    assert played.outputs[0].response_mask[begin:end] == [1] * len(look)
    assert played.server.calls[1].prompt_ids[: len(played.outputs[0].prompt_ids) + end][-1] == start
    assert played.trajectory.episode["actions"] == ["retrieve", "answer"]
