# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A Qwen2.5-VL of any size with the real vocabulary, image processor and chat format, which writes long responses.

    python -m benchmarks.first_light.scripted_model OUT [--size 3b|narrow] [--words 320] [--device cuda]

For what depends on a real run's lengths and not on its sense: it looks closer or answers by chance, after a thought of
so many words. Nothing is taught. Its weights are a table of pairs: a head of the first layer carries the token before,
that layer's MLP has a unit for each pair of tokens in the script, which points at the token that follows, and the other
layers add nothing, though they compute as any do. So it writes the same in any context, however long. The vision tower
is random.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from benchmarks.first_light import qwen_vocabulary
from benchmarks.first_light.shapes import MODEL, model_config
from recipes.learning_study import tiny_model

RETRIEVE, ANSWER = "</think><retrieve>32,63</retrieve>\n<|im_end|>", "</think><answer>B</answer><|im_end|>"
LOOK_SHARE = 0.85
TEMPERATURE = 0.7
"""The recipe's, at which the share holds."""
SHARPNESS = 48.0
"""Logit of the token whose embedding the last hidden state points at."""
MATCH = 45.0
"""What a pair's own unit sees; other units see a twentieth of it, or half where they share a token."""
LOUDNESS = 100.0
"""Length of what the MLP writes, against 1.4 of what it reads."""

Script = dict[tuple[int, int], dict[int, str]]
"""(token before, token) -> following token -> the action that it belongs to."""


def make_processor(tokenizer: Qwen2TokenizerFast) -> Qwen2_5_VLProcessor:
    """Qwen2.5-VL's: its pixel limits leave frames as the pool makes them."""
    patches = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    size = {"shortest_edge": 56 * 56, "longest_edge": 14 * 14 * 4 * 1280}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches, size=size),
        chat_template=tokenizer.chat_template,
    )


def make_script(tokenizer: Qwen2TokenizerFast, num_words: int) -> Script:
    """Both responses as pairs of tokens; the thought is `num_words` words of the vocabulary, once each.

    Raises:
        ValueError: two tokens are followed by different ones anywhere but before the action.
    """
    words = [token for token in map(tokenizer.decode, range(3000, 60000)) if re.fullmatch(" [a-z]{4,}", token)]
    opening = tokenizer.encode("<|im_start|>assistant\n<think>")
    thought = opening + [tokenizer.convert_tokens_to_ids("Ġ" + word[1:]) for word in words[:num_words]]
    script: Script = {}
    for action in (RETRIEVE, ANSWER):
        ids = thought + tokenizer.encode(action)
        if tokenizer.decode(ids) != tokenizer.decode(thought) + action:
            raise ValueError("the response is not read as it is written; choose other words")
        for before, token, following in zip(ids, ids[1:], ids[2:], strict=False):
            script.setdefault((before, token), {})[following] = action
    if sum(len(follow) > 1 for follow in script.values()) != 1:
        raise ValueError("tokens repeat within a response; choose other words")
    return script


def make_config(size: str, tokenizer: Qwen2TokenizerFast) -> PretrainedConfig:
    """Make the config of Qwen2.5-VL-3B, or of a narrow model that a CPU trains in minutes."""
    if size == "3b":
        config = model_config(MODEL)
        config.text_config.use_cache = True
    else:
        config = tiny_model.make_config(tokenizer, num_layers=2, hidden_size=128)
        config.text_config.intermediate_size = 512
        config.text_config.vocab_size = qwen_vocabulary.EMBEDDINGS
        config.text_config.max_position_embeddings = 32768
        config.vision_config.window_size = 112
        config.tie_word_embeddings = True
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    return config


def make_model(
    config: PretrainedConfig, script: Script, device: str = "cpu"
) -> tuple[Qwen2_5_VLForConditionalGeneration, torch.Tensor]:
    """Make the model, float32, and what it thinks of each pair of the script.

    Returns:
        the model; and its last hidden state behind each pair, (pairs, hidden).

    Raises:
        ValueError: the first layer's MLP has fewer units than the script has pairs.
    """
    text = config.text_config
    if len(script) > text.intermediate_size:
        raise ValueError(f"{len(script)} pairs of tokens; expected at most {text.intermediate_size}, one an MLP unit")
    with torch.device(device), torch.no_grad():
        model = Qwen2_5_VLForConditionalGeneration(config).float()
        language, pairs = model.model.language_model, torch.tensor(list(script))
        embeddings = model.get_input_embeddings().weight
        embeddings.copy_(torch.nn.functional.normalize(torch.randn_like(embeddings), dim=1))
        for layer in language.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        language.norm.weight.fill_(SHARPNESS / text.hidden_size**0.5)
        first = language.layers[0]
        read, written = carry_token_before(first.self_attn, text)
        before, now = embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]
        states = torch.nn.functional.normalize(now + before @ read.T @ written.T * text.hidden_size**0.5, dim=1)
        units = slice(len(pairs))
        keys = states * MATCH
        for part in (first.mlp.gate_proj, first.mlp.up_proj):
            part.weight[units] = keys / text.hidden_size**0.5
        # Units also answer a little to others' pairs: what each writes is such that the sum is right.
        seen = states @ keys.T
        directions = torch.stack([direction_of(follow, embeddings) for follow in script.values()])
        first.mlp.down_proj.weight[:, units] = torch.linalg.solve(
            torch.nn.functional.silu(seen) * seen, directions * LOUDNESS
        ).T
        return model, model.model(input_ids=pairs).last_hidden_state[:, 1]


def carry_token_before(attention: torch.nn.Module, config: PretrainedConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Let the first head look one token back, whatever stands there, and write what it finds.

    Returns:
        what it reads of a normalised embedding, (head size, hidden), and where it writes that, (hidden, head size).
    """
    dim = config.hidden_size // config.num_attention_heads
    angles = torch.tensor([config.rope_parameters["rope_theta"] ** (-2 * i / dim) for i in range(dim // 2)])
    for part in (attention.q_proj, attention.k_proj, attention.v_proj):
        part.weight[:dim] = 0
        part.bias[:dim] = 0
    attention.k_proj.bias[: dim // 2] = 12.0
    attention.q_proj.bias[: dim // 2] = 12.0 * torch.cos(angles)
    attention.q_proj.bias[dim // 2 : dim] = -12.0 * torch.sin(angles)
    read = torch.randn(dim, config.hidden_size) / (dim * config.hidden_size) ** 0.5
    written = torch.linalg.qr(torch.randn(config.hidden_size, dim)).Q
    attention.v_proj.weight[:dim] = read
    attention.o_proj.weight[:, :dim] = written
    return read, written


def direction_of(follow: Mapping[int, str], embeddings: torch.Tensor) -> torch.Tensor:
    """Where a hidden state must point, to be sure of the next token or to draw one of two with their shares."""
    if len(follow) == 1:
        (token,) = follow
        return embeddings[token]
    look, answer = (next(token for token, action in follow.items() if action == kind) for kind in (RETRIEVE, ANSWER))
    # Unit vectors u, v far from each other: of a u + b v, of length 1, the two parts differ by a - b.
    gap = float(TEMPERATURE * torch.logit(torch.tensor(LOOK_SHARE)) / SHARPNESS)
    half = (0.5 - gap**2 / 4) ** 0.5
    direction = (half + gap / 2) * embeddings[look] + (half - gap / 2) * embeddings[answer]
    return torch.nn.functional.normalize(direction, dim=0)


def check(hidden: torch.Tensor, embeddings: torch.Tensor, script: Script) -> None:
    """Hold the shares of the one choice, and that everything else is sure.

    Raises:
        RuntimeError: the weights say something else than the script.
    """
    odds = (hidden @ embeddings.T / TEMPERATURE).softmax(-1)
    for share, follow in zip(odds, script.values(), strict=True):
        wanted = [LOOK_SHARE, 1 - LOOK_SHARE] if len(follow) > 1 else [1.0]
        tokens = sorted(follow, key=lambda token: follow[token] == ANSWER)
        if (share[tokens] - torch.tensor(wanted, device=share.device)).abs().max() > 0.05:
            raise RuntimeError(f"{tokens} follow with {share[tokens].tolist()}; expected {wanted}")


def make_checkpoint(out: Path, *, size: str, num_words: int, device: str = "cpu") -> None:
    """Write the model in the hub's layout: the 3B in bf16, the narrow one in float32.

    Args:
        num_words: of a thought; a response has some 15 tokens more.

    Raises:
        OSError, subprocess.SubprocessError: the vocabulary cannot be fetched.
        RuntimeError, ValueError: the script does not fit the model.
    """
    torch.manual_seed(0)
    tokenizer = qwen_vocabulary.make_tokenizer(qwen_vocabulary.fetch())
    script = make_script(tokenizer, num_words)
    model, hidden = make_model(make_config(size, tokenizer), script, device)
    with torch.no_grad():
        check(hidden, model.get_input_embeddings().weight, script)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, do_sample=True
    )
    model = model.to(torch.bfloat16) if size == "3b" else model
    record = {"kind": "scripted", "size": size, "words": num_words}
    tiny_model.save_checkpoint(out, model, make_processor(tokenizer), record)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="checkpoint folder to make")
    parser.add_argument("--size", choices=("3b", "narrow"), default="3b", help="of the model (default: %(default)s)")
    parser.add_argument("--words", type=int, default=320, help="of each thought (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the weights are made (default: %(default)s)")
    arguments = parser.parse_args(argv)
    make_checkpoint(arguments.out, size=arguments.size, num_words=arguments.words, device=arguments.device)
    print(f"{arguments.out}: {arguments.size}, thoughts of {arguments.words} words, nothing taught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
