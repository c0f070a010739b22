# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny base model: a real Qwen2.5-VL of about a million parameters, with its tokenizer and processor.

    seed -> tokenizer (byte-level BPE), image processor, architecture, untaught weights -> a checkpoint folder

It loads like any checkpoint from the hub, offline: AutoProcessor, AutoModelForImageTextToText, vLLM, verl. Tags, pool
indices, colours and shapes are one token each, so that a response has about ten tokens. The weights are random;
`teach.py` gives them sight and manners.

    python -m recipes.learning_study.tiny_model --out DIR --seed 0
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from data_prep.synthetic import COLOURS, PHRASINGS, SHAPES
from verl_videomtr.prompts import Prompts

MAX_POOL_SIZE = 128
"""Pool indices 0 to MAX_POOL_SIZE - 1 are one token each."""
NOTHING = "nothing"
"""The word that a thought uses for a part of the video in which no sign was seen."""
FRAME_PX = 28
"""A frame of 28 x 28 pixels is 2 x 2 patches of 14, merged into one visual token."""

LOOK_BACK = {0: (1, 2), 1: (1, 3)}
"""Layer -> how many tokens back its first heads attend at first; at most the heads of one key-value group."""
LOOK_BACK_STRENGTH = (40.0, 40.0, 20.0, 10.0)
"""Squared bias of each rotary pair, fastest first: the score falls by several units one token beside the target."""

LOOK_UP_LAYERS = (1, 2)
"""Layers whose second key-value group finds pictures by a word."""
LOOK_UP_STRENGTH = 0.8
"""Of queries and keys; a picture of the right colour then scores several units above others."""
PICTURE_PREFERENCE, SIGN_PREFERENCE = 3.0, 0.5
"""How much a picture's being one, and its sign, count beside the word: words would match themselves best."""
FIRST_SLOW_PAIR = 7
"""Rotary pairs from this one on turn by less than a radian over an episode's tokens."""
PICTURE_TOKEN = "<|image_pad|>"
"""Its embedding is part of every picture's feature, so that pictures can be told from words."""

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen2.5-VL's own, in its order."""
TAGS = ("<think>", "</think>", "<retrieve>", "</retrieve>", "<answer>", "</answer>")
WORDS = tuple(f" {word}" for word in (*COLOURS, *SHAPES, NOTHING, "first", "last"))
"""With the space before them, so that text survives encoding and decoding unchanged."""
MORE_TEXT = ("Which shape is {which} in the {colour} part?",)
"""No question of the task; with other text the vocabulary differs, and the same seed makes another base."""
OPTION_LETTERS = ("A.", "B.", "C.", "D.")
PLAIN_TOKENS = (*TAGS, *WORDS, *OPTION_LETTERS, *(str(i) for i in range(MAX_POOL_SIZE)))
"""One token each, but ordinary vocabulary: decoding with skip_special_tokens keeps them."""

_PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2's tokenizer cuts text before merging bytes."""

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""Of Qwen's form: rendering a conversation with one more message extends the rendering without it."""


def make_tokenizer() -> Qwen2TokenizerFast:
    """Make a byte-level BPE tokenizer that knows Qwen's control tokens and has a token for every word of the task."""
    prompts = Prompts.load("tiny")
    texts = [*prompts.templates.values(), *PHRASINGS, *MORE_TEXT, "system user assistant", "A. B. C. D."]
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKENS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, min_frequency=1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    trained = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2TokenizerFast(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(CONTROL_TOKENS[1:]),
        model_max_length=32768,
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN_TOKENS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_processor() -> Qwen2_5_VLProcessor:
    """Make the processor: a frame of FRAME_PX stays as it is, a larger one is shrunk to at most 16 visual tokens."""
    tokenizer = make_tokenizer()
    size = {"shortest_edge": FRAME_PX**2, "longest_edge": (4 * FRAME_PX) ** 2}
    patches = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2, "size": size}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches),
        chat_template=CHAT_TEMPLATE,
    )


def make_config(tokenizer: Qwen2TokenizerFast, *, num_layers: int = 4, hidden_size: int = 128) -> Qwen2_5_VLConfig:
    """Describe the architecture; head size 32 is the smallest that vLLM's CPU attention takes."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in CONTROL_TOKENS}
    head_dim = 32
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": hidden_size // head_dim,
            "num_key_value_heads": hidden_size // head_dim // 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1000000.0},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": hidden_size,
            "fullatt_block_indexes": [1],
            "window_size": 56,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def make_model(tokenizer: Qwen2TokenizerFast, *, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """Make the untaught model, float32, the same for the same seed."""
    config = make_config(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.float32)
        _initialise(model, tokenizer)
    end, pad = config.text_config.eos_token_id, config.text_config.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, do_sample=True
    )
    return model


def _initialise(model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2TokenizerFast) -> None:
    """Draw weights that a model this small can learn from in minutes.

    Scales: at the library's std of 0.02 a text embedding has a hundredth of an image embedding's norm, the question's
    words drown in the pictures, and no amount of teaching makes the model look where it is told to.

    Attention starts out able to compare and to copy (arXiv 2305.09828): queries and keys of a head are drawn alike, so
    equal contents find each other; output projections are near the transpose of the value projections, and the output
    layer is near the embeddings, so what is found comes through. Some heads of the first layers attend a fixed
    number of tokens back, through their biases; others find pictures by a word (`_look_up`). Indices are near their
    neighbours. Large models come by all of this in pre-training.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                continue
            if "visual" in name:
                weight.mul_(2.5)
            elif "embed_tokens" in name:
                weight.normal_(0, 0.5)
            else:
                weight.normal_(0, 0.8 / weight.shape[1] ** 0.5)
        embeddings = model.get_input_embeddings().weight

        def rows(tokens: Sequence[str]) -> torch.Tensor:
            return embeddings[tokenizer.convert_tokens_to_ids(list(tokens))]

        code, axes = _index_code(model.config.text_config.hidden_size)
        embeddings[tokenizer.convert_tokens_to_ids([str(index) for index in range(MAX_POOL_SIZE)])] = code
        model.lm_head.weight.copy_(0.1 * embeddings)
        text_config = model.config.text_config
        layers = [layer.self_attn for layer in model.model.language_model.layers]
        for layer_idx, attention in enumerate(layers):
            _initialise_attention(attention, text_config, LOOK_BACK.get(layer_idx, ()))
        words = rows([f" {word}" for word in (*COLOURS, *SHAPES, NOTHING)])
        content = torch.cat([axes, torch.linalg.qr(words.T).Q.T])
        for layer_idx in LOOK_BACK:
            _carry(layers[layer_idx], content, group=0)
        picture = rows([PICTURE_TOKEN])
        signs = SIGN_PREFERENCE * (rows([f" {shape}" for shape in SHAPES]).sum(0) - rows([f" {NOTHING}"])[0])
        sought = tuple(PICTURE_PREFERENCE * picture[0] + sign for sign in (signs, -signs))
        for layer_idx in LOOK_UP_LAYERS:
            _look_up(layers[layer_idx], torch.cat([words, picture]), sought)
            _carry(layers[layer_idx], content, group=1)


def _index_code(hidden_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the embeddings of the indices: a number line, so that what is learned of one index holds for the next.

    Sines and cosines with periods 2, 4, ..., 2 * MAX_POOL_SIZE in randomly turned axes, with the norm of other
    embeddings.

    Returns:
        (MAX_POOL_SIZE, hidden_size), and the axes, (2 * number of periods, hidden_size).
    """
    periods = 2.0 ** torch.arange(1, (2 * MAX_POOL_SIZE).bit_length())
    # A quarter step keeps the sine of period 2 from being zero at every whole number.
    phases = 2 * torch.pi * (torch.arange(MAX_POOL_SIZE)[:, None] + 0.25) / periods
    code = torch.cat([phases.sin(), phases.cos()], 1)
    axes = torch.linalg.qr(torch.randn(hidden_size, code.shape[1])).Q
    return 0.5 * (hidden_size / len(periods)) ** 0.5 * code @ axes.T, axes.T


def _initialise_attention(
    attention: torch.nn.Module, text_config: PretrainedConfig, look_back: tuple[int, ...]
) -> None:
    """Let the heads compare and copy, and those of the first key-value group attend `look_back` tokens back."""
    hidden, num_heads, num_groups = (
        text_config.hidden_size,
        text_config.num_attention_heads,
        text_config.num_key_value_heads,
    )
    dim = hidden // num_heads

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape) / hidden**0.5

    keys, values = draw(num_groups, dim, hidden), draw(num_groups, dim, hidden)
    group = torch.arange(num_heads) // (num_heads // num_groups)
    queries = keys[group] + 0.3 * draw(num_heads, dim, hidden)
    outputs = 0.5 * values[group] + 0.2 * draw(num_heads, dim, hidden)
    biases = {name: torch.zeros(num, dim) for name, num in (("q", num_heads), ("k", num_groups))}
    # Rotary pair i of a head is (i, i + dim / 2) and turns by theta^(-2i/dim) a token; a query that is the key's
    # direction turned back by d tokens matches it best d tokens earlier.
    theta = text_config.rope_parameters["rope_theta"]
    angles = torch.tensor([theta ** (-2 * i / dim) for i in range(len(LOOK_BACK_STRENGTH))])
    strength = torch.tensor(LOOK_BACK_STRENGTH).sqrt()
    num_pairs = len(strength)
    for head, distance in enumerate(look_back):
        queries[head] *= 0.1
        biases["k"][0, :num_pairs] = strength
        biases["q"][head, :num_pairs] = strength * torch.cos(distance * angles)
        biases["q"][head, dim // 2 : dim // 2 + num_pairs] = -strength * torch.sin(distance * angles)
    if look_back:
        keys[0] *= 0.1
    attention.q_proj.weight.copy_(queries.flatten(0, 1))
    attention.k_proj.weight.copy_(keys.flatten(0, 1))
    attention.v_proj.weight.copy_(values.flatten(0, 1))
    attention.o_proj.weight.copy_(outputs.flatten(0, 1).T)
    attention.q_proj.bias.copy_(biases["q"].flatten())
    attention.k_proj.bias.copy_(biases["k"].flatten())
    attention.v_proj.bias.zero_()


def _carry(attention: torch.nn.Module, content: torch.Tensor, *, group: int) -> None:
    """Let the heads of a key-value group write what they find of `content` where they are, unchanged.

    Args:
        content: (at most the head's size, hidden_size), near orthonormal: what is carried.
    """
    dim, num = attention.head_dim, len(content)
    heads_per_group = attention.q_proj.out_features // attention.k_proj.out_features
    attention.v_proj.weight[group * dim : group * dim + num] = content
    attention.v_proj.weight[group * dim + num : (group + 1) * dim] = 0
    for head in range(group * heads_per_group, (group + 1) * heads_per_group):
        attention.o_proj.weight[:, head * dim : (head + 1) * dim] = 0
        attention.o_proj.weight[:, head * dim : head * dim + num] = 0.5 * content.T


def _look_up(attention: torch.nn.Module, words: torch.Tensor, sought: tuple[torch.Tensor, ...]) -> None:
    """Let the second group's heads find the pictures that share the word they stand on.

    Contents are compared in the rotary pairs that hardly turn over an episode's length.

    Args:
        words: (n, hidden_size); what is compared.
        sought: what each head prefers besides, whatever word it stands on: pictures with a sign, and without.
    """
    dim = attention.head_dim
    basis = torch.linalg.qr(words.T).Q.T
    slow = [*range(FIRST_SLOW_PAIR, dim // 2), *range(dim // 2 + FIRST_SLOW_PAIR, dim)][: len(basis)]
    attention.k_proj.weight[dim : 2 * dim] = 0
    attention.k_proj.weight[[dim + row for row in slow]] = LOOK_UP_STRENGTH * basis
    heads_per_group = attention.q_proj.out_features // attention.k_proj.out_features
    for i, preference in enumerate(sought):
        first = (heads_per_group + i) * dim
        attention.q_proj.weight[first : first + dim] = 0
        attention.q_proj.weight[[first + row for row in slow]] = LOOK_UP_STRENGTH * basis
        attention.q_proj.bias[[first + row for row in slow]] = LOOK_UP_STRENGTH * basis @ preference


def save_checkpoint(
    out: Path,
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    record: dict | None = None,
) -> None:
    """Save model and processor in the hub's layout, whole or not at all; replaces what is there.

    Args:
        record: written beside them as settings.json.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        model.save_pretrained(beside)
        processor.save_pretrained(beside)
        if record is not None:
            (beside / "settings.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: %(default)s)")
    arguments = parser.parse_args(argv)
    processor = make_processor()
    model = make_model(processor.tokenizer, seed=arguments.seed)
    save_checkpoint(arguments.out, model, processor)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{arguments.out}: {num_parameters:,} parameters, vocabulary {len(processor.tokenizer)}, untaught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
