#!/usr/bin/env bash
# GRPO by OpenRLHF, on the questions in this folder, with reft_lib's reward.
#
# NOT RUN by the makers of reft_lib. The options are those of OpenRLHF/OpenRLHF as of
# examples/scripts/train_ppo_with_reward_fn.sh (2069b3f), and of its RL training guide for the
# hierarchical options of 0.10.2. Where OpenRLHF says otherwise, OpenRLHF is right.
#
# reft_lib must be importable in every worker (pip install -e, or PYTHONPATH).
# All weights are trained: its guide says that Ray with vLLM does not support LoRA. model/ holds the
# warm-up policy with its adapter merged in, which is the reference too. No chat template: the
# prompts are whole as they are.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
gpus=${GPUS:-8}
each=${TENSOR_PARALLEL:-1}

python3 -m openrlhf.cli.train_ppo_ray \
    --actor.model_name_or_path "$here/model" \
    --actor.num_nodes 1 \
    --actor.num_gpus_per_node "$gpus" \
    --ref.num_nodes 1 \
    --ref.num_gpus_per_node "$gpus" \
    --vllm.num_engines "$((gpus / each))" \
    --vllm.tensor_parallel_size "$each" \
    --vllm.gpu_memory_utilization 0.5 \
    --vllm.enable_sleep \
    --train.colocate_all \
    --reward.remote_url "$here/reward.py" \
    --data.prompt_dataset "$here/train.jsonl" \
    --data.input_key input \
    --data.label_key label \
    --data.max_len @MAX_LEN@ \
    --rollout.max_new_tokens @MAX_NEW_TOKENS@ \
    --rollout.batch_size @QUESTIONS@ \
    --rollout.n_samples_per_prompt @GROUP_SIZE@ \
    --train.batch_size @BATCH_SIZE@ \
    --train.micro_batch_size @MICRO_BATCH@ \
    --train.max_epochs @EPOCHS@ \
    --algo.advantage.estimator group_norm \
    --algo.kl.use_loss \
    --algo.kl.estimator k3 \
    --algo.kl.init_coef @BETA@ \
    --actor.eps_clip @CLIP@ \
    --actor.adam.lr "${LR:-1e-6}" \
    --actor.gradient_checkpointing_enable \
    --ckpt.output_dir "$here/checkpoints" \
    "$@"
