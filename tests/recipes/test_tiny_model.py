# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny model: it loads like a checkpoint from the hub, its text survives, and teaching sees what rollouts see."""

import collections
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.synthetic import SHAPE_PAIRS, NeedleConfig, kinds_of, scene_bounds, write_video
from recipes.learning_study import study
from recipes.learning_study.blind_bound import compute_bounds
from recipes.learning_study.examine import MARKS, SITUATIONS, enter, examine, shortfalls
from recipes.learning_study.fast_policy import FastPolicy, picture_features
from recipes.learning_study.lessons import LETTERS, Habits, Teacher, make_case, new_episode
from recipes.learning_study.pictures import make_picture_book
from recipes.learning_study.teach import BASES, Course, main, teach
from recipes.learning_study.tiny_model import make_model, make_processor, save_checkpoint
from recipes.learning_study.transcript import NO_PICTURE, Scribe, Transcript
from verl_videomtr.episode import EpisodeConfig
from verl_videomtr.video.pool import PoolConfig, open_pool

CONFIG = NeedleConfig()
MIXTURE = NeedleConfig(mixture=True, questions_per_video=2)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def book(processor):
    return make_picture_book(CONFIG, processor.image_processor, seed=0, num_variants=1)


@pytest.fixture(scope="module")
def model(processor):
    return make_model(processor.tokenizer, seed=0).eval()


def messages_of(episode, responses):
    """Play responses; return the chat that the agent loop would show, and the frames in order."""
    observation, messages, frames = episode.reset(), [], []
    for response in [*responses, None]:
        content = [
            {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part} for part in observation.parts
        ]
        messages.append({"role": "user", "content": content})
        frames += observation.frames
        if response is not None:
            messages.append({"role": "assistant", "content": response})
            observation = episode.step(response)
    return messages, frames


RESPONSES = (
    "<think> red36 nothing</think><retrieve>24,31</retrieve>",
    "<think> red36 nothing</think><answer></answer>",
)


def transcript_of(case, responses, scribe, book):
    episode = new_episode(case, CONFIG, 3)
    transcript = Transcript(scribe, case.layout, book)
    observation = episode.reset()
    for response in responses:
        transcript.observe(observation)
        transcript.respond(response)
        observation = episode.step(response)
    transcript.observe(observation)
    return transcript


def test_checkpoint_loads_offline_with_every_tensor(tmp_path, monkeypatch, model, processor):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_checkpoint(tmp_path / "base", model, processor, {"note": 1})
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    again = AutoProcessor.from_pretrained(tmp_path / "base")
    assert "Qwen2VLImageProcessor" in type(again.image_processor).__name__
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    assert loaded.config.text_config.vocab_size == len(again.tokenizer)
    assert again.chat_template == processor.chat_template
    assert 5e5 < sum(weight.numel() for weight in loaded.parameters()) < 2e6


def test_responses_survive_decoding_and_take_one_token_per_tag_word_and_index(processor):
    tokenizer = processor.tokenizer
    response = "<think> pink109 cross</think><retrieve>96,127</retrieve>"
    ids = tokenizer(response + "<|im_end|>")["input_ids"]
    assert len(ids) == 11
    assert tokenizer.decode(ids, skip_special_tokens=True) == response
    text = "Which shape in the pink part?\nA. dot\nB. 128 é\nAnswer now."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_chat_template_extends_its_own_rendering(processor):
    messages, _ = messages_of(new_episode(make_case(CONFIG, random.Random(0)), CONFIG, 3), RESPONSES)

    def render(count, prompt):
        return processor.apply_chat_template(messages[:count], add_generation_prompt=prompt, tokenize=False)

    for count in range(1, len(messages)):
        assert render(count + 1, False).startswith(render(count, count % 2 == 1))


def test_transcript_is_the_tokenised_chat(processor, book):
    case = make_case(CONFIG, random.Random(1))
    transcript = transcript_of(case, RESPONSES, Scribe(processor.tokenizer), book)
    messages, frames = messages_of(new_episode(case, CONFIG, 3), RESPONSES)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert transcript.ids == processor.tokenizer(text)["input_ids"]
    shown = [book.keys[picture] for picture in transcript.pictures if picture >= 0]
    assert shown == [case.layout.pictures[frame] for frame in frames]


def test_fast_policy_equals_the_models_own_pass_over_pixels_of_a_real_file(tmp_path, processor, book, model):
    """Guards positions, image order and features: teaching must see what vLLM and the actor will see."""
    case = make_case(CONFIG, random.Random(2))
    path = tmp_path / "video.mp4"
    write_video(path, case.layout, rate=1)
    pool = open_pool(path, PoolConfig(num_frames=128, size=(28, 28)))
    messages, frames = messages_of(new_episode(case, CONFIG, 3), RESPONSES)
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    images = [Image.fromarray(frame) for frame in pool.read(frames)]
    inputs = processor(text=[text], images=images, return_tensors="pt")
    # The book's own pixels in place of the file's, so that only the paths are compared, not the codec's variants.
    transcript = transcript_of(case, RESPONSES, Scribe(processor.tokenizer), book)
    order = [picture for picture in transcript.pictures if picture >= 0]
    pixels = book.pixel_values[order, 0].flatten(0, 1)
    assert (pixels - inputs["pixel_values"]).abs().mean() < 0.1
    with torch.no_grad():
        logits = model(**{**inputs, "pixel_values": pixels}).logits[0].log_softmax(-1)
        policy = FastPolicy(model, picture_features(model, book))
        positions = torch.arange(1, len(transcript.ids))
        fast = policy.label_log_probs([transcript], torch.zeros_like(positions), positions)
    np.testing.assert_allclose(fast.numpy(), logits[:-1].numpy(), atol=2e-4)


def test_samples_are_those_of_whole_passes_over_rows_of_any_length(processor, book, model):
    """The cache of keys and values, with its padding in between, changes nothing."""
    scribe = Scribe(processor.tokenizer)
    rows = [
        transcript_of(make_case(CONFIG, random.Random(i)), RESPONSES[:i], scribe, book)
        for i in range(len(RESPONSES) + 1)
    ]
    assert len({len(row.ids) for row in rows}) == len(rows)
    with torch.no_grad():
        policy = FastPolicy(model, picture_features(model, book))
    sampled = policy.sample(rows, generator=torch.Generator().manual_seed(3), max_tokens=6)
    generator = torch.Generator().manual_seed(3)
    for step in range(6):
        last = torch.tensor([len(row.ids) for row in rows])
        with torch.no_grad():
            log_probs = policy.label_log_probs(rows, torch.arange(len(rows)), last)
        tokens = torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0].tolist()
        assert tokens == [response[step] for response in sampled]
        for row, token in zip(rows, tokens, strict=True):
            row.ids.append(token)
            row.pictures.append(NO_PICTURE)


def test_lessons_label_what_is_seen_and_never_when_to_retrieve(processor, book):
    scribe = Scribe(processor.tokenizer)
    teacher = Teacher(CONFIG, Habits(rate=0.2, aim=0.5), scribe, book)
    (answer,), (retrieve,) = scribe.encode("<answer>"), scribe.encode("<retrieve>")
    letters = {scribe.encode(letter)[0] for letter in LETTERS}
    decisions = 0
    for seed in range(60):
        lesson = teacher.lesson(random.Random(seed), max_turns=3, num_detours=2)
        ids, by_position = lesson.transcript.ids, {}
        for position, token, weight, kind in lesson.labels:
            assert kind in ("colour", "place", "place again", "sign", "sign seen", "letter", "range", "manner")
            by_position.setdefault(position, {})[token] = weight
        for position, label in by_position.items():
            if set(label) == {answer, retrieve}:
                assert label == {answer: pytest.approx(0.8), retrieve: pytest.approx(0.2)}
                decisions += 1
            elif len(label) > 1:
                assert set(label) == letters
            else:
                assert label.keys() == {ids[position]}
        # The last turn's decision is not free: only an answer is allowed there.
        last_action = max(position for position, token in enumerate(ids) if token in (answer, retrieve))
        assert by_position[last_action] == {answer: 1.0}
    assert decisions > 60


def test_lessons_of_a_mixture_name_every_sign_that_was_seen_and_leave_the_letters_that_it_leaves(processor, book):
    scribe = Scribe(processor.tokenizer)
    teacher = Teacher(MIXTURE, Habits(rate=0.2, aim=0.5), scribe, book, frame_budget=22)
    seen_of = collections.Counter()
    for seed in range(120):
        rng = random.Random(seed)
        lesson = teacher.lesson(rng, max_turns=3, num_detours=rng.randrange(3))
        ids, text = lesson.transcript.ids, processor.tokenizer.decode(lesson.transcript.ids)
        colour, options = re.search(r"in the (\w+) part", text)[1], re.findall(r"[ABCD]\. ([a-z ]+)", text)[:4]
        answer = text.rindex("<answer>")
        start = text.rindex("<think>")
        end = len(ids) - 1 - ids[::-1].index(scribe.encode("<think>")[0])
        shown = {book.keys[picture] for picture in lesson.transcript.pictures[:end] if picture != NO_PICTURE}
        seen = {shape for part, shape in shown if part == colour and shape}
        named = text[start:answer].removeprefix("<think> ").removesuffix("</think>").split()[1:]
        assert named == [next((shape for shape in pair if shape in seen), "nothing") for pair in SHAPE_PAIRS]
        fitting = {letter for letter, option in zip(LETTERS, options, strict=True) if seen <= set(option.split())}
        position = len(ids) - 1 - ids[::-1].index(scribe.encode("<answer>")[0]) + 1
        labelled = {scribe.tokenizer.decode([token]) for at, token, _, _ in lesson.labels if at == position}
        assert labelled == fitting
        seen_of[len(options[0].split()), len(seen)] += 1
    assert all(seen_of[case] > 5 for case in ((1, 0), (1, 1), (2, 0), (2, 1), (2, 2)))


def test_after_one_sign_of_two_a_look_goes_over_the_scene_and_after_both_to_the_last(processor, book):
    teacher = Teacher(MIXTURE, Habits(rate=0.2, aim=1.0), Scribe(processor.tokenizer), book)
    for seed in range(40):
        rng = random.Random(seed)
        case = make_case(MIXTURE, rng, num_needles=2)
        first, end = scene_bounds(case.config, case.scene)
        one, other = (needle.start for needle in case.layout.needles[case.scene])
        third = (end - first) // 3
        for sightings in ([], [one], [other]):
            low, high = teacher.habit_range(rng, case, sightings)
            assert low in range(first, first + third)
            assert high in range(end - third, end)
        low, high = teacher.habit_range(rng, case, [other, one])
        assert other - 2 <= low <= other <= high <= other + 2


def test_teaching_is_decided_by_its_seed_and_keeps_what_it_made(tmp_path, capsys):
    arguments = ["--base", "demo", "--eye-steps", "1", "--steps", "2", "--batch-size", "2", "--threads", "1"]
    arguments += ["--exam-cases", "0"]
    assert main([*arguments, "--out", str(tmp_path / "base")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "again")]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("base", "again")]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "base")]) == 0
    assert "kept" in capsys.readouterr().out
    assert main([*arguments, "--seed", "1", "--out", str(tmp_path / "base")]) == 0
    assert "made" in capsys.readouterr().out
    assert (tmp_path / "base" / "model.safetensors").read_bytes() != weights[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "base"]


def test_examination_covers_every_situation(model, processor):
    single = {situation.name for situation in SITUATIONS if situation.num_needles == 1}
    for config, names in ((CONFIG, single), (MIXTURE, {situation.name for situation in SITUATIONS})):
        table = examine(model, processor, config, num_cases=2)
        assert set(table) == names
        assert all(0 <= share <= 1 for shares in table.values() for share in shares.values())


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("one of two signs, last turn", 1, 1),
        ("two signs one by one, last turn", 2, 2),
        ("two signs at once then wrong, last turn", 2, 2),
    ],
)
def test_situations_of_two_needles_show_what_they_are_named_for(processor, book, name, least, most):
    (situation,) = (situation for situation in SITUATIONS if situation.name == name)
    rng, seen = random.Random(0), []
    for _ in range(40):
        case, episode, _ = enter(situation, MIXTURE, Scribe(processor.tokenizer), book, rng, 22)
        episode.step("<answer>A</answer>")
        seen.append(len(case.shapes([f for turn in episode.turns for f in case.evidence(turn.observation.frames)])))
    # Signs that stand close together may be met by one look; that is rare.
    assert sum(least <= number <= most for number in seen) > 32


def test_examination_names_each_mark_that_is_missed():
    table = {situation: {} for situation, _, _ in MARKS}
    for situation, column, least in MARKS:
        table[situation][column] = least
    assert shortfalls(table) == []
    table["overview"]["place ok"] = 0.9
    del table["right look"]["acc seen"]
    assert shortfalls(table) == ["overview: place ok 0.90 of 0.97", "right look: acc seen 0.00 of 0.95"]
    # A situation that the task does not have is no shortfall; one that was held and shows nothing is.
    del table["one of two signs, last turn"], table["two signs one by one, last turn"]["acc seen"]
    assert shortfalls(table)[2:] == ["two signs one by one, last turn: acc seen 0.00 of 0.95"]


def test_a_model_that_does_not_pass_is_taught_on_then_refused_and_not_saved(tmp_path, capsys):
    arguments = ["--base", "demo", "--eye-steps", "1", "--steps", "1", "--batch-size", "2", "--threads", "1"]
    arguments += ["--exam-cases", "2", "--max-rounds", "1", "--round-steps", "2", "--out", str(tmp_path / "base")]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [
        "eyes",
        "step 1",
        "examination",
        "step 2",
        "examination",
    ]
    assert "does not pass its examination after 1 steps of lessons and 1 rounds of 2: overview: format ok 0.00" in err
    assert list(tmp_path.iterdir()) == []


def test_bounds_leave_room_only_for_policies_that_look_where_the_question_points():
    bounds = compute_bounds(CONFIG, EpisodeConfig(pool_size=128, frame_budget=16, max_turns=3))
    assert bounds.overview == 0.25
    assert bounds.blind < 0.4
    assert bounds.uniform < 0.45
    assert bounds.one_aimed > 0.65
    assert bounds.all_aimed == pytest.approx(1.0)


def test_bounds_that_stand_beside_the_studys_results():
    episode = EpisodeConfig(pool_size=128, frame_budget=study.FRAME_BUDGET, max_turns=study.MAX_TURNS, initial_frames=8)
    bounds = compute_bounds(NeedleConfig(), episode)
    assert (bounds.overview, bounds.uniform, bounds.blind) == pytest.approx(
        (study.CHANCE, study.ONE_LOOK, study.BLIND_SWEEP), abs=5e-4
    )
    assert bounds.whole_scene > 0.85


def test_bounds_by_hand():
    # A pool of 4 in one scene, overview {0, 3}, needles of one frame at 1 or 2. One look returns at most 2 frames
    # (K_max 2, B 4): 1-2 shows every needle. All 4 frames at once show it too.
    config = NeedleConfig(
        pool_size=4, overview_frames=2, num_scenes=1, needle_frames=1, num_distractors=0, questions_per_video=1
    )
    bounds = compute_bounds(config, EpisodeConfig(pool_size=4, frame_budget=4, max_turns=2))
    assert (bounds.blind, bounds.blind_ranges) == (1.0, ((1, 2),))
    assert bounds.uniform == 1.0
    # Over the whole scene the look is {0, 3}: it never hits.
    assert (bounds.whole_scene, bounds.coarse_iou) == (0.25, 0.0)


def test_bounds_of_two_needles_by_hand():
    # A pool of 6 in one scene, overview {0, 5}, two needles of one frame with one between them: at 1 and 3, 1 and 4, or
    # 2 and 4. One of two seen leaves two letters of four. Frames 1 and 4 show one, both and one: (1/2 + 1 + 1/2) / 3.
    config = NeedleConfig(
        pool_size=6,
        overview_frames=2,
        num_scenes=1,
        needle_frames=1,
        needles_per_scene=2,
        num_distractors=0,
        questions_per_video=1,
    )
    one = compute_bounds(config, EpisodeConfig(pool_size=6, frame_budget=4, max_turns=2, initial_frames=2))
    assert (one.overview, one.blind_ranges) == (0.25, ((1, 4),))
    assert (one.blind, one.one_aimed) == pytest.approx((2 / 3, 2 / 3))
    # All four frames at once are 0, 2, 3 and 5: one, none and one.
    assert one.uniform == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)
    # The whole scene's ends are the overview's.
    assert one.whole_scene == 0.25
    # Two looks of one frame each do what one of two frames does.
    two = compute_bounds(config, EpisodeConfig(pool_size=6, frame_budget=4, max_turns=3, initial_frames=2))
    assert (two.blind, two.all_aimed, two.one_aimed) == pytest.approx((2 / 3, 2 / 3, 5 / 12))


def test_one_look_in_the_right_place_is_above_the_single_look_in_every_group_of_the_mixture():
    # One look of the mixture's 7 frames: its second look, which would take minutes to compute, can only add.
    episode = EpisodeConfig(
        pool_size=128, frame_budget=study.FRAME_BUDGET, max_turns=2, initial_frames=8, retrieval_frames=7
    )
    bounds = [compute_bounds(kind, episode) for kind in kinds_of(MIXTURE)]
    # As docs/appendix/learning.md has them: short, medium, long; one detail, then two.
    assert [b.uniform for b in bounds] == pytest.approx([0.683, 0.547, 0.433, 0.606, 0.466, 0.378], abs=6e-4)
    assert [b.whole_scene for b in bounds] == pytest.approx([0.825, 0.914, 0.852, 0.783, 0.895, 0.813], abs=6e-4)
    gains = [b.whole_scene - b.uniform for b in bounds]
    assert min(gains) > 0.14
    assert all(two > one for one, two in zip(gains[:3], gains[3:], strict=True))


def test_a_habit_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="expected a probability"):
        Habits(rate=1.5)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two cores teach a base in five minutes, and in three times that beside other work
@pytest.mark.parametrize(
    ("base", "config"),
    [
        ("study", CONFIG),
        ("mixture", MIXTURE),
        ("demo", NeedleConfig(pool_size=64, needle_frames=1, random_order=False)),
    ],
)
def test_the_taught_models_pass_and_retrieve_as_often_as_taught(base, config):
    torch.set_num_threads(2)
    habits, course = BASES[base]
    model, processor = teach(config, habits, course, seed=0, report=lambda line: None)
    table = examine(model, processor, config, num_cases=128, seed=1, frame_budget=course.frame_budget)
    assert table["overview"]["place ok"] > 0.95
    assert table["overview"]["retrieves"] == pytest.approx(habits.rate, abs=0.12 if base == "demo" else 0.04)


def test_course_that_cannot_be_held_is_refused():
    with pytest.raises(ValueError, match="steps=0; expected at least 1"):
        Course(steps=0)
    with pytest.raises(ValueError, match=r"settling_share=1\.5; expected 0 to 1"):
        Course(settling_share=1.5)


def test_words_find_their_pictures_before_any_lesson(processor, book):
    """The untaught heads already attend to the picture of the colour that a thought names, more than to any other."""
    model = make_model(processor.tokenizer, seed=0)
    scribe = Scribe(processor.tokenizer)
    words = model.get_input_embeddings().weight

    def embed(word):
        return words[scribe.encode(word)[0]]

    # What `open_eyes` teaches the encoder to make of each picture.
    features = torch.stack(
        [embed(f" {c}") + embed(f" {s or 'nothing'}") + embed("<|image_pad|>") for c, s in book.keys]
    )
    model.set_attn_implementation("eager")
    shares = []
    for seed in range(12):
        case = make_case(CONFIG, random.Random(seed))
        transcript = transcript_of(case, (), scribe, book)
        colour = scribe.encode(f" {case.colour}")[0]
        ids = torch.tensor([[*transcript.ids, scribe.encode("<think>")[0], colour]])
        pictures = torch.tensor([[*transcript.pictures, NO_PICTURE, NO_PICTURE]])
        with torch.no_grad():
            text = model.get_input_embeddings()(ids)
            embeddings = torch.where((pictures >= 0)[..., None], features[pictures.clamp(min=0)], text)
            positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
            output = model.model.language_model(
                inputs_embeds=embeddings, position_ids=positions, use_cache=False, output_attentions=True
            )
        # The heads of the second key-value group of layer 1, from the colour of the thought.
        attention = output.attentions[1][0, 2:, -1].mean(0)
        right = torch.tensor([p >= 0 and book.keys[p][0] == case.colour for p in pictures[0].tolist()])
        shares.append(float(attention[right].sum()))
    # Of eight pictures and about forty other tokens, chance is some .02.
    assert np.median(shares) > 0.5
