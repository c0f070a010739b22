# Copyright 2025 Individual Contributor: the verl_videomtr authors
# SPDX-License-Identifier: Apache-2.0
"""What of verl the plugin is built on, one entry for each part that is no public interface; `drift` compares them.

The plugin subclasses, wraps and replaces these. Whoever makes it rely on another part of verl adds it here.

How to read an entry: `PlugPoint(file=_BASE, name="PPOTrainer._update_actor", used_by="trainers", parameters=_STEP)`
says that trainers.py overrides that method and calls it with (self, batch, metrics). `holds` quotes lines of verl whose
order or strings the plugin depends on without calling them: where a line is reworded, the plugin would go on and do
something else, so the difference has to be found here. The files are parsed, never imported, so the check can run
before verl does.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PlugPoint:
    """One part of verl (or of TransferQueue, which comes with it) that the plugin relies on."""

    file: str
    """Path below the packages' folder."""
    name: str
    """A function, class or variable in it, `Class.method` for a method; "" is the file itself."""
    used_by: str
    """The plugin's module, below verl_plugin/."""
    parameters: tuple[str, ...] | None = None
    """The function's parameters in order, * and ** as written; None compares none."""
    holds: tuple[str, ...] = ()
    """Pieces of code that it must hold; layout, quotes and comments do not count."""
    fields: tuple[str, ...] = ()
    """Annotated fields that the class must have."""


_LOOP = "verl/experimental/agent_loop/agent_loop.py"
_TOOL_LOOP = "verl/experimental/agent_loop/tool_agent_loop.py"
_TOKENS = "verl/utils/tokenizer/continuous_token.py"
_TQ_LOOP = "verl/trainer/ppo/v1/agent_loop_tq.py"
_BASE = "verl/trainer/ppo/v1/trainer_base.py"
_ALGOS = "verl/trainer/ppo/core_algos.py"
_IMPORTS = "verl/utils/import_utils.py"
_STEP = ("self", "batch", "metrics")

PLUG_POINTS: tuple[PlugPoint, ...] = (
    # How verl finds the plugin.
    PlugPoint(
        file="verl/__init__.py",
        name="",
        used_by="register",
        holds=("_entry_points(group='verl.plugins')", "os.getenv('VERL_USE_EXTERNAL_MODULES', '')"),
    ),
    PlugPoint(
        file="verl/trainer/main_ppo.py",
        name="",
        used_by="trainers",
        holds=("get_trainer_cls(config.trainer.v1.trainer_mode)",),
    ),
    # The agent loop.
    PlugPoint(file=_LOOP, name="_agent_loop_registry", used_by="register"),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopBase.__init__",
        used_by="agent_loop",
        parameters=("self", "trainer_config", "server_manager", "tokenizer", "processor")
        + ("dataset_cls", "data_config", "hf_model_type", "**kwargs"),
        holds=(
            "self.config = trainer_config.config",
            "self.rollout_config = self.config.actor_rollout_ref.rollout",
            "self.server_manager = server_manager",
            "self.continuous_token_builder = create_continuous_token_builder(",
        ),
    ),
    PlugPoint(
        file=_LOOP, name="AgentLoopBase.run", used_by="agent_loop", parameters=("self", "sampling_params", "**kwargs")
    ),
    # The tokens of an episode.
    PlugPoint(
        file=_TOKENS,
        name="ContinuousTokenBuilder.build_initial_tokens",
        used_by="token_policy",
        parameters=("self", "messages", "tools", "images", "videos", "audios", "mm_inputs_out"),
    ),
    PlugPoint(
        file=_TOKENS,
        name="ContinuousTokenBuilder.merge_context_tokens",
        used_by="token_policy",
        parameters=("self", "previous_messages", "updated_messages", "runtime_token_ids", "tools"),
    ),
    PlugPoint(
        file=_TOKENS,
        name="MergeResult",
        used_by="token_policy",
        fields=("token_ids", "removed_prefix_token_count"),
    ),
    PlugPoint(
        file="verl/workers/rollout/replica.py",
        name="TokenOutput",
        used_by="token_policy",
        fields=("token_ids", "log_probs", "stop_reason", "num_preempted", "extra_fields"),
    ),
    PlugPoint(
        file="verl/workers/rollout/vllm_rollout/vllm_async_server.py",
        name="",
        used_by="token_policy",
        holds=("stop_reason = 'aborted'", "stop_reason = finish_reason"),
    ),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopOutput",
        used_by="agent_loop",
        fields=("prompt_ids", "response_ids", "response_mask", "response_logprobs", "multi_modal_data")
        + ("reward_score", "num_turns", "metrics", "extra_fields"),
    ),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopOutput.as_dict",
        used_by="agent_loop",
        parameters=("self",),
        holds=(
            "self.model_dump(exclude_unset=True)",
            "rm_scores[-1] = reward_score",
            "output['rm_scores'] = rm_scores",
        ),
    ),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopMetrics",
        used_by="agent_loop",
        fields=("generate_sequences", "tool_calls", "compute_score", "num_preempted"),
    ),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopWorker._compute_score",
        used_by="agent_loop",
        holds=("final_output.reward_score is None and enable_async_reward",),
    ),
    PlugPoint(
        file=_TQ_LOOP,
        name="AgentLoopWorkerTQ._agent_loop_postprocess",
        used_by="agent_loop",
        holds=(
            "outputs = output if isinstance(output, list) else [output]",
            "keys.append(f'{uid}_{session_id}_{i}')",
            "field = output.as_dict()",
            "output.extra_fields['reward_extra_info'] = final_output.extra_fields['reward_extra_info']",
            "field['extra_fields'].get('min_global_steps')",
        ),
    ),
    PlugPoint(
        file=_TQ_LOOP,
        name="AgentLoopWorkerTQ._run_prompt",
        used_by="loop_workers",
        holds=(
            "session_errors = await _settle_session_tasks(tasks)",
            "status = 'failure'",
            "prompt.pop('__rollout_n__', config.n if not trajectory['validate'] else config.val_kwargs.n)",
            "self._run_agent_loop(run_sampling_params, trajectory=trajectory, trace=trace, session_id=i, **prompt)",
        ),
    ),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopWorker._run_agent_loop",
        used_by="loop_workers",
        parameters=("self", "sampling_params", "trajectory", "agent_name", "trace", "**kwargs"),
        holds=("self._agent_loop_postprocess(output, trajectory['validate'], **kwargs)",),
    ),
    PlugPoint(
        file=_TQ_LOOP,
        name="AgentLoopManagerTQ.generate_sequences",
        used_by="loop_workers",
        parameters=("self", "prompts"),
    ),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopManager._init_agent_loop_workers",
        used_by="loop_workers",
        holds=("self.agent_loop_workers_class.options(",),
    ),
    PlugPoint(
        file="verl/trainer/main_ppo.py",
        name="",
        used_by="loop_workers",
        holds=(
            "manager_class_fqn = self.config.actor_rollout_ref.rollout.get('agent', {})"
            ".get('agent_loop_manager_class')",
        ),
    ),
    PlugPoint(
        file="verl/trainer/ppo/reward.py", name="get_custom_reward_fn", used_by="agent_loop", parameters=("config",)
    ),
    PlugPoint(
        file="verl/utils/tokenizer/tokenizer.py",
        name="get_processor_token_id",
        used_by="agent_loop",
        parameters=("processor", "token_name"),
    ),
    # The pixels of rows, from the agent loop's worker to the model.
    PlugPoint(
        file=_TQ_LOOP,
        name="AgentLoopWorkerTQ._agent_loop_postprocess",
        used_by="loop_workers",
        parameters=("self", "output", "validate", "**kwargs"),
        holds=(
            "multi_modal_inputs = self._compute_multi_modal_inputs(output, input_ids)",
            "field.pop('multi_modal_data', None)",
            "field['multi_modal_inputs'] = multi_modal_inputs",
        ),
    ),
    PlugPoint(
        file="verl/utils/model.py",
        name="extract_multi_modal_inputs",
        used_by="device_patches",
        parameters=("batch_data", "indices"),
        holds=("[batch_data[i] for i in indices if i < len(batch_data)]", "inputs is None", "torch.cat(values, dim=0)"),
    ),
    PlugPoint(file="verl/utils/device.py", name="get_device_id", used_by="device_patches", parameters=()),
    PlugPoint(
        file="verl/workers/engine/fsdp/transformer_impl.py",
        name="FSDPEngineWithLMHead.prepare_model_inputs",
        used_by="device_patches",
        holds=("extract_multi_modal_inputs(micro_batch.get('multi_modal_inputs', []))",),
    ),
    # What of a row goes to the workers that train.
    PlugPoint(
        file="verl/utils/transferqueue_utils.py",
        name="_async_meta_to_realdata",
        used_by="worker_columns",
        parameters=("meta",),
        holds=("meta_info = copy.deepcopy(meta.extra_info)", "await tq_client.async_get_data(meta)"),
    ),
    PlugPoint(
        file="verl/utils/transferqueue_utils.py",
        name="_meta_to_realdata",
        used_by="worker_columns",
        holds=("_run_async_in_temp_loop(_async_meta_to_realdata, meta)",),
    ),
    PlugPoint(
        file="verl/utils/transferqueue_utils.py",
        name="async_kv_batch_meta2batch_meta",
        used_by="worker_columns",
        parameters=("meta",),
        holds=("batch_meta.extra_info = meta.extra_info",),
    ),
    PlugPoint(file="transfer_queue/interface.py", name="get_client", used_by="worker_columns", parameters=()),
    PlugPoint(
        file="transfer_queue/client.py",
        name="AsyncTransferQueueClient.async_kv_retrieve_meta",
        used_by="worker_columns",
        parameters=("self", "keys", "partition_id", "create", "socket"),
    ),
    PlugPoint(
        file="transfer_queue/client.py",
        name="AsyncTransferQueueClient.async_kv_retrieve_keys",
        used_by="worker_columns",
        parameters=("self", "global_indexes", "partition_id", "socket"),
    ),
    PlugPoint(
        file="transfer_queue/metadata.py", name="KVBatchMeta", used_by="worker_columns", fields=("keys", "partition_id")
    ),
    PlugPoint(
        file="transfer_queue/metadata.py",
        name="extract_field_schema",
        used_by="worker_columns",
        holds=("'is_non_tensor': not is_tensor",),
    ),
    # The estimator, and what reaches it.
    PlugPoint(
        file="verl/trainer/ppo/core_algos.py",
        name="register_adv_est",
        used_by="estimators",
        parameters=("name_or_enum",),
    ),
    PlugPoint(
        file="verl/trainer/ppo/ray_trainer.py",
        name="compute_advantage",
        used_by="estimators",
        holds=(
            "adv_estimator_fn = core_algos.get_adv_estimator_fn(adv_estimator)",
            "'token_level_rewards': data.batch['token_level_rewards'], 'response_mask': data.batch['response_mask']",
            "advantages, returns = adv_estimator_fn(**adv_kwargs)",
        ),
    ),
    PlugPoint(
        file="verl/trainer/ppo/v1/utils.py",
        name="compute_advantage_for_multi_trajectories",
        used_by="estimators",
        holds=("if adv_estimator != core_algos.AdvantageEstimator.GRPO:\n    return compute_advantage(data,",),
    ),
    # The trainers.
    PlugPoint(file=_BASE, name="register_trainer", used_by="trainers", parameters=("name",)),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer.__init__",
        used_by="trainers",
        parameters=("self", "config"),
        holds=("self.trainer_mode = self.config.trainer.v1.trainer_mode", "self.local_trigger_step = 0"),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._build_replay_buffer",
        used_by="trainers",
        parameters=("self",),
        holds=("ReplayBuffer if self.trainer_mode == 'sync' else ReplayBufferAsync",),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._step_once",
        used_by="trainers",
        parameters=("self", "metrics", "timing_raw", "sample_batch_size"),
        holds=(
            "batch = self._balance_batch(batch, metrics=metrics)",
            "batch = self._compute_values(batch, metrics=metrics)",
            "batch = self._compute_advantage(batch, metrics=metrics)",
            "batch = self._update_critic(batch, metrics=metrics)",
            "batch = self._update_actor(batch, metrics=metrics)",
        ),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._balance_batch",
        used_by="trainers",
        parameters=("self", "batch", "metrics", "logging_prefix", "keep_minibatch"),
        holds=(
            "batch_multiple = self._get_required_batch_multiple(dp_size)",
            "upsample_batch_to_divisible_size(batch, batch_multiple, self.tokenizer.eos_token_id)",
        ),
    ),
    PlugPoint(
        file=_BASE, name="PPOTrainer._get_required_batch_multiple", used_by="trainers", parameters=("self", "dp_size")
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._compute_values",
        used_by="trainers",
        parameters=_STEP,
        holds=("data['values'] = response_from_nested(data.pop('values'), data['response_mask'])",),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._compute_advantage",
        used_by="trainers",
        parameters=_STEP,
        holds=(
            "data = DataProto(batch=data.to_padded_tensor())",
            "data.batch['token_level_scores'] = data.batch['rm_scores']",
            "data = compute_advantage_for_multi_trajectories(data, batch_keys=batch.keys",
            "adv_estimator=self.config.algorithm.adv_estimator",
            "output[field] = response_to_nested(data.batch[field], response_mask)",
        ),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._update_critic",
        used_by="trainers",
        parameters=_STEP,
        holds=("ppo_mini_batch_size = self.config.critic.ppo_mini_batch_size",),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._update_actor",
        used_by="trainers",
        parameters=_STEP,
        holds=("ppo_mini_batch_size = self.config.actor_rollout_ref.actor.ppo_mini_batch_size",),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._validate",
        used_by="trainers",
        parameters=("self",),
        holds=(
            "extra_field.get('reward_extra_info', {})",
            "self._val_metrics_update(data_sources, sample_uids, reward_extra_infos_dict,",
        ),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._val_metrics_update",
        used_by="trainers",
        parameters=("self", "data_sources", "sample_uids", "reward_extra_infos_dict", "sample_turns")
        + ("expected_acc_counts",),
    ),
    PlugPoint(
        file="verl/trainer/ppo/metric_utils.py",
        name="process_validation_metrics",
        used_by="trainers",
        holds=("isinstance(var_vals[0], str)",),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._save_checkpoint",
        used_by="trainers",
        parameters=("self",),
        holds=(
            "f'global_step_{self.global_steps}'",
            "'latest_checkpointed_iteration.txt'",
            "self.trainer_mode != 'sync'",
        ),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer._load_checkpoint",
        used_by="trainers",
        parameters=("self",),
        holds=("self.config.trainer.resume_from_path",),
    ),
    PlugPoint(
        file="verl/trainer/ppo/v1/trainer_sync.py",
        name="PPOTrainerSync",
        used_by="trainers",
        holds=("@register_trainer('sync')",),
    ),
    PlugPoint(
        file="verl/trainer/ppo/v1/trainer_colocate_async.py",
        name="PPOTrainerColocateAsync",
        used_by="trainers",
        holds=("@register_trainer('colocate_async')",),
    ),
    PlugPoint(
        file="verl/trainer/ppo/v1/trainer_separate_async.py",
        name="PPOTrainerSeparateAsync",
        used_by="trainers",
        holds=("@register_trainer('separate_async')",),
    ),
    PlugPoint(
        file="verl/trainer/ppo/v1/replay_buffer.py",
        name="",
        used_by="trainers",
        holds=(
            "self.poll_interval = poll_interval",
            "time.sleep(self.poll_interval)",
            "no materializable trajectories",
        ),
    ),
    PlugPoint(
        file="verl/trainer/ppo/padding_utils.py",
        name="upsample_batch_to_divisible_size",
        used_by="trainers",
        parameters=("batch", "batch_multiple", "eos_token_id"),
    ),
    PlugPoint(file="verl/trainer/ppo/padding_utils.py", name="", used_by="trainers", holds=("is_padding=True",)),
    # TransferQueue, in which verl keeps trajectories.
    PlugPoint(
        file="transfer_queue/interface.py",
        name="kv_batch_get",
        used_by="store",
        parameters=("keys", "partition_id", "select_fields"),
    ),
    PlugPoint(
        file="transfer_queue/interface.py",
        name="",
        used_by="store",
        holds=("for handle in _TQ_STORAGE['SimpleStorage'].values()",),
    ),
    PlugPoint(file="transfer_queue/interface.py", name="_TQ_CONTROLLER", used_by="store"),
    PlugPoint(file="transfer_queue/interface.py", name="_TQ_STORAGE", used_by="store"),
    PlugPoint(
        file="verl/trainer/ppo/v1/replay_buffer.py",
        name="ReplayBuffer._sync_metadata_from_transfer_queue",
        used_by="counted_run",
        parameters=("self",),
        holds=("self.finished_keys[partition_id].add(key)", "self.failure_keys[partition_id].add(key)"),
    ),
    PlugPoint(file=_BASE, name="PPOTrainer.step", used_by="counted_run", parameters=("self", "metrics", "timing_raw")),
    PlugPoint(file=_BASE, name="PPOTrainer.fit", used_by="watched_run", parameters=("self", "agent_loop_manager")),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer.init",
        used_by="watched_run",
        parameters=("self",),
        holds=("self._setup()", "self.on_init_end()"),
    ),
    PlugPoint(
        file="verl/utils/checkpoint/checkpoint_manager.py",
        name="find_latest_ckpt_path",
        used_by="kept_checkpoints",
        parameters=("path", "directory_format"),
    ),
    PlugPoint(
        file="verl/utils/tracking.py",
        name="FileLogger.__init__",
        used_by="kept_checkpoints",
        holds=(
            "os.getenv('VERL_FILE_LOGGER_PATH', None)",
            "os.getenv('VERL_FILE_LOGGER_ROOT', '.')",
            "open(self.filepath, 'wb', buffering=0)",
        ),
    ),
    # What writes a validation's episodes into verl's loggers.
    PlugPoint(
        file="verl/utils/tracking.py",
        name="Tracking.__init__",
        used_by="episode_table",
        holds=(
            "self.logger['wandb'] = wandb",
            "self.logger['vemlp_wandb'] = vemlp_wandb",
            "self.logger['tensorboard'] = _TensorboardAdapter(project_name, experiment_name)",
        ),
    ),
    PlugPoint(
        file="verl/utils/tracking.py",
        name="_TensorboardAdapter.__init__",
        used_by="episode_table",
        holds=("self.writer = SummaryWriter(tensorboard_dir)",),
    ),
    PlugPoint(
        file="verl/utils/tracking.py",
        name="ValidationGenerationsLogger.log",
        used_by="episode_table",
        parameters=("self", "loggers", "samples", "step"),
        holds=tuple(f"if '{name}' in loggers:" for name in ("swanlab", "mlflow", "trackio", "clearml")),
    ),
    PlugPoint(
        file=_BASE,
        name="PPOTrainer.fit",
        used_by="episode_table",
        holds=("self.logger = Tracking(", "self.validation_generations_logger = ValidationGenerationsLogger("),
    ),
    # What is asked of verl before a run.
    PlugPoint(file=_BASE, name="get_trainer_cls", used_by="doctor/agreement", parameters=("name",)),
    PlugPoint(file="verl/trainer/ppo/utils.py", name="need_critic", used_by="doctor/agreement", parameters=("config",)),
    PlugPoint(
        file="verl/trainer/ppo/utils.py",
        name="need_reference_policy",
        used_by="doctor/agreement",
        parameters=("config",),
    ),
    PlugPoint(
        file="verl/utils/config.py",
        name="validate_config",
        used_by="doctor/agreement",
        parameters=("config", "use_reference_policy", "use_critic"),
    ),
    PlugPoint(
        file="verl/utils/config.py",
        name="omega_conf_to_dataclass",
        used_by="doctor/agreement",
        parameters=("config", "dataclass_type"),
    ),
    PlugPoint(file="verl/workers/config/model.py", name="HFModelConfig", used_by="doctor/model"),
    PlugPoint(
        file="verl/utils/tokenizer/continuous_token_wiring.py",
        name="create_continuous_token_builder",
        used_by="doctor/model",
    ),
    PlugPoint(
        file=_TOKENS,
        name="ContinuousTokenBuilder._tokenize_single_non_tool",
        used_by="token_builder",
        parameters=("self", "message", "tools", "add_generation_prompt"),
        holds=("[_SYNTHETIC_SYSTEM_MESSAGE, _SYNTHETIC_USER_MESSAGE], [message]",),
    ),
    PlugPoint(
        file=_TOKENS,
        name="ContinuousTokenBuilder.render_delta_token_id",
        used_by="token_builder",
        parameters=("self", "prefix_messages", "appended_messages", "add_generation_prompt", "tools"),
    ),
    PlugPoint(
        file=_TOKENS,
        name="VLContinuousTokenMixin.render_tokens_with_mm",
        used_by="token_builder",
        holds=("proc_kwargs = dict(self.mm_processor_kwargs or {})", "mm_processor_kwargs=proc_kwargs if proc_kwargs"),
    ),
    # The stock tool loop.
    PlugPoint(
        file=_TOOL_LOOP,
        name="ToolAgentLoop.run",
        used_by="tool_dataset",
        holds=(
            "messages = list(kwargs['raw_prompt'])",
            "await self.process_multi_modal_info(messages)",
            "AgentData(messages=messages,",
        ),
    ),
    PlugPoint(
        file=_TOOL_LOOP,
        name="ToolAgentLoop._handle_generating_state",
        used_by="retrieve_tool",
        holds=(
            "agent_data.assistant_turns += 1",
            "agent_data.assistant_turns >= self.max_assistant_turns",
            "agent_data.messages.append(self._build_assistant_message(assistant_content, agent_data))",
        ),
    ),
    PlugPoint(
        file=_TOOL_LOOP,
        name="ToolAgentLoop._call_tool",
        used_by="retrieve_tool",
        holds=(
            "await tool.execute(instance_id, tool_args, agent_data=agent_data)",
            "finally:\n    if tool and instance_id and (not isinstance(tool, FunctionTool)):\n"
            "        await tool.release(instance_id)",
        ),
    ),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopBase.process_multi_modal_info",
        used_by="tool_dataset",
        holds=("images, videos, audios = await self.dataset_cls.process_multi_modal_info(messages,",),
    ),
    PlugPoint(
        file="verl/utils/dataset/rl_dataset.py",
        name="RLHFDataset.process_multi_modal_info",
        used_by="tool_dataset",
        parameters=("cls", "messages", "image_patch_size", "config"),
    ),
    PlugPoint(
        file="verl/utils/dataset/rl_dataset.py",
        name="RLHFDataset.__init__",
        used_by="tool_dataset",
        holds=("self.tool_schemas = None", "self.config = config", "self.processor = processor"),
    ),
    PlugPoint(
        file="verl/tools/base_tool.py",
        name="BaseTool.execute",
        used_by="retrieve_tool",
        parameters=("self", "instance_id", "parameters", "**kwargs"),
    ),
    PlugPoint(
        file="verl/tools/base_tool.py",
        name="BaseTool.release",
        used_by="retrieve_tool",
        parameters=("self", "instance_id", "**kwargs"),
    ),
    PlugPoint(file="verl/tools/schemas.py", name="ToolResponse", used_by="retrieve_tool", fields=("text", "image")),
    PlugPoint(
        file="verl/experimental/reward_loop/reward_manager/naive.py",
        name="NaiveRewardManager.run_single",
        used_by="retrieve_tool",
        holds=("extra_info.update(tool_extra_fields.items())",),
    ),
    # Faults that are fixed in place.
    PlugPoint(
        file="verl/utils/model.py",
        name="load_valuehead_model",
        used_by="verl_defects",
        parameters=("local_path", "torch_dtype", "model_config", "trust_remote_code"),
    ),
    PlugPoint(
        file="verl/models/transformers/qwen2_vl.py",
        name="_get_input_embeds",
        used_by="verl_defects",
        parameters=("model", "input_ids", "attention_mask", "pixel_values", "pixel_values_videos")
        + ("image_grid_thw", "video_grid_thw"),
    ),
    PlugPoint(
        file="verl/utils/transformers_compat.py",
        name="unpack_visual_output",
        used_by="verl_defects",
        parameters=("visual_output",),
    ),
    PlugPoint(
        file="verl/utils/tensordict_utils.py",
        name="nested_tensor_from_tensor_list",
        used_by="tensor_defects",
        parameters=("tensors", "ragged_idx"),
    ),
    PlugPoint(
        file="transfer_queue/storage/managers/simple_storage_manager.py",
        name="AsyncSimpleStorageManager._pack_field_values",
        used_by="tensor_defects",
        parameters=("values",),
    ),
    PlugPoint(
        file="transfer_queue/utils/serial_utils.py",
        name="MsgpackDecoder._decode_nested_tensor",
        used_by="tensor_defects",
        parameters=("self", "nested_meta"),
    ),
    # The CPU platform.
    PlugPoint(file="verl/plugin/platform/platform_base.py", name="PlatformBase", used_by="cpu_platform"),
    PlugPoint(
        file="verl/plugin/platform/platform_manager.py", name="PlatformRegistry.register", used_by="cpu_platform"
    ),
    PlugPoint(
        file="verl/utils/distributed.py",
        name="initialize_global_process_group_ray",
        used_by="cpu_platform",
        parameters=("timeout_second", "backend"),
    ),
    PlugPoint(
        file="verl/workers/engine/base.py", name="", used_by="cpu_platform", holds=("os.getenv('VERL_ENGINE_DEVICE')",)
    ),
    PlugPoint(
        file="verl/workers/rollout/vllm_rollout/utils.py", name="vLLMColocateWorkerExtension", used_by="vllm_cpu"
    ),
    # What the doctor asks of verl's own functions.
    PlugPoint(file=_ALGOS, name="get_adv_estimator_fn", used_by="doctor/agreement", parameters=("name_or_enum",)),
    PlugPoint(file=_ALGOS, name="get_policy_loss_fn", used_by="doctor/agreement", parameters=("name",)),
    PlugPoint(
        file=_ALGOS,
        name="kl_penalty",
        used_by="doctor/agreement",
        parameters=("logprob", "ref_logprob", "kl_penalty"),
    ),
    PlugPoint(
        file="verl/workers/config/optimizer.py",
        name="build_optimizer",
        used_by="doctor/agreement",
        parameters=("parameters", "config"),
    ),
    PlugPoint(file="verl/utils/torch_dtypes.py", name="PrecisionType", used_by="doctor/agreement"),
    PlugPoint(
        file="verl/utils/dataset/rl_dataset.py",
        name="get_dataset_class",
        used_by="doctor/agreement",
        parameters=("data_config",),
    ),
    PlugPoint(file=_IMPORTS, name="import_external_libs", used_by="doctor/agreement", parameters=("external_libs",)),
    PlugPoint(file=_IMPORTS, name="load_class_from_fqn", used_by="doctor/agreement", parameters=("fqn", "description")),
    PlugPoint(file=_IMPORTS, name="resolve_config_path", used_by="doctor/agreement", parameters=("config_path",)),
    PlugPoint(
        file="verl/workers/rollout/vllm_rollout/utils.py",
        name="build_cli_args_from_config",
        used_by="doctor/engine",
        parameters=("config",),
    ),
    PlugPoint(
        file="verl/single_controller/ray/base.py",
        name="ResourcePoolManager",
        used_by="doctor/machine",
        fields=("max_colocate_count",),
    ),
    # What other families than verl's own need.
    PlugPoint(
        file="verl/utils/tokenizer/tokenizer.py",
        name="hf_processor",
        used_by="processors",
        parameters=("name_or_path", "**kwargs"),
        holds=("Unsupported processor type", "processor.config = config"),
    ),
    PlugPoint(
        file=_LOOP,
        name="AgentLoopWorker._compute_multi_modal_inputs",
        used_by="loop_workers",
        parameters=("self", "output", "input_ids"),
    ),
    PlugPoint(
        file="verl/models/transformers/glm4v.py",
        name="_get_input_embeds",
        used_by="verl_defects",
        holds=("model.visual(pixel_values, grid_thw=image_grid_thw)",),
    ),
    PlugPoint(
        file="verl/workers/engine/fsdp/transformer_impl.py",
        name="",
        used_by="verl_defects",
        holds=("apply_monkey_patch(",),
    ),
    PlugPoint(
        file="verl/utils/fsdp_utils.py",
        name="_select_fsdp2_wrap_targets",
        used_by="verl_defects",
        parameters=("model", "fsdp_transformer_layer_cls_to_wrap"),
    ),
    PlugPoint(
        file="verl/utils/flops_counter.py",
        name="FlopsCounter.estimate_flops",
        used_by="verl_defects",
        parameters=("self", "batch_seqlens", "delta_time", "**kargs"),
    ),
    PlugPoint(
        file="verl/utils/debug/metrics.py",
        name="",
        used_by="rollout_agreement",
        holds=("'training/rollout_probs_diff_mean'",),
    ),
)
