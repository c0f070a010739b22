# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Do this family's processor, template and model do what the loop, the trainer and the engine need? Asked by trying.

Nothing here knows a family by name: an episode's messages are rendered and sent through the processor, and adapters are
put on a model that takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image

from verl_videomtr.verl_plugin import value_heads
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, counted, error, ok, warning
from verl_videomtr.verl_plugin.doctor.rendering import Renderer, largest_size, usual_size
from verl_videomtr.verl_plugin.image_tokens import ImageTokens, ImageTokensError
from verl_videomtr.verl_plugin.row_inputs import forward_names, image_inputs
from verl_videomtr.verl_plugin.turn_end import end_ids_of_server, opened_thought, read_turn_end


def check_family(case: Case) -> Iterator[Finding]:
    """Try what a run would do with the model's files; nothing where `check_model` could not load them."""
    if case.model is None or case.is_model_refused or not case.uses_own_loop:
        return
    yield from _ends(case)
    yield from _text(case)
    if value_heads.supports(case.model.hf_config):
        yield from _pixels(case)
        yield from _adapters(case)


def _ends(case: Case) -> Iterator[Finding]:
    """A server has to stop where the template ends a response."""
    tokenizer = case.model.tokenizer
    closing = read_turn_end(tokenizer, case.model.processor, **_template_kwargs(case)).closing_ids
    stops = end_ids_of_server(tokenizer)
    if closing and closing[0] not in stops:
        names = ", ".join(sorted(tokenizer.decode([token]) for token in stops)) or "nothing"
        yield warning(
            "model.ends",
            f"the template ends a response with {tokenizer.decode(closing[:1])!r}, the server stops at {names}",
            why="every response runs on to its limit, unless the model writes one of those by itself",
            advice=f"add {closing[0]} to eos_token_id in the model's generation_config.json",
        )
    else:
        yield ok("model.ends", f"a response ends at {tokenizer.decode(closing[:1] or sorted(stops)[:1])!r}")


def _template_kwargs(case: Case) -> dict[str, Any]:
    return dict(case.get("data.apply_chat_template_kwargs", {}) or {})


def _text(case: Case) -> Iterator[Finding]:
    """Two turns with images, built as the agent loop does: collapsed, they are what the template says of them."""
    renderer = Renderer(case)
    if renderer.image_token_id is None:
        yield error(
            "model.images",
            f"{type(case.model.processor).__name__} names no image token",
            why="the agent loop cannot tell an engine where the images are, and refuses every episode",
            advice="actor_rollout_ref.model.path=<a checkpoint whose images take tokens in the text>",
        )
        return
    tokens = ImageTokens(
        case.model.processor,
        renderer.image_token_id,
        processor_kwargs=case.get("data.mm_processor_kwargs"),
        template_kwargs=_template_kwargs(case),
    )
    height, width = usual_size(case)[0]
    ids, messages = _two_turns(renderer, (width, height))
    try:
        shown = tokens.collapse(ids, [(width, height)] * 3)
    except ImageTokensError as wrong:
        yield error(
            "model.images",
            f"{type(case.model.processor).__name__}: {str(wrong).partition('; ')[0]}, in an episode of two turns",
            why="the engine would read another context than the trainer: the agent loop refuses every such episode",
            advice="actor_rollout_ref.model.path=<a model that writes an image the same whatever stands beside it>",
        )
        return
    text = case.model.processor.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **_template_kwargs(case)
    )
    if shown != list(case.model.tokenizer.encode(text, add_special_tokens=False)):
        yield warning(
            "model.text",
            "the tokens of two turns are not those of the template's own rendering",
            why="engine and trainer read the same, but not what the model was taught on",
            advice="compare both: the template may leave out earlier thoughts, or need "
            "actor_rollout_ref.model.custom_chat_template",
        )
    else:
        yield ok(
            "model.images", f"engine and trainer read the template's own text; {_marks(case, tokens, width, height)}"
        )


def _marks(case: Case, tokens: ImageTokens, width: int, height: int) -> str:
    short = case.model.tokenizer.decode(tokens.written(width, height).short)
    return f"an image is {short!r}"


def _two_turns(renderer: Renderer, size: tuple[int, int]) -> tuple[list[int], list[dict[str, Any]]]:
    """An overview of two frames, a reply and a look at one more: the row's ids, and the messages."""
    tokenizer = renderer.case.model.tokenizer
    frames = [{"type": "image", "image": Image.new("RGB", size, colour)} for colour in ("red", "green", "blue")]
    text = [{"type": "text", "text": word} for word in ("Frame 0: ", "\nFrame 1: ", "\nWhat is it?", "A closer look: ")]
    first = {"role": "user", "content": [text[0], frames[0], text[1], frames[1], text[2]]}
    said: list[dict[str, Any]] = [{"role": "system", "content": "Look."}, first]
    reply = "<think>why</think><retrieve>1,2</retrieve>"
    ids = list(renderer.builder.build_initial_tokens(said, images=[part["image"] for part in frames[:2]]))
    sampled = reply.removeprefix(opened_thought(tokenizer, ids))
    ids += [*tokenizer.encode(sampled, add_special_tokens=False), *renderer.closing_ids]
    answered = [*said, {"role": "assistant", "content": reply}]
    whole = [*answered, {"role": "user", "content": [text[3], frames[2], text[2]]}]
    return list(renderer.builder.merge_context_tokens(answered, whole, ids).token_ids), whole


def _pixels(case: Case) -> Iterator[Finding]:
    """The trainer's pixels are the processor's own, and rows of different videos can be joined."""
    import torch

    processor, config = case.model.processor, case.model.hf_config
    kwargs = dict(case.get("data.mm_processor_kwargs") or {})
    height, width = usual_size(case)[0]
    images = [Image.new("RGB", (width, height), colour) for colour in ("red", "green")]
    ids = torch.zeros(1, dtype=torch.long)

    def made(given: list[Image.Image]) -> dict[str, Any]:
        return image_inputs(processor, given, input_ids=ids, image_token_id=-1, processor_kwargs=kwargs)

    ours = made(images)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}]
    text = processor.apply_chat_template(messages, tokenize=False, **_template_kwargs(case))
    theirs = processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False, **kwargs)
    taken = forward_names(type(config)) & set(processor.image_processor.model_input_names)
    names = [name for name in theirs if name in taken]
    wrong = [name for name in names if not _same(ours.get(name), theirs[name])]
    if wrong:
        yield error(
            "frames.pixels",
            f"{', '.join(wrong)} of a frame of {height}x{width} px: the image processor alone makes other ones than "
            f"{type(processor).__name__} does",
            why="the trainer would see other pixels than the engine",
            advice="videomtr.video.pool.size=[H,W] with sides that are multiples of the model's patch",
        )
        return
    if case.settings.video.pool.size is None:
        tall = made([Image.new("RGB", largest_size(case.settings.video.pool)[::-1])] * 2)
        if differing := [name for name in names if ours[name].shape[1:] != tall[name].shape[1:]]:
            yield error(
                "frames.pixels",
                f"{', '.join(differing)} has another shape for frames of another size",
                why="verl joins the tensors of a micro-batch's rows: it fails where videos differ in shape",
                overrides=[f"videomtr.video.pool.size=[{height},{width}]"],
            )
            return
    yield ok("frames.pixels", f"the image processor's own: {', '.join(names)}")


def _same(ours: Any, theirs: Any) -> bool:
    return ours is not None and ours.shape == theirs.shape and bool((ours == theirs).all())


def _adapters(case: Case) -> Iterator[Finding]:
    """Adapters lie where they train and where the engine has them: in the language model."""
    roles = {"actor_rollout_ref.model": False} | ({"critic.model": True} if case.has_critic else {})
    for section, is_critic in roles.items():
        rank = int(case.get(f"{section}.lora_rank", 0) or 0)
        if not rank:
            continue
        model, outside = _adapted(case, section, is_critic=is_critic)
        if isinstance(model, Exception):
            yield error(
                "model.adapters",
                f"{section}.lora_rank={rank}: peft refuses the model: {model}",
                why="verl's worker fails when it builds the model",
                overrides=[f"{section}.target_modules=all-linear"],
                advice=f"or {section}.lora_rank=0",
            )
        elif outside and not is_critic:
            yield error(
                "model.adapters",
                f"{section}.lora_rank={rank} puts adapters outside of the language model: {', '.join(outside)}",
                why="vLLM serves adapters of the language model alone: the policy that samples is not the one that is "
                "trained",
                overrides=[case.override(f"{section}.exclude_modules", f"'.*({'|'.join(outside)}).*'")],
            )
        else:
            yield ok("model.adapters", f"{section}: {counted(model, 'adapted layer')} of rank {rank}")


def _adapted(case: Case, section: str, *, is_critic: bool) -> tuple[Any, list[str]]:
    """Put adapters on a model without memory, as verl does.

    Returns:
        How many layers got one, or what peft said, and the parts outside of the language model among them.
    """
    import copy

    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForImageTextToText

    config = copy.deepcopy(case.model.hf_config)
    config.num_labels = 1
    given = {name: case.get(f"{section}.{name}") for name in ("target_modules", "exclude_modules")}
    lists: dict[str, Any] = {
        name: value if value is None or isinstance(value, str) else list(value) for name, value in given.items()
    }
    try:
        with torch.device("meta"):
            family: Any = value_heads.value_class(type(config))[0] if is_critic else AutoModelForImageTextToText
            make = family._from_config if is_critic else family.from_config
            model = make(config, attn_implementation="eager")  # the run's own may not be installed here
            decoder = {id(part) for part in model.get_decoder().modules()}
            rank = int(case.get(f"{section}.lora_rank"))
            wrapped = get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, r=rank, bias="none", **lists))
    except Exception as refusal:  # peft's own kinds
        return refusal, []
    adapted = [(name, part) for name, part in wrapped.named_modules() if hasattr(part, "lora_A")]
    tops = [name.removeprefix("base_model.model.") for name, part in adapted if id(part.base_layer) not in decoder]
    outside = sorted({_part(name) for name in tops if not name.startswith(("lm_head", "score"))})
    return len(adapted), outside


def _part(name: str) -> str:
    """`model.vision_tower.encoder.layer.0` -> `vision_tower`."""
    parts = name.split(".")
    return parts[1] if parts[0] == "model" and len(parts) > 1 else parts[0]
