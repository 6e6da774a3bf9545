#!/usr/bin/env bash
# GRPO with LoRA by verl, on the questions in this folder, with reft_lib's reward.
#
# NOT RUN by the makers of reft_lib. The options are those of verl-project/verl as of
# examples/tuning/lora/run_qwen3_8b_from_adapter_fsdp.sh (7804ce3), docs/examples/config.rst
# (0d29b08) and docs/advance/ppo_lora.rst (22e0380). Where verl says otherwise, verl is right.
#
# reft_lib must be importable in every worker (pip install -e, or PYTHONPATH).
# model/ holds the warm-up policy with its adapter merged in: verl's reference is the policy with
# its LoRA switched off, so the warm-up must not be an adapter here.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

python3 -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grpo \
    data.train_files="$here/train.parquet" \
    data.val_files="$here/validation.parquet" \
    data.train_batch_size=@QUESTIONS@ \
    data.max_prompt_length=512 \
    data.max_response_length=@MAX_NEW_TOKENS@ \
    data.filter_overlong_prompts=True \
    reward.custom_reward_function.path="$here/reward.py" \
    reward.custom_reward_function.name=compute_score \
    actor_rollout_ref.model.path="$here/model" \
    actor_rollout_ref.model.lora_rank=@RANK@ \
    actor_rollout_ref.model.lora_alpha=@ALPHA@ \
    actor_rollout_ref.model.target_modules=all-linear \
    actor_rollout_ref.model.enable_gradient_checkpointing=True \
    actor_rollout_ref.actor.optim.lr=@LR@ \
    actor_rollout_ref.actor.clip_ratio=@CLIP@ \
    actor_rollout_ref.actor.ppo_epochs=@EPOCHS@ \
    actor_rollout_ref.actor.ppo_mini_batch_size=@QUESTIONS@ \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=@MICRO_BATCH@ \
    actor_rollout_ref.actor.use_kl_loss=True \
    actor_rollout_ref.actor.kl_loss_coef=@BETA@ \
    actor_rollout_ref.actor.kl_loss_type=low_var_kl \
    actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=@MICRO_BATCH@ \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=@GROUP_SIZE@ \
    actor_rollout_ref.rollout.load_format=safetensors \
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=@MICRO_BATCH@ \
    actor_rollout_ref.rollout.tensor_model_parallel_size="${TENSOR_PARALLEL:-1}" \
    trainer.n_gpus_per_node="${GPUS:-8}" \
    trainer.nnodes="${NODES:-1}" \
    trainer.total_training_steps=@STEPS@ \
    trainer.default_local_dir="$here/checkpoints" \
    trainer.logger='["console"]' \
    "$@"
