# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Teach a tiny model of any family in `family_models` the habits of `make_habitual_model`, through its own processor.

python tests/support/trainer/make_family_model.py OUT FAMILY
"""

import functools
import random
import sys
from pathlib import Path

import torch
from family_models import FAMILIES
from make_habitual_model import QUARTERS, RETRIEVES
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GenerationConfig

from data_prep import synthetic
from recipes.learning_study.tiny_model import save_checkpoint
from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts
from verl_videomtr.verl_plugin.row_inputs import TOKEN_TYPES, forward_names

STEPS, WARMUP_STEPS, BATCH_SIZE, LR = 80, 10, 8, 3e-3
MAX_TURNS = 3
SHARD_BYTES = 1_000_000


def make_question(rng):
    """Ask as the runs' data does: a model taught with one question alone writes nonsense behind another."""
    asked = rng.choice(synthetic.PHRASINGS).format(colour=rng.choice(list(synthetic.COLOURS)))
    options = rng.sample(synthetic.SHAPES, 4)
    return "\n".join([asked, *(f"{letter}. {shape}" for letter, shape in zip("ABCD", options, strict=True))])


def make_transcript(rng, family, images):
    """Play an episode by chance; return its text, whose responses end as the family's do, and its images."""
    episode = Episode(
        config=EpisodeConfig(pool_size=64, frame_budget=family.frame_budget, max_turns=MAX_TURNS),
        prompts=Prompts.load("tiny"),
        question=make_question(rng),
        times_seconds=[2.0 * i + 1 for i in range(64)],
        duration_seconds=128.0,
    )
    observation, messages, shown = episode.reset(), [], []
    while observation is not None:
        content = [
            {"type": "image"} if isinstance(part, int) else {"type": "text", "text": part} for part in observation.parts
        ]
        shown += rng.choices(images, k=len(observation.frames))
        retrieves = rng.random() < RETRIEVES[MAX_TURNS][len(episode.turns)]
        tag, value = ("retrieve", rng.choice(QUARTERS)) if retrieves else ("answer", rng.choice("AAAAABCD"))
        response = f"<think>0 nothing</think><{tag}>{value}</{tag}>"
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": response}]
        observation = episode.step(response)
    text = family.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    return (text if family.end_token in text.rpartition("</answer>")[2] else text + family.end_token), shown


def label_responses(ids, tokenizer, end_token):
    """Copy ids of responses, from their thought to the token that ends them; -100 elsewhere."""
    think, end = tokenizer.convert_tokens_to_ids(["<think>", end_token])
    labels = torch.full_like(ids, -100)
    for row, tokens in enumerate(ids.tolist()):
        inside = False
        for place, token in enumerate(tokens):
            inside = inside or token == think
            if inside:
                labels[row, place] = token
            inside = inside and token != end
    return labels


def save_as_on_the_hub(save, folder):
    """Write weights in several files, and experts as released checkpoints have them.

    transformers 5.9 turns the experts of Qwen3-VL-MoE when it loads such a checkpoint and does not turn them back.
    """
    save(folder, max_shard_size=SHARD_BYTES)
    for file in Path(folder).glob("*.safetensors"):
        tensors = load_file(file)
        turned = [name for name in tensors if name.endswith((".experts.gate_up_proj", ".experts.down_proj"))]
        tensors |= {name: tensors[name].transpose(1, 2).contiguous() for name in turned}
        save_file(tensors, file, metadata={"format": "pt"})


def main(out, name):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = random.Random(0)
    family = FAMILIES[name]()
    tokenizer = family.processor.tokenizer
    model = AutoModelForImageTextToText.from_config(family.config).float()
    images = [
        Image.fromarray(synthetic.draw_picture(colour, shape)).resize((family.frame_px, family.frame_px))
        for colour in synthetic.COLOURS
        for shape in (None, *synthetic.SHAPES)
    ]
    taken = forward_names(type(family.config)) | {TOKEN_TYPES}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * max(0.1, 1 - step / STEPS)
    )
    model.train()
    for step in range(STEPS):
        texts, shown = zip(*(make_transcript(rng, family, images) for _ in range(BATCH_SIZE)), strict=True)
        made = family.processor(
            text=list(texts), images=list(shown), return_tensors="pt", padding=True, padding_side="right",
            add_special_tokens=False,
        )  # fmt: skip
        labels = label_responses(made["input_ids"], tokenizer, family.end_token)
        logits = model(**{key: made[key] for key in made if key in taken}, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 10 == 9:
            print(f"step {step + 1} loss {loss.item():.3f}", flush=True)
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(family.end_token)}
    pad = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id or pad, eos_token_id=sorted(ends), pad_token_id=pad, do_sample=True
    )
    model.save_pretrained = functools.partial(save_as_on_the_hub, model.save_pretrained)
    save_checkpoint(Path(out), model, family.processor, {"kind": "habitual", "family": name, "steps": STEPS})


if __name__ == "__main__":
    main(*sys.argv[1:])
