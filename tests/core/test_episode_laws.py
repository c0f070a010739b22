# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Laws of the episode: any constants, any video, any responses."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verl_videomtr.actions import Answer, Invalid, Retrieve, parse_action
from verl_videomtr.episode import Episode, EpisodeConfig, StopReason, ground_truth_frames, iou, spread
from verl_videomtr.prompts import Prompts
from verl_videomtr.rewards import compute_score

PROMPTS = Prompts.load("default")
QUESTION = "What does he open?\nA. a door\nB. a {jar}"


@st.composite
def configs(draw):
    max_turns = draw(st.integers(1, 7))
    frame_budget = draw(st.integers(2 * max_turns, 80))
    overrides = {}
    if max_turns > 1 and draw(st.booleans()):
        overrides["initial_frames"] = draw(st.integers(1, frame_budget - max_turns + 1))
    if max_turns > 1 and draw(st.booleans()):
        # May ask for more than the budget holds: the last retrievals then get what is left.
        overrides["retrieval_frames"] = draw(st.integers(1, frame_budget))
    return EpisodeConfig(
        pool_size=128,
        frame_budget=frame_budget,
        max_turns=max_turns,
        window=draw(st.integers(0, 4)),
        unit=draw(st.sampled_from(["index", "seconds"])),
        **overrides,
    )


@st.composite
def settings_of_an_episode(draw):
    """Everything that makes an episode: constants, a video of 1 to 128 pool frames, and maybe ground truth."""
    num_frames, duration = draw(st.integers(1, 128)), draw(st.floats(1, 4000))
    times = [(i + 0.5) * duration / num_frames for i in range(num_frames)]
    point = st.floats(0, duration)
    segments = draw(st.none() | st.lists(st.tuples(point, point).map(lambda ends: tuple(sorted(ends))), max_size=3))
    return {
        "config": draw(configs()),
        "prompts": PROMPTS,
        "question": QUESTION,
        "times_seconds": times,
        "duration_seconds": duration,
        "segments": segments,
    }


number = st.integers(0, 130).map(str) | st.floats(0, 4000).map("{:.1f}".format)
retrievals = (
    st.tuples(number, number)
    .map(lambda ends: sorted(ends, key=float))
    .map(lambda ends: f"<think>look</think><retrieve>{ends[0]},{ends[1]}</retrieve>")
)
responses = st.lists(
    st.one_of(
        retrievals,
        retrievals,
        st.just("<think>look</think><retrieve>0,0</retrieve>"),
        st.sampled_from(
            ["", "<think>x</think>", "<retrieve>0,1</retrieve>", "<think>x</think><retrieve>9,1</retrieve>"]
        ),
        st.just("<think>done</think><answer>A</answer>"),
    ),
    min_size=7,
    max_size=7,
)


def play(options, texts):
    """Play until the end; return the episode and all that was observed."""
    episode = Episode(**options)
    observations = [episode.reset()]
    for text in texts:
        observation = episode.step(text)
        if observation is None:
            break
        observations.append(observation)
    return episode, observations


def check_even(frames, start, end):
    """In order, within the range, ends included, and with gaps that differ by one at most."""
    assert frames == sorted(set(frames))
    assert all(start <= frame <= end for frame in frames)
    if len(frames) > 1:
        assert (frames[0], frames[-1]) == (start, end)
        gaps = {b - a for a, b in itertools.pairwise(frames)}
        assert max(gaps) - min(gaps) <= 1


@given(start=st.integers(0, 600), span=st.integers(0, 600), num=st.integers(0, 700))
def test_spread_is_even_and_in_order(start, span, num):
    frames = spread(start, start + span, num)
    assert len(frames) == min(num, span + 1)
    check_even(frames, start, start + span)
    if num == 1 and span:
        assert abs(2 * (frames[0] - start) - span) <= 1


@settings(max_examples=150, deadline=None)
@given(options=settings_of_an_episode(), texts=responses)
def test_the_budget_is_never_exceeded_and_frames_come_back_evenly(options, texts):
    config, num_frames = options["config"], len(options["times_seconds"])
    episode, observations = play(options, texts)
    overview, *later = observations
    check_even(list(overview.frames), 0, num_frames - 1)
    assert len(overview.frames) == min(config.overview_frames, num_frames)
    spent = len(overview.frames)
    for turn, observation in zip(episode.turns, [*later, None], strict=False):
        if isinstance(turn.action, Retrieve):
            length = turn.action.end - turn.action.start + 1
            left = config.frame_budget - spent
            assert len(turn.returned) == min(config.frames_per_retrieval, length, left)
            check_even(list(turn.returned), turn.action.start, turn.action.end)
        else:
            assert turn.returned == ()
        assert observation is None or observation.frames == turn.returned
        spent += len(turn.returned)
        assert spent <= config.frame_budget
    assert spent == sum(len(observation.frames) for observation in observations) == episode.frames_shown


@settings(max_examples=100, deadline=None)
@given(options=settings_of_an_episode(), texts=responses)
def test_the_end_is_an_answer_or_the_last_turn(options, texts):
    config = options["config"]
    episode, observations = play(options, texts)
    actions = [turn.action for turn in episode.turns]
    assert episode.done
    assert 1 <= len(actions) <= config.max_turns
    assert len(observations) == len(actions)
    assert not any(isinstance(action, Answer) for action in actions[:-1])
    if isinstance(actions[-1], Answer):
        assert episode.stop_reason is StopReason.ANSWERED
        assert episode.answer == "A"
    else:
        assert episode.stop_reason is StopReason.TURN_LIMIT
        assert len(actions) == config.max_turns
        assert isinstance(actions[-1], Invalid)
        assert episode.answer is None
    with pytest.raises(RuntimeError, match="open episode"):
        episode.step("<think>x</think><answer>A</answer>")
    with pytest.raises(RuntimeError, match="already ended"):
        episode.truncate()


@settings(max_examples=60, deadline=None)
@given(options=settings_of_an_episode(), texts=responses, num=st.integers(0, 6))
def test_truncation_is_told_apart_from_termination(options, texts, num):
    episode = Episode(**options)
    episode.reset()
    for text in texts[:num]:
        if episode.step(text) is None:
            return
    episode.truncate()
    assert episode.stop_reason is StopReason.LENGTH_LIMIT
    assert episode.record()["stop_reason"] == "length_limit"
    assert episode.answer is None
    assert len(episode.turns) == num
    with pytest.raises(RuntimeError, match="open episode"):
        episode.step("<think>x</think><answer>A</answer>")


@settings(max_examples=60, deadline=None)
@given(options=settings_of_an_episode(), texts=responses)
def test_the_window_holds_exactly_the_last_w_interactions(options, texts):
    window = options["config"].window
    episode = Episode(**options)
    episode.reset()
    for played in range(len(texts)):
        assert list(range(played))[episode.context_start :] == list(range(played))[max(0, played - window) :]
        assert options["config"].slides or episode.context_start == 0
        if episode.step(texts[played]) is None:
            break


@settings(max_examples=100, deadline=None)
@given(options=settings_of_an_episode(), texts=responses)
def test_an_episode_replayed_from_its_record_gives_the_same_observations(options, texts):
    episode, observations = play(options, texts)
    record = json.loads(json.dumps(episode.record()))
    assert record == episode.record()
    replayed, again = play(options, record["responses"])
    assert again == observations
    assert replayed.turns == episode.turns
    assert replayed.record() == record
    assert record["frames"] == [list(observation.frames) for observation in observations]


@settings(max_examples=60, deadline=None)
@given(options=settings_of_an_episode(), texts=responses)
def test_every_observation_repeats_the_question_and_announces_its_frames(options, texts):
    episode, observations = play(options, texts)
    times = options["times_seconds"]
    for number, observation in enumerate(observations):
        text = "".join(part for part in observation.parts if isinstance(part, str))
        assert QUESTION in text
        for before, part in itertools.pairwise(observation.parts):
            if isinstance(part, int):
                assert isinstance(before, str)
                assert before.endswith(f"Frame {part} ({times[part]:.1f} s): ")
        previous = episode.turns[number - 1].action if number else None
        if isinstance(previous, Invalid):
            assert previous.reason in text
            assert observation.frames == ()


@settings(max_examples=60, deadline=None)
@given(options=settings_of_an_episode(), texts=responses)
def test_a_turn_does_what_its_response_says(options, texts):
    config, times = options["config"], options["times_seconds"]
    episode, _ = play(options, texts)
    for number, turn in enumerate(episode.turns):
        assert turn.response == texts[number]
        assert turn.action == parse_action(
            turn.response,
            pool_size=len(times),
            last_turn=number == config.max_turns - 1,
            unit=config.unit,
            frame_times_seconds=times,
            duration_seconds=options["duration_seconds"],
            max_answer_chars=config.max_answer_chars,
        )


@settings(max_examples=100, deadline=None)
@given(options=settings_of_an_episode(), texts=responses)
@example(
    options={
        "config": EpisodeConfig(frame_budget=2, max_turns=1), "prompts": PROMPTS, "question": "What?",
        "times_seconds": [0.5], "duration_seconds": 1.0, "segments": [(1.0, 1.0)],
    },
    texts=["<think>done</think><answer>A</answer>"],
)  # fmt: skip
def test_ious_are_those_of_the_frames_that_were_shown(options, texts):
    episode, observations = play(options, texts)
    record = episode.record()
    # What begins at the video's end lies outside of it.
    inside = [ends for ends in options["segments"] or () if ends[0] < options["duration_seconds"]]
    if not inside:
        assert record["initial_iou"] is None
        assert record["retrieval_ious"] == [None] * len(episode.turns)
        return
    truth, _ = ground_truth_frames(inside, options["times_seconds"])
    assert record["initial_iou"] == iou(observations[0].frames, truth)
    for turn, value in zip(episode.turns, record["retrieval_ious"], strict=True):
        if turn.returned:
            shown = set(turn.returned)
            assert value == len(shown & truth) / len(shown | truth)
        else:
            assert value is None


@settings(max_examples=100, deadline=None)
@given(options=settings_of_an_episode(), texts=responses, preset=st.sampled_from(["paper", "released_code"]))
def test_every_record_can_be_rewarded(options, texts, preset):
    episode, _ = play(options, texts)
    info = {"question_type": "multiple_choice", "options": ["a door", "a {jar}"], "episode": episode.record()}
    for truth in "AB":
        result = compute_score("laws", "", truth, info, preset=preset)
        assert len(result["turn_rewards"]) == len(episode.turns)
        assert result["acc"] == float(episode.answer == truth)
        assert result["score"] == pytest.approx(sum(result["turn_rewards"]))


@given(
    num_frames=st.integers(1, 128),
    duration=st.floats(1, 4000),
    parts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4),
)
def test_ground_truth_is_the_frames_inside_and_never_empty(num_frames, duration, parts):
    times = [(i + 0.5) * duration / num_frames for i in range(num_frames)]
    segments = [(min(ends) * duration, max(ends) * duration) for ends in parts]
    truth, num_between = ground_truth_frames(segments, times)
    inside = {i for i, time in enumerate(times) if any(start <= time <= end for start, end in segments)}
    assert inside <= truth <= set(range(num_frames))
    assert truth
    assert len(truth - inside) <= num_between
    if num_between == 0:
        assert truth == inside
    spacing = duration / num_frames
    for extra in truth - inside:
        assert any(abs(times[extra] - (start + end) / 2) <= spacing / 2 + 1e-6 * duration for start, end in segments)


@given(first=st.frozensets(st.integers(0, 40)), second=st.frozensets(st.integers(0, 40)))
def test_iou_laws(first, second):
    value = iou(sorted(first), second)
    assert 0 <= value <= 1
    assert value == iou(sorted(second), first)
    assert (value == 1) == (first == second and bool(first))
    assert (value == 0) == (not first & second)


def test_the_default_constants_spend_the_whole_budget():
    options = {
        "config": EpisodeConfig(),
        "prompts": PROMPTS,
        "question": QUESTION,
        "times_seconds": [i + 0.5 for i in range(128)],
        "duration_seconds": 128.0,
    }
    look = "<think>x</think><retrieve>10,90</retrieve>"
    episode, observations = play(options, [look, look, look])
    assert [len(observation.frames) for observation in observations] == [16, 8, 8]
    assert episode.frames_shown == 32
    assert episode.stop_reason is StopReason.TURN_LIMIT
    with pytest.raises(RuntimeError, match="called twice"):
        episode.reset()


def test_a_single_turn_shows_the_whole_budget_at_once():
    options = {
        "config": EpisodeConfig(max_turns=1),
        "prompts": PROMPTS,
        "question": QUESTION,
        "times_seconds": [i + 0.5 for i in range(128)],
        "duration_seconds": 128.0,
    }
    episode, observations = play(options, ["<think>x</think><retrieve>1,2</retrieve>"])
    assert [len(observation.frames) for observation in observations] == [32]
    assert "retrieve" not in episode.system_text
    assert "only" in episode.turns[0].action.reason.lower()


def test_a_retrieval_behind_the_end_of_the_budget_returns_nothing_and_costs_nothing():
    options = {
        "config": EpisodeConfig(max_turns=5, initial_frames=16, retrieval_frames=12),
        "prompts": PROMPTS,
        "question": QUESTION,
        "times_seconds": [i + 0.5 for i in range(128)],
        "duration_seconds": 128.0,
        "segments": [(0.0, 20.0)],
    }
    look = "<think>x</think><retrieve>10,90</retrieve>"
    episode, observations = play(options, [look, look, look, "<think>x</think><answer>A</answer>"])
    assert [len(observation.frames) for observation in observations] == [16, 12, 4, 0]
    assert episode.frames_shown == 32
    assert episode.record()["retrieval_ious"][2] is None
