# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny model that calls a tool: its chat template shows tools, and it is taught to call one, then to answer.

    python tests/support/trainer/make_tool_model.py OUT

Template and calls have the form of Qwen's instruction models ("hermes" in verl): tools in the system message, a call
as JSON between <tool_call> tags, a tool's answer as a user message between <tool_response> tags. The teaching is that
of make_habitual_model.py: transcripts of real episodes with calls and answers drawn at random.
"""

import json
import random
import sys
from pathlib import Path

import torch
import yaml
from tokenizers import AddedToken

from recipes.learning_study.tiny_model import make_model, make_processor, save_checkpoint
from verl_videomtr.actions import Retrieve
from verl_videomtr.episode import Episode, EpisodeConfig
from verl_videomtr.prompts import Prompts

CONFIG = EpisodeConfig(pool_size=64, frame_budget=16)
QUARTERS = ((0, 15), (16, 31), (32, 47), (48, 63))
STEPS, BATCH_SIZE = 40, 8
PROMPTS = Path(__file__).parent / "tool_prompts.yaml"
TOOLS = Path(__file__).parents[3] / "verl_videomtr/conf/tools/retrieve_frames_index.yaml"
CALL_PIECES = ('\n{"name": "retrieve_frames", "arguments": {"start": ', ', "end": ', "}}\n")
TOOL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", *CALL_PIECES)
"""One token each, so that a call has seven beside its numbers and thought."""
CALLS = (0.8, 0.5, 0.0)
"""Share of messages that call, by turn."""

CHAT_TEMPLATE = """
{%- macro show(content) -%}
  {%- if content is string -%}{{- content -}}
  {%- else -%}
    {%- for part in content -%}
      {%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
      {%- else -%}{{- part.text -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
  {{- '<|im_start|>system\\n' -}}
  {%- if messages[0].role == 'system' -%}{{- show(messages[0].content) + '\\n' -}}{%- endif -%}
  {%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}
  {{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}
    {{- '<|im_start|>user\\n<tool_response>' + show(message.content) + '</tool_response><|im_end|>\\n' -}}
  {%- elif not (tools and loop.first and message.role == 'system') -%}
    {{- '<|im_start|>' + message.role + '\\n' + show(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
      {{- '<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def make_tool_processor():
    processor = make_processor()
    processor.tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in TOOL_TOKENS])
    processor.chat_template = processor.tokenizer.chat_template = CHAT_TEMPLATE
    return processor


def load_schemas():
    return [tool["tool_schema"] for tool in yaml.safe_load(TOOLS.read_text())["tools"]]


def write_call(start, end):
    return f"<tool_call>{CALL_PIECES[0]}{start}{CALL_PIECES[1]}{end}{CALL_PIECES[2]}</tool_call>"


def make_transcript(rng, processor, prompts):
    """Play an episode by chance; return its token ids and a label (-100: none) for each."""
    episode = Episode(
        config=CONFIG,
        prompts=prompts,
        question="Which shape in the gold part?\nA. cross\nB. square\nC. dot\nD. bars",
        times_seconds=[2.0 * i + 1 for i in range(64)],
        duration_seconds=128.0,
    )
    observation, messages, role = episode.reset(), [], "user"
    ids, labels = [], []

    def extend(messages, prompt, target):
        text = processor.apply_chat_template(
            messages, tools=load_schemas(), add_generation_prompt=prompt, tokenize=False
        )
        new = processor.tokenizer(text, add_special_tokens=False)["input_ids"][len(ids) :]
        ids.extend(new)
        labels.extend(new if target else [-100] * len(new))

    while observation is not None:
        pictures = [{"type": "image"} for _ in observation.frames]
        text = "".join(part for part in observation.parts if isinstance(part, str))
        messages = [*messages, {"role": role, "content": [*pictures, {"type": "text", "text": text}]}]
        extend(messages, True, False)
        if rng.random() < CALLS[len(episode.turns)]:
            start, end = rng.choice(QUARTERS)
            response = "<think>0 nothing</think>" + write_call(start, end)
            observation = episode.act(Retrieve(start, end), response)
        else:
            response = f"<think>0 nothing</think><answer>{rng.choice('AAAAABCD')}</answer>"
            observation = episode.step(response)
        messages, role = [*messages, {"role": "assistant", "content": response}], "tool"
        extend(messages, False, True)
    return ids, labels


def teach(model, make_row):
    """Train on rows of (token ids, labels) until the habit is there."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    for step in range(STEPS):
        rows = [make_row() for _ in range(BATCH_SIZE)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in rows])
        logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 9:
            print(f"step {step + 1} loss {loss.item():.3f} width {width}", flush=True)


def main(out):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    processor, prompts, rng = make_tool_processor(), Prompts.load(PROMPTS), random.Random(0)
    call = write_call(0, 15)
    assert json.loads(call.removeprefix("<tool_call>").removesuffix("</tool_call>"))["arguments"]["end"] == 15
    model = make_model(processor.tokenizer, seed=0)
    teach(model, lambda: make_transcript(rng, processor, prompts))
    save_checkpoint(Path(out), model, processor, {"kind": "tool calls"})


if __name__ == "__main__":
    main(*sys.argv[1:])
