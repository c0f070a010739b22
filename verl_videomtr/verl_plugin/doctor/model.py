# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""Can this model be trained so? Its processor, value head and chat template, and what its texts and frames cost.

The policy's config, tokenizer and processor are loaded through verl's own HFModelConfig; weights are not touched.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict

from verl_videomtr.verl_plugin.doctor import weights
from verl_videomtr.verl_plugin.doctor.case import Case
from verl_videomtr.verl_plugin.doctor.findings import Finding, Level, counted, error, note, ok, warning
from verl_videomtr.verl_plugin.doctor.rendering import Measured, Renderer, largest_size, measure_text, usual_size
from verl_videomtr.verl_plugin.turn_end import read_turn_end

VERL_DEFAULT = "~/models/deepseek-llm-7b-chat"
"""What model paths are in verl's own configuration."""


def check_model(case: Case) -> Iterator[Finding]:
    """Load the policy's files and judge them; leaves `case.model` and `case.measured` behind."""
    path = str(case.get("actor_rollout_ref.model.path"))
    found = _load(case, "actor_rollout_ref.model")
    if isinstance(found, Finding):
        case.is_model_refused = found.level is Level.ERROR
        yield found
        return
    model, complaint = found
    if model.processor is None:
        case.is_model_refused = True
        yield error(
            "model.processor",
            f"actor_rollout_ref.model.path={path} has no multimodal processor that verl accepts ({complaint})",
            why="verl goes on without one, and every episode is refused by the agent loop",
            advice="actor_rollout_ref.model.path=<a vision-language checkpoint with its processor files>",
        )
        return
    case.model = model
    yield ok("model.processor", f"{type(model.processor).__name__} of {path}")
    yield from _heads(case)
    yield from _fused_head(case)
    yield from _positions(case)
    if case.has_critic:
        yield from _critic(case)
    if not case.uses_own_loop:
        yield note("model.template", "the agent loop is not video_mtr: its messages are not rendered here")
        return
    yield from _tags(case)
    try:
        yield from _measure(case)
    except Exception as failure:  # of the template, the builder or the processor: the agent loop's own calls
        case.is_model_refused = True
        yield error(
            "model.template",
            f"the messages of an episode do not render with {path}: {type(failure).__name__}: {failure}",
            why="the agent loop makes the same calls in every episode, and loses all of them",
            advice="a checkpoint whose template only appends and marks images, or that template in "
            "actor_rollout_ref.model.custom_chat_template"
            + ("; or no data.mm_processor_kwargs" if case.get("data.mm_processor_kwargs") else ""),
        )


def _load(case: Case, key: str) -> tuple[Any, str] | Finding:
    """Make verl's HFModelConfig of a section: it, and what was warned of meanwhile."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import HFModelConfig

    section = copy.deepcopy(OmegaConf.select(case.config, key))
    path = str(section.path)
    if path == VERL_DEFAULT:
        return error(
            "model.files",
            f"{key}.path is not set: {path} is verl's default, a model for text alone",
            why="every worker that holds the model or its tokenizer loads it at its start",
            advice=f"{key}.path=<a vision-language checkpoint>",
        )
    local = find_files(path)
    if local is None:
        return _missing(case, key, path)
    with open_dict(section):
        section.path = local
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = omega_conf_to_dataclass(section, dataclass_type=HFModelConfig)
        except Exception as failure:
            return error(
                "model.files",
                f"{key}.path={path} does not load: {type(failure).__name__}: {failure}",
                why="every worker that holds the model or its tokenizer loads the same files at its start",
                advice=f"{key}.path=<a checkpoint folder as transformers saves it>",
            )
    if (wrong := weights.complaint_of(Path(local))) and (Path(path).expanduser().is_dir() or _is_offline()):
        return error(
            "model.weights",
            f"{key}.path={path}: {wrong}",
            why="verl and vLLM load them behind the start of all workers, and stop",
            advice=f"{key}.path=<a whole checkpoint>; fetch the missing files again (hf download resumes)",
        )
    complaints = [str(entry.message) for entry in caught if "processor" in str(entry.message).lower()]
    return model, complaints[-1] if complaints else "a tokenizer alone"


def find_files(path: str) -> str | None:
    """The folder that a model path means on this machine, without downloading; None where there is none."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if path.startswith(("/", "~", ".")) or "://" in path:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(path, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _missing(case: Case, key: str, path: str) -> Finding:
    is_hub_name = not path.startswith(("/", "~", ".")) and path.count("/") == 1
    if "://" in path or case.elsewhere or (is_hub_name and not _is_offline()):
        return note(
            "model.files",
            f"{key}.path={path} is not on this machine, so its processor, template and lengths were not checked",
            advice=f"hf download {path}" if is_hub_name else "",
        )
    return error(
        "model.files",
        f"{key}.path={path} is no folder here" + (", and HF_HUB_OFFLINE is set" if is_hub_name else ""),
        why="verl loads tokenizer and weights from it at the start",
        advice=f"{key}.path=<a checkpoint folder>" + (f", or `hf download {path}`" if is_hub_name else ""),
    )


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _text_config(config: Any) -> Any:
    return getattr(config, "text_config", None) or config


def _heads(case: Case) -> Iterator[Finding]:
    config = _text_config(case.model.hf_config)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = int(case.rollout.tensor_model_parallel_size)
    if heads % size:
        yield error(
            "model.heads",
            f"rollout.tensor_model_parallel_size={size} does not divide the model's {heads} attention heads",
            why="vLLM refuses to start",
            overrides=[f"actor_rollout_ref.rollout.tensor_model_parallel_size={_dividing(heads, size)}"],
        )
    for role, size in case.sequence_parallel.items():
        if heads % size or (kv_heads % size and size % kv_heads):
            key = "critic.fsdp" if role == "critic" else f"actor_rollout_ref.{role}"
            yield error(
                "model.heads",
                f"{key}.ulysses_sequence_parallel_size={size} does not divide the model's {heads} attention heads "
                f"and {kv_heads} of keys",
                why=f"verl asserts it when it builds the {role} (apply_monkey_patch)",
                overrides=[f"{key}.ulysses_sequence_parallel_size={_dividing(heads, size)}"],
            )
        if size > 1 and not case.get("critic.model.use_remove_padding" if role == "critic" else _PADDING):
            section = "critic.model" if role == "critic" else "actor_rollout_ref.model"
            yield error(
                "model.heads",
                f"sequence parallelism over {size} GPUs with {section}.use_remove_padding=false",
                why=f"verl's FSDP engine refuses it when it builds the {role}",
                overrides=[f"{section}.use_remove_padding=true"],
                advice="which needs flash-attn, or no sequence parallelism",
            )


_PADDING = "actor_rollout_ref.model.use_remove_padding"


def _dividing(number: int, most: int) -> int:
    return next(size for size in range(most, 0, -1) if number % size == 0)


def _fused_head(case: Case) -> Iterator[Finding]:
    """verl's fused forward reads the head's weight, and never enters the FSDP 2 unit that it lies in."""
    config = case.model.hf_config
    tied = getattr(config, "tie_word_embeddings", False) or getattr(_text_config(config), "tie_word_embeddings", False)
    is_fsdp2 = case.get("actor_rollout_ref.actor.strategy") == "fsdp2"
    if not case.get(_FUSED) or not is_fsdp2 or tied:
        return
    yield error(
        "model.head",
        f"{_FUSED}=true under FSDP 2, and the model's head has weights of its own",
        why="such a head is an FSDP unit that verl's fused forward does not gather: Qwen2.5-VL's stops in the "
        "first step (mixed torch.Tensor and DTensor), Qwen3-VL's trains each rank's part of the head on its rows alone",
        overrides=[f"{_FUSED}=false"],
        advice="or the strategy fsdp for actor and reference",
    )


_FUSED = "actor_rollout_ref.model.use_fused_kernels"


def _positions(case: Case) -> Iterator[Finding]:
    most = getattr(_text_config(case.model.hf_config), "max_position_embeddings", None)
    asked = case.get("actor_rollout_ref.rollout.max_model_len")
    if most is not None and asked is not None and asked > most:
        yield error(
            "lengths.model",
            f"rollout.max_model_len={asked}, more than the model's {most} positions",
            why="verl's vLLM server refuses it at its start",
            overrides=[f"actor_rollout_ref.rollout.max_model_len={most}"],
        )


def _critic(case: Case) -> Iterator[Finding]:
    from transformers import AutoModelForTokenClassification

    from verl_videomtr.verl_plugin import value_heads

    path = str(case.get("critic.model.path"))
    same = f"critic.model.path={case.get('actor_rollout_ref.model.path')}"
    found = _load(case, "critic.model")
    if isinstance(found, Finding):
        fixed: dict[str, Any] = {"overrides": (same,), "advice": ""} if found.level is Level.ERROR else {}
        yield dataclasses.replace(found, check="model.critic", **fixed)
        return
    config = found[0].hf_config
    own = value_heads.supports(config)
    if not own and type(config) not in AutoModelForTokenClassification._model_mapping:
        yield error(
            "model.critic",
            f"no value head for critic.model.path={path} of type {config.model_type}; expected an image-text-to-text "
            "model of transformers",
            why="verl's critic worker fails at its start, asking for trl, whose value model drops images",
            overrides=["algorithm.adv_estimator=grpo", "critic.enable=false", "videomtr.bootstrap.enabled=false"],
            advice="or another model",
        )
        return
    policy = case.model.hf_config
    for name, of in (("image_token_id", lambda c: c), ("patch_size", lambda c: getattr(c, "vision_config", None))):
        theirs, ours = getattr(of(config), name, None), getattr(of(policy), name, None)
        if theirs != ours:
            yield error(
                "model.critic",
                f"critic.model.path={path} has {name}={theirs}, the policy {ours}",
                why="the critic reads the policy's tokens and patches: its first forward pass fails",
                overrides=[same],
            )
            return
    yield ok("model.critic", f"value head for {config.model_type} of {path}")


def _measure(case: Case) -> Iterator[Finding]:
    """Render episodes as the agent loop does; what they cost is what they add."""
    pool = case.settings.video.pool
    renderer = Renderer(case)
    small = (pool.factor_px, pool.factor_px)
    text = measure_text(renderer, small)
    usual, usual_of = usual_size(case)
    sizes = {"usual": usual, "largest": largest_size(pool)}
    tokens = {name: renderer.frame_tokens(size) for name, size in sizes.items()}
    case.measured = Measured(text=text, usual_frame=tokens["usual"], largest_frame=tokens["largest"], usual_of=usual_of)
    yield ok(
        "model.template",
        f"appends and expands images; besides the frames {text.instructions + text.message} tokens for the first "
        f"message, {text.message} for a later one, {text.frame} around a frame",
    )
    yield from _grid(case, tokens["usual"], usual)
    yield from _same_pixels(case, renderer, usual)


def _tags(case: Case) -> Iterator[Finding]:
    """What a policy writes must be there when its tokens are read, special tokens or not."""
    text = "<think>why</think><retrieve>1,2</retrieve><answer>A</answer>"
    tokenizer = case.model.tokenizer
    kwargs = dict(case.get("data.apply_chat_template_kwargs", {}))
    try:
        turn_end = read_turn_end(tokenizer, case.model.processor, **kwargs)
    except Exception:  # of the template: `model.template` says so
        return
    read = tokenizer.decode(turn_end.without_end(tokenizer.encode(text, add_special_tokens=False)))
    if lost := [tag for tag in re.findall("</?[a-z]+>", text) if tag not in read]:
        yield error(
            "model.tags",
            f"{', '.join(lost)} of {text!r} is lost where the tokenizer encodes and decodes it ({read!r})",
            why="no response ever parses: every turn is invalid",
            advice="actor_rollout_ref.model.path=<a checkpoint whose tokenizer keeps the tags>, or "
            "videomtr.prompts=tool_calls with +videomtr/loop=tool_agent",
        )


def _grid(case: Case, measured: int, size: tuple[int, int]) -> Iterator[Finding]:
    """A frame that is served on the model's grid passes the processor as it is."""
    pool = case.settings.video.pool
    vision = getattr(case.model.hf_config, "vision_config", None)
    patch, merge = getattr(vision, "patch_size", None), getattr(vision, "spatial_merge_size", None)
    height, width = size
    factor = patch * merge if patch and merge else pool.factor_px
    why = "the processor resamples every frame once more, and no token count of the configuration holds"
    if pool.size is None and factor != pool.factor_px:
        yield warning(
            "frames.grid",
            f"frames are made for tokens of {pool.factor_px} px a side, the model's are of {factor}",
            why=why,
            overrides=[f"videomtr.video.pool.patch_px={patch}", f"videomtr.video.pool.merge={merge}"],
        )
    elif height % factor or width % factor:
        sides = ",".join(str(max(1, round(side / factor)) * factor) for side in size)
        yield warning(
            "frames.grid",
            f"frames of {height}x{width} px, the model's tokens are of {factor} px a side",
            why=why,
            overrides=[f"videomtr.video.pool.size=[{sides}]"],
        )
    elif pool.size is None and measured != height * width // pool.factor_px**2:
        limits = getattr(case.model.processor.image_processor, "size", None)
        yield warning(
            "frames.grid",
            f"a frame of {height}x{width} px becomes {measured} tokens, not {height * width // pool.factor_px**2}",
            why=f"the model's image processor has bounds of its own ({limits}) and resamples every frame once more",
            advice="bring videomtr.video.pool.min_tokens and max_tokens inside the processor's bounds",
        )
    else:
        yield ok("frames.grid", f"{counted(measured, 'visual token')} for a frame of {height}x{width} px")


def _same_pixels(case: Case, renderer: Renderer, size: tuple[int, int]) -> Iterator[Finding]:
    """vLLM's server is sent no `data.mm_processor_kwargs`, but takes its own: both must make the same of a frame."""
    key = "actor_rollout_ref.rollout.engine_kwargs.vllm.mm_processor_kwargs"
    given, engines = (dict(case.get(name) or {}) for name in ("data.mm_processor_kwargs", key))
    if given == engines:
        return
    served = Renderer(case, mm_processor_kwargs=engines).frame_tokens(size)
    trained = renderer.frame_tokens(size)
    if served != trained:
        yield error(
            "frames.same",
            f"data.mm_processor_kwargs={given} makes {trained} tokens of a frame that vLLM makes {served} of",
            why="the policy would be trained on other frames than it saw: log-probabilities of two models are compared",
            advice="data.mm_processor_kwargs={} and videomtr.video.pool.max_tokens, which both sides see; or the same "
            f"in +{key}",
        )
