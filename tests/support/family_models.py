# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny models of several families, each with its own control tokens, chat format and processor classes.

    name -> Family: processor, architecture, size of a frame -> a folder that verl, vLLM and transformers load

The vocabulary is the study's, so that tags and indices are one token each. Templates are written here, of each family's
form: which tokens open and close a turn, how an image is marked, what is trimmed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from recipes.learning_study import tiny_model

_PARTS = (
    "{%%- if m.content is string -%%}{{- m.content%(trim)s -}}{%%- else -%%}{%%- for part in m.content -%%}"
    "{%%- if part.type == 'image' -%%}{{- '%(image)s' -}}{%%- else -%%}{{- part.text%(trim)s -}}{%%- endif -%%}"
    "{%%- endfor -%%}{%%- endif -%%}"
)


def _template(*, opens: str, closes: str, image: str, begins: str = "", asks: str, trim: bool = False) -> str:
    """Write a chat template: what stands before and behind a message, for an image, first of all, and for an answer."""
    parts = _PARTS % {"image": image, "trim": " | trim" if trim else ""}
    return (
        f"{begins}{{%- for m in messages -%}}{opens}{parts}{{{{- '{closes}' -}}}}{{%- endfor -%}}"
        f"{{%- if add_generation_prompt -%}}{{{{- '{asks}' -}}}}{{%- endif -%}}"
    )


_CHATML = {"opens": "{{- '<|im_start|>' + m.role + '\\n' -}}", "closes": "<|im_end|>\\n"}
_QWEN_TEMPLATE = _template(
    **_CHATML, image="<|vision_start|><|image_pad|><|vision_end|>", asks="<|im_start|>assistant\\n"
)
_QWEN_THINKING_TEMPLATE = (
    _QWEN_TEMPLATE.replace(
        "{{- m.content -}}",
        "{{- '<think>\\n' + m.content.split('<think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content -}}",
    ).removesuffix("{%- endif -%}")
    + "{{- '<think>\\n' -}}{%- endif -%}"
)
"""As those of thinking models: it opens the thought, which the policy continues. (Theirs also forget earlier ones.)"""
_INTERNVL_TEMPLATE = _template(**_CHATML, image="<IMG_CONTEXT>\\n", asks="<|im_start|>assistant\\n")
_GLM_TEMPLATE = _template(
    begins="{{- '[gMASK]<sop>' -}}",
    opens="{{- '<|' + m.role + '|>\\n' -}}",
    closes="",
    image="<|begin_of_image|><|image|><|end_of_image|>",
    asks="<|assistant|>\\n",
)
_GEMMA_TEMPLATE = _template(
    begins="{{- bos_token -}}",
    opens="{{- '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' -}}",
    closes="<turn|>\\n",
    image="<|image|>",
    asks="<|turn>model\\n",
    trim=True,
)

_MISTRAL_TEMPLATE = (
    "{{- bos_token -}}{%- set told = messages[0].role == 'system' -%}{%- for m in messages -%}"
    "{%- if m.role != 'system' and (m.role == 'user') != (loop.index0 % 2 == told | int) -%}"
    "{{- raise_exception('after the system message, roles must alternate user/assistant') -}}{%- endif -%}"
    "{{- {'system': '[SYSTEM_PROMPT]', 'user': '[INST]', 'assistant': ''}[m.role] -}}"
    + _PARTS % {"image": "[IMG]", "trim": ""}
    + "{{- {'system': '[/SYSTEM_PROMPT]', 'user': '[/INST]', 'assistant': eos_token}[m.role] -}}{%- endfor -%}"
)
"""As Mistral's: it refuses two messages of a user in a row."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A tiny model's parts."""

    processor: Any
    config: Any
    frame_px: int
    """A frame is a square of this side."""
    end_token: str
    """What a policy samples to end a response."""
    frame_budget: int = 16
    """Frames of an episode; fewer where a frame costs many tokens."""


def _tokenizer(control: tuple[str, ...], *, template: str, eos: str, pad: str, bos: str | None = None, **named: str):
    """The study's byte-level vocabulary with a family's control tokens in place of Qwen's."""
    state = json.loads(tiny_model.make_tokenizer().backend_tokenizer.to_str())
    state["added_tokens"] = []
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        model_max_length=32768,
        extra_special_tokens=named,
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tiny_model.PLAIN_TOKENS])
    tokenizer.chat_template = template
    if bos is not None:  # as those families' own: it adds the token that the template has written already
        first = [(bos, tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=first)
    return tokenizer


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _rope(sections: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6, **more}


def _patches(px: int, *, frames: int = 1) -> dict[str, Any]:
    size = {"shortest_edge": frames * (2 * px) ** 2, "longest_edge": frames * (8 * px) ** 2}
    return {"patch_size": px, "temporal_patch_size": 2, "merge_size": 2, "size": size}


def _qwen_ids(tokenizer: Any) -> dict[str, Any]:
    marks = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    marks |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()}
    return {**ids, "tie_word_embeddings": False}


def _qwen2_5_vl() -> Family:
    processor = tiny_model.make_processor()
    return Family(processor, tiny_model.make_config(processor.tokenizer), 28, "<|im_end|>")


def _qwen2_vl() -> Family:
    tokenizer = tiny_model.make_tokenizer()
    processor = transformers.Qwen2VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**_patches(14)),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(**_patches(14)),
        chat_template=_QWEN_TEMPLATE,
    )
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14}
    config = transformers.Qwen2VLConfig(
        text_config=_text(tokenizer, rope_parameters=_rope([4, 6, 6])), vision_config=vision, **_qwen_ids(tokenizer)
    )
    return Family(processor, config, 28, "<|im_end|>")


def _qwen3_processor(template: str = _QWEN_TEMPLATE) -> Any:
    tokenizer = tiny_model.make_tokenizer()
    tokenizer.chat_template = template
    return transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(**_patches(16)),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(**_patches(16)),
        chat_template=template,
    )


_QWEN3_VISION = {
    "depth": 3, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128, "patch_size": 16,
    "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


def _qwen3_vl(template: str = _QWEN_TEMPLATE) -> Family:
    processor = _qwen3_processor(template)
    text = _text(processor.tokenizer, head_dim=32, rope_parameters=_rope([6, 5, 5], mrope_interleaved=True))
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=_QWEN3_VISION, **_qwen_ids(processor.tokenizer))
    return Family(processor, config, 32, "<|im_end|>")


def _qwen3_vl_thinking() -> Family:
    return _qwen3_vl(_QWEN_THINKING_TEMPLATE)


def _qwen3_vl_moe() -> Family:
    processor = _qwen3_processor()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
    # Released checkpoints name it; transformers always does so, and vLLM does not start without it.
    experts["norm_topk_prob"] = True
    text = _text(processor.tokenizer, head_dim=32, rope_parameters=_rope([6, 5, 5], mrope_interleaved=True), **experts)
    config = transformers.Qwen3VLMoeConfig(
        text_config=text, vision_config=_QWEN3_VISION, **_qwen_ids(processor.tokenizer)
    )
    return Family(processor, config, 32, "<|im_end|>")


def _glm4v() -> Family:
    control = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
    control += ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    tokenizer = _tokenizer(
        (*control, "<|image|>", "<|video|>"), eos="<|endoftext|>", pad="<|endoftext|>", template=_GLM_TEMPLATE
    )
    processor = transformers.Glm4vProcessor(
        image_processor=transformers.Glm4vImageProcessor(**_patches(14, frames=2)),
        tokenizer=tokenizer,
        video_processor=transformers.Glm4vVideoProcessor(**_patches(14, frames=2)),
        chat_template=_GLM_TEMPLATE,
    )
    ids = tokenizer.convert_tokens_to_ids
    marks = {"image": "<|image|>", "image_start": "<|begin_of_image|>", "image_end": "<|end_of_image|>"}
    marks |= {"video": "<|video|>", "video_start": "<|begin_of_video|>", "video_end": "<|end_of_video|>"}
    text = _text(tokenizer, attention_bias=True, rope_parameters=_rope([2, 3, 3], partial_rotary_factor=0.5))
    text["eos_token_id"] = [ids(token) for token in ("<|endoftext|>", "<|user|>", "<|observation|>")]
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 128}
    config = transformers.Glm4vConfig(
        text_config=text,
        vision_config={**vision, "patch_size": 14, "image_size": 112},
        tie_word_embeddings=False,
        **{f"{name}_token_id": ids(token) for name, token in marks.items()},
    )
    return Family(processor, config, 56, "<|user|>")


def _gemma4() -> Family:
    control = ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|image>", "<|image|>", "<image|>")
    control += ("<|video|>", "<|audio>", "<|audio|>", "<audio|>", "<|tool_response>")
    named = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    named |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    tokenizer = _tokenizer(control, bos="<bos>", eos="<eos>", pad="<pad>", template=_GEMMA_TEMPLATE, **named)
    processor = transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessor(patch_size=16, max_soft_tokens=70, pooling_kernel_size=3),
        tokenizer=tokenizer,
        video_processor=transformers.Gemma4VideoProcessor(),
        chat_template=_GEMMA_TEMPLATE,
        image_seq_length=70,
    )
    ids = tokenizer.convert_tokens_to_ids
    text = _text(
        tokenizer,
        head_dim=32,
        global_head_dim=32,
        sliding_window=512,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=len(tokenizer),
        layer_types=["sliding_attention", "full_attention"] * 2,
        tie_word_embeddings=True,
    )
    vision = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 32, "patch_size": 16, "pooling_kernel_size": 3}
    config = transformers.Gemma4Config(
        text_config=text,
        # vLLM reads the last; transformers' own config class does not name it.
        vision_config={**vision, "position_embedding_size": 64, "default_output_length": 70},
        audio_config=None,
        tie_word_embeddings=True,
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        audio_token_id=ids("<|audio|>"),
        boi_token_id=ids("<|image>"),
        eoi_token_id=ids("<image|>"),
        boa_token_id=ids("<|audio>"),
    )
    return Family(processor, config, 384, "<turn|>", frame_budget=4)


INTERNVL_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
INTERNVL_NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def make_internvl(side_px: int = 56, tokenizer: Any = None) -> Family:
    """A tiny InternVL3 whose processor makes tiles of `side_px`, with a tokenizer of its own or the one given."""
    tokenizer = tokenizer or _tokenizer(
        INTERNVL_CONTROL, eos="<|im_end|>", pad="<|endoftext|>", template=_INTERNVL_TEMPLATE, **INTERNVL_NAMED
    )
    size = {"height": side_px, "width": side_px}
    num_tokens = (side_px // 28) ** 2
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=size, crop_to_patches=False),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=num_tokens,
        chat_template=_INTERNVL_TEMPLATE,
    )
    rope = {"rope_type": "default", "rope_theta": 1e6}
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    vision |= {"image_size": [side_px, side_px], "patch_size": [14, 14], "attention_bias": True}
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer, rope_parameters=rope, tie_word_embeddings=False)},
        vision_config={**vision, "use_qk_norm": False, "use_mask_token": False, "norm_type": "layer_norm"},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=num_tokens,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    return Family(processor, config, side_px, "<|im_end|>")


def _mistral3() -> Family:
    control = ("<unk>", "<s>", "</s>", "<pad>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]")
    tokenizer = _tokenizer(
        (*control, "[IMG]", "[IMG_BREAK]", "[IMG_END]"), bos="<s>", eos="</s>", pad="<pad>", template=_MISTRAL_TEMPLATE
    )
    processor = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(
            size={"longest_edge": 112}, patch_size={"height": 14, "width": 14}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=_MISTRAL_TEMPLATE,
    )
    rope = {"rope_type": "default", "rope_theta": 1e6}
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32, "image_size": 112}
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", "sliding_window": None, "head_dim": 32}
        | _text(tokenizer, rope_parameters=rope, tie_word_embeddings=False),
        vision_config={"model_type": "pixtral", "intermediate_size": 128, "patch_size": 14, **vision},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return Family(processor, config, 56, "</s>")


FAMILIES: dict[str, Callable[[], Family]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_thinking": _qwen3_vl_thinking,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "glm4v": _glm4v,
    "gemma4": _gemma4,
    "internvl": make_internvl,
    "mistral3": _mistral3,
}
