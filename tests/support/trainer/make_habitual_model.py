# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny model for the end-to-end test: pictures mean nothing to it, but it keeps the format, retrieves and answers.

    python tests/support/trainer/make_habitual_model.py OUT [MAX_TURNS [seldom]]

It is shown transcripts of real episodes, rendered by the real chat template, whose responses are drawn at random: a
quarter of the video, or a letter, mostly A. So it is right in most cases where A is, which is all that the test needs.
Frames are patches of any colour, so that real ones do not change its habits.
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch

from recipes.learning_study.tiny_model import make_model, make_processor, save_checkpoint
from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts

QUARTERS = ("0,15", "16,31", "32,47", "48,63")
RETRIEVES = {3: (0.8, 0.5, 0.0), 6: (0.9, 0.9, 0.8, 0.8, 0.6, 0.0)}
"""Share of responses that retrieve, by turn, for each K_max."""
SELDOM = {3: (0.5, 0.4, 0.0)}
"""The same of a policy that retrieves in some four of ten turns: most batches are below a target of half."""
INITIAL_FRAMES = {3: None, 6: 6}
STEPS, WARMUP_STEPS, BATCH_SIZE, LR, NUM_PATCHES = 60, 10, 12, 4e-3, 64


def see_patches(model, processor):
    """Encode patches of colours drawn at random: (NUM_PATCHES, hidden_size)."""
    colours = np.random.default_rng(0).integers(0, 256, (NUM_PATCHES, 1, 1, 3), dtype=np.uint8)
    images = list(np.broadcast_to(colours, (NUM_PATCHES, 28, 28, 3)))
    inputs = processor.image_processor(images=images, return_tensors="pt")
    with torch.no_grad():
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    return features if isinstance(features, torch.Tensor) else torch.cat(list(features))


def make_transcript(rng, processor, prompts, max_turns, retrieves):
    """Play an episode by chance; return its token ids and a label (-100: none) for each."""
    episode = Episode(
        config=EpisodeConfig(
            pool_size=64,
            frame_budget=16,
            max_turns=max_turns,
            initial_frames=INITIAL_FRAMES[max_turns],
            window=max_turns,
        ),
        prompts=prompts,
        question="What does the gold scene show?\nA. cross\nB. square\nC. disc\nD. bar",
        times_seconds=[2.0 * i + 1 for i in range(64)],
        duration_seconds=128.0,
    )
    observation, messages = episode.reset(), []
    ids, labels = [], []

    def extend(messages, prompt, target):
        text = processor.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
        new = processor.tokenizer(text, add_special_tokens=False)["input_ids"][len(ids) :]
        ids.extend(new)
        labels.extend(new if target else [-100] * len(new))

    while observation is not None:
        content = [
            {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part} for part in observation.parts
        ]
        messages = [*messages, {"role": "user", "content": content}]
        extend(messages, True, False)
        retrieve = rng.random() < retrieves[len(episode.turns)]
        tag, value = ("retrieve", rng.choice(QUARTERS)) if retrieve else ("answer", rng.choice("AAAAABCD"))
        response = f"<think>0 nothing</think><{tag}>{value}</{tag}>"
        messages = [*messages, {"role": "assistant", "content": response}]
        extend(messages, False, True)
        observation = episode.step(response)
    return ids, labels


def main(out, max_turns="3", habit=""):
    retrieves = (SELDOM if habit == "seldom" else RETRIEVES)[int(max_turns)]
    torch.manual_seed(0)
    torch.set_num_threads(1)  # two threads of so small a model mostly wait for each other
    rng = random.Random(0)
    processor, prompts = make_processor(), Prompts.load("tiny")
    model = make_model(processor.tokenizer, seed=0)
    patches = see_patches(model, processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * max(0.1, 1 - step / STEPS)
    )
    for step in range(STEPS):
        rows = [make_transcript(rng, processor, prompts, int(max_turns), retrieves) for _ in range(BATCH_SIZE)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in rows])
        embeddings = model.get_input_embeddings()(ids)
        is_image = ids == model.config.image_token_id
        embeddings[is_image] = patches[torch.randint(NUM_PATCHES, (int(is_image.sum()),))]
        # A frame is one visual token, so positions count tokens on all three axes.
        positions = torch.arange(ids.shape[1]).expand(3, len(ids), -1)
        states = model.model.language_model(inputs_embeds=embeddings, position_ids=positions, use_cache=False)
        logits = model.lm_head(states.last_hidden_state)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 10 == 9:
            print(f"step {step + 1} loss {loss.item():.3f}", flush=True)
    save_checkpoint(Path(out), model, processor, {"kind": "habitual", "steps": STEPS, "max_turns": max_turns})


if __name__ == "__main__":
    main(*sys.argv[1:])
