# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A narrow Qwen2.5-VL with the real vocabulary, image processor and chat template, which writes long responses.

    python tests/support/trainer/make_rehearsal_model.py OUT

It is a machine of pairs: a head of the first layer carries the token before, the layers behind it look the two up, and
the next token is always the same but for one choice, whether to look closer or to answer. So it writes the same in any
context, however long: what a rehearsal needs is the lengths of a real run, not its sense. No other head writes.
"""

import re
import sys
from pathlib import Path

import qwen_vocabulary
import torch
from transformers import (
    GenerationConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from recipes.learning_study import tiny_model

NUM_LAYERS, HIDDEN = 2, 128
THOUGHT_WORDS = 170
MAX_RESPONSE_TOKENS = 192
"""With the tags, a response of some tokens less. The paper's 512 would take a CPU minutes a turn to decode."""
RETRIEVE, ANSWER = "</think><retrieve>32,63</retrieve>\n<|im_end|>", "</think><answer>B</answer><|im_end|>"
LOOK_SHARE = 0.85
TEMPERATURE = 0.7
"""The recipe's, at which the share holds."""
SHARPNESS = 48.0
"""Logit of a token whose embedding the last layer points at."""
STEPS, LR, CHOICE_WEIGHT = 600, 3e-3, 20.0


def make_processor(tokenizer):
    """Qwen2.5-VL's: its pixel limits leave frames as the pool makes them."""
    patches = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    patches["size"] = {"shortest_edge": 56 * 56, "longest_edge": 14 * 14 * 4 * 1280}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches),
        chat_template=tokenizer.chat_template,
    )


def make_script(tokenizer):
    """(token before, token) -> the next ones, of both responses; their thoughts are words of the vocabulary, once each.

    Raises:
        ValueError: two tokens are followed by different ones anywhere but before the action.
    """
    words = [token for token in map(tokenizer.decode, range(3000, 30000)) if re.fullmatch(" [a-z]{4,}", token)]
    opening = tokenizer.encode("<|im_start|>assistant\n<think>")
    thought = opening + [tokenizer.convert_tokens_to_ids("Ġ" + word[1:]) for word in words[:THOUGHT_WORDS]]
    nexts = {}
    for action in (RETRIEVE, ANSWER):
        ids = thought + tokenizer.encode(action)
        if tokenizer.decode(ids) != tokenizer.decode(thought) + action or len(ids) - 3 > MAX_RESPONSE_TOKENS:
            raise ValueError(f"the response is not written as it is read, or has {len(ids) - 3} tokens; choose others")
        for before, token, following in zip(ids, ids[1:], ids[2:], strict=False):
            nexts.setdefault((before, token), {})[following] = action
    if sum(len(follow) > 1 for follow in nexts.values()) != 1:
        raise ValueError("tokens repeat within a response; choose other words")
    return nexts


def make_model(tokenizer):
    config = tiny_model.make_config(tokenizer, num_layers=NUM_LAYERS, hidden_size=HIDDEN)
    config.text_config.vocab_size = qwen_vocabulary.EMBEDDINGS
    config.text_config.max_position_embeddings = 32768
    config.vision_config.window_size = 112
    config.tie_word_embeddings = True  # as the 3B's
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    layers = model.model.language_model.layers
    with torch.no_grad():
        embeddings = model.get_input_embeddings().weight
        embeddings.copy_(torch.nn.functional.normalize(torch.randn_like(embeddings), dim=1))
        for layer in layers:
            layer.self_attn.o_proj.weight.zero_()
        model.model.language_model.norm.weight.fill_(SHARPNESS / HIDDEN**0.5)
        carry_token_before(layers[0].self_attn, config.text_config)
    return model


def carry_token_before(attention, config):
    """Let the first head look one token back, whatever stands there, and write what it finds."""
    dim = config.hidden_size // config.num_attention_heads
    angles = torch.tensor([config.rope_parameters["rope_theta"] ** (-2 * i / dim) for i in range(dim // 2)])
    for part in (attention.q_proj, attention.k_proj):
        part.weight[:dim] = 0
        part.bias[:dim] = 0
    attention.k_proj.bias[: dim // 2] = 12.0
    attention.q_proj.bias[: dim // 2] = 12.0 * torch.cos(angles)
    attention.q_proj.bias[dim // 2 : dim] = -12.0 * torch.sin(angles)
    basis = torch.linalg.qr(torch.randn(config.hidden_size, dim)).Q
    attention.v_proj.weight[:dim] = torch.randn(dim, config.hidden_size) / dim**0.5
    attention.o_proj.weight[:, :dim] = basis


def teach(model, script):
    """Fit the layers behind the attention, so that the last hidden state points at the next token."""
    embeddings = model.get_input_embeddings().weight.detach()
    pairs = torch.tensor(list(script))
    targets = torch.stack([point_at(follow, embeddings) for follow in script.values()])
    weights = torch.tensor([CHOICE_WEIGHT if len(follow) > 1 else 1.0 for follow in script.values()])
    trained = [weight for name, weight in model.named_parameters() if ".mlp." in name and "visual" not in name]
    optimizer = torch.optim.Adam(trained, lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS):
        hidden = model.model(input_ids=pairs).last_hidden_state[:, 1]
        loss = (weights[:, None] * (hidden - targets).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1} loss {loss.item():.6f}", flush=True)
    check(hidden.detach(), embeddings, script)


def check(hidden, embeddings, script):
    """Hold the shares of the one choice, and that everything else is sure.

    Raises:
        RuntimeError: the model has learned something else.
    """
    odds = (hidden @ embeddings.T / TEMPERATURE).softmax(-1)
    for share, follow in zip(odds, script.values(), strict=True):
        wanted = [LOOK_SHARE, 1 - LOOK_SHARE] if len(follow) > 1 else [1.0]
        tokens = sorted(follow, key=lambda token: follow[token] == ANSWER)
        if (share[tokens] - torch.tensor(wanted)).abs().max() > 0.05:
            raise RuntimeError(f"after teaching, {tokens} follow with {share[tokens].tolist()}; expected {wanted}")


def point_at(follow, embeddings):
    """The last hidden state that is sure of the next token, or draws one of two with their shares."""
    if len(follow) == 1:
        (token,) = follow
        direction = embeddings[token]
    else:
        look, answer = (
            next(token for token, action in follow.items() if action == kind) for kind in (RETRIEVE, ANSWER)
        )
        gap = TEMPERATURE * torch.logit(torch.tensor(LOOK_SHARE)) / SHARPNESS
        # Unit vectors u, v far from each other: of a u + b v, of length 1, the two parts differ by a - b.
        half = (0.5 - gap**2 / 4).sqrt()
        direction = (half + gap / 2) * embeddings[look] + (half - gap / 2) * embeddings[answer]
    return SHARPNESS * torch.nn.functional.normalize(direction, dim=0)


def main(out):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = qwen_vocabulary.make_tokenizer(qwen_vocabulary.fetch())
    model = make_model(tokenizer)
    teach(model, make_script(tokenizer))
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, do_sample=True
    )
    tiny_model.save_checkpoint(Path(out), model, make_processor(tokenizer), {"kind": "rehearsal", "steps": STEPS})


if __name__ == "__main__":
    main(*sys.argv[1:])
