# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""The rewrite against vLLM's own OpenAI server with structured output, on the CPU, with a model made here.

The model is a Qwen2 whose weights make it a table: what it says next depends on its last token only. It likes to chat,
and it knows a few whole answers, good and bad. So it shows what the request's schema does: without it the model chats,
with it only answers of the right form are left.
"""

import json
import re

import pytest
from served import serve

from data_prep import qvhighlights
from verl_videomtr.sample import read_rows

pytestmark = pytest.mark.slow

CHAT = "Sure!"
WRONG_TYPE = '{"suitable":"perhaps","question":"Who?","options":["a","b","c","d"],"answer":"a"}'
MISSING_FIELD = '{"suitable":true,"question":"Who?"}'
UNSUITABLE = '{"suitable":false,"question":"","options":[],"answer":""}'
THREE_OPTIONS = '{"suitable":true,"question":"Who?","options":["a","b","c"],"answer":"a"}'
GOOD = '{"suitable":true,"question":"Who-pours?","options":["cook","nurse","pilot","clown"],"answer":"cook"}'
LIKING = {CHAT: 30.0, WRONG_TYPE: 20.0, MISSING_FIELD: 20.0, UNSUITABLE: 10.0, THREE_OPTIONS: 10.0, GOOD: 10.5}
"""Logits after a prompt: chatting is e^10 times as likely as the best JSON, the JSON of a wrong form comes next."""
END = "<|im_end|>"
CONTROL = ("<|endoftext|>", "<|im_start|>", END)
TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def make_model(directory):
    """Save a Qwen2 that answers any prompt with one of the pieces in LIKING and then stops."""
    import torch
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2TokenizerFast(
        vocab={character: number for number, character in enumerate(alphabet)},
        merges=[],
        unk_token=None,
        bos_token=None,
        eos_token=END,
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=4096,
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in LIKING])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)
    num_tokens = len(tokenizer)
    hidden_size = 320
    assert num_tokens <= hidden_size
    config = Qwen2Config(
        vocab_size=num_tokens,
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=10,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(torch.float32)
    with torch.no_grad():
        # Attention and the feed-forward layer add nothing: the last token's embedding reaches the head unchanged.
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(num_tokens, hidden_size))
        # One-hot rows leave the norm as sqrt(hidden_size) at their place.
        logits = torch.zeros(num_tokens, num_tokens)
        logits[:, config.eos_token_id] = -10.0
        for piece, liking in LIKING.items():
            logits[:, tokenizer.convert_tokens_to_ids(piece)] = liking
        for piece in LIKING:
            number = tokenizer.convert_tokens_to_ids(piece)
            logits[number] = 0.0
            logits[number, config.eos_token_id] = 60.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :num_tokens] = logits.T / hidden_size**0.5
    model.generation_config = GenerationConfig(eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id)
    model.save_pretrained(directory)


@pytest.fixture(scope="module")
def server_url(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    make_model(directory)
    log = tmp_path_factory.mktemp("log") / "server.log"
    with serve(directory, log, extra=("--max-model-len", "4096", "--max-num-seqs", "8")) as (url, _):
        yield url


def write_queries(path, number):
    lines = [
        json.dumps(
            {
                "qid": qid,
                "query": f"A cook pours cup number {qid} in the kitchen.",
                "duration": 150,
                "vid": f"abc{qid}_0.0_150.0",
                "relevant_windows": [[10, 20]],
            }
        )
        for qid in range(number)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_schema_turns_a_chatting_model_into_rows(server_url, tmp_path, capsys):
    import openai

    client = openai.OpenAI(base_url=server_url, api_key="no-key")
    messages = [{"role": "user", "content": "Hello"}]
    free = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=8)
    assert free.choices[0].message.content == CHAT

    source, out = write_queries(tmp_path / "queries.jsonl", 24), tmp_path / "rows.parquet"
    arguments = ["--annotations", str(source), "--base-url", server_url, "--model", "tiny", "--out", str(out)]
    assert qvhighlights.main([*arguments, "--price-in", "1", "--price-out", "1"]) == 0
    entries = [json.loads(line) for line in (tmp_path / "rows.journal.jsonl").read_text().splitlines()]
    assert len(entries) == 24
    # The forms that the schema forbids are e^10 times likelier, and never come.
    assert {entry["content"] for entry in entries} <= {UNSUITABLE, THREE_OPTIONS, GOOD}
    assert all(entry["finish_reason"] == "stop" and entry["input_tokens"] > 1000 for entry in entries)

    rows = read_rows(out)
    num_good = sum(entry["content"] == GOOD for entry in entries)
    assert len(rows) == num_good > 0
    assert all(row.options["ABCD".index(row.answer)] == "cook" for row in rows)
    output = capsys.readouterr().out
    assert re.search(r"this run: 24 answers; input tokens [\d,]+; output tokens \d+; cost 0\.\d+", output)

    assert qvhighlights.main(arguments) == 0
    assert "this run: 0 answers" in capsys.readouterr().out
    assert read_rows(out) == rows


def test_unknown_model_stops_the_run(server_url, tmp_path, capsys):
    source = write_queries(tmp_path / "queries.jsonl", 3)
    arguments = ["--annotations", str(source), "--base-url", server_url, "--out", str(tmp_path / "rows.parquet")]
    assert qvhighlights.main([*arguments, "--model", "large"]) == 1
    assert "HTTP 404" in capsys.readouterr().err
