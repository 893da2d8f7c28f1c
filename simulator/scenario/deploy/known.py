"""Names of flags that engines have and that say nothing a simulation could use: so that a typo can be told from them.

Logging, checkpoint files, data, tokenizers, numerics, network addresses and the like. Read in: Megatron-LM
megatron/training/arguments.py @000c4ac (core 0.15); the Megatron-DeepSpeed fork's additions; DeepSpeed 0.17.0
launcher/runner.py; torchrun of PyTorch 2; vLLM 0.10 vllm/engine/arg_utils.py; SGLang 0.4.10 srt/server_args.py;
TensorRT-LLM tensorrt_llm/commands/serve.py @0020914.
"""

from __future__ import annotations

__all__ = ["DEEPSPEED_LAUNCHER", "MEGATRON", "SGLANG", "TENSORRT_LLM", "TORCHRUN", "VLLM"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(f"--{word}" if not word.startswith("-") else word for word in text.split())


TORCHRUN = _names("""
    node_rank master_addr master_port rdzv_id rdzv_backend rdzv_endpoint rdzv_conf standalone max_restarts
    monitor_interval start_method role module no_python run_path log_dir redirects tee local_addr -m -r -t
""")

DEEPSPEED_LAUNCHER = _names("""
    include exclude min_elastic_nodes max_elastic_nodes master_port master_addr node_rank launcher launcher_args module
    no_python no_local_rank no_ssh no_ssh_check force_multi save_pid enable_each_rank_log autotuning elastic_training
    bind_cores_to_rank bind_core_list ssh_port hostfile -H -i -e
""")

MEGATRON = _names("""
    attention-backend softmax-type window-attn-skip-freq use-rotary-position-embeddings rotary-base rotary-percent
    rotary-interleaved rotary-seq-len-interpolation-factor use-rope-scaling rope-scaling-factor no-position-embedding
    make-vocab-size-divisible-by padded-vocab-size norm-epsilon apply-layernorm-1p squared-relu openai-gelu quick-geglu
    apply-residual-connection-post-layernorm mtp-loss-scaling-factor log-straggler disable-straggler-on-startup
    straggler-ctrlr-port straggler-minmax-count inprocess-restart no-one-logger one-logger-project one-logger-run-name
    config-logger-dir log-params-norm log-num-zeros-in-grad log-throughput log-progress timing-log-level log-energy
    no-barrier-with-level-1-timing timing-log-option tensorboard-log-interval tensorboard-queue-size tensorboard-dir
    log-timers-to-tensorboard no-log-loss-scale-to-tensorboard log-validation-ppl-to-tensorboard
    log-memory-to-tensorboard log-world-size-to-tensorboard wandb-project wandb-entity wandb-exp-name wandb-save-dir
    logging-level attention-dropout hidden-dropout weight-decay start-weight-decay end-weight-decay
    weight-decay-incr-style clip-grad adam-beta1 adam-beta2 adam-eps sgd-momentum rampup-batch-size
    decrease-batch-size-if-needed no-check-for-nan-in-loss-and-grad check-for-spiky-loss check-for-large-grads
    no-clone-scatter-output-in-embedding profile profile-step-start profile-step-end iterations-to-skip
    result-rejected-tracker-filename disable-gloo-process-groups use-pytorch-profiler profile-ranks
    record-memory-history memory-snapshot-path tp-comm-overlap-cfg tp-comm-bootstrap-backend use-cpu-initialization
    empty-unused-memory-level deterministic-mode check-weight-hash-across-dp-replicas-interval calculate-per-token-loss
    train-sync-interval train-samples log-interval exit-interval exit-duration-in-mins exit-signal-handler
    no-masked-softmax-fusion no-bias-gelu-fusion no-bias-swiglu-fusion no-bias-dropout-fusion no-rope-fusion rope-type
    cross-entropy-loss-fusion cross-entropy-fusion-impl use-flash-attn optimizer dataloader-type no-persist-layer-norm
    no-gradient-accumulation-fusion use-mcore-models use-legacy-models manual-gc manual-gc-interval no-manual-gc-eval
    transformer-impl seed data-parallel-random-init init-method-std embedding-init-method-std
    init-method-xavier-uniform lr lr-decay-style lr-wsd-decay-style lr-decay-iters lr-decay-samples
    lr-wsd-decay-samples lr-wsd-decay-iters lr-warmup-fraction lr-warmup-iters lr-warmup-samples lr-warmup-init min-lr
    override-opt_param-scheduler use-checkpoint-opt_param-scheduler decoupled-lr decoupled-min-lr save save-interval
    save-retain-interval no-save-optim no-save-rng load no-load-optim no-load-rng non-persistent-save-interval
    non-persistent-ckpt-type non-persistent-global-ckpt-dir non-persistent-local-ckpt-dir
    non-persistent-local-ckpt-algo finetune pretrained-checkpoint ckpt-step no-initialization use-checkpoint-args
    use-mp-args-from-checkpoint-args exit-on-missing-checkpoint use-dist-ckpt use-persistent-ckpt-worker
    auto-detect-ckpt-format dist-ckpt-format ckpt-format ckpt-convert-format ckpt-convert-save
    ckpt-fully-parallel-save no-ckpt-fully-parallel-save ckpt-fully-parallel-load ckpt-assume-constant-structure
    dist-ckpt-strictness async-save grad-reduce-in-bf16 loss-scale initial-loss-scale min-loss-scale loss-scale-window
    hysteresis fp32-residual-connection apply-query-key-layer-scaling attention-softmax-in-fp32 fp16-lm-cross-entropy
    distributed-backend distributed-timeout-minutes defer-embedding-wgrad-compute wgrad-deferral-limit
    no-align-grad-reduce ddp-num-buckets ddp-bucket-size ddp-pad-buckets-for-high-nccl-busbw ddp-average-in-collective
    overlap-param-gather-with-optimizer-step no-align-param-gather local-rank lazy-mpu-init use-nccl-ub
    init-model-with-meta-device no-gradient-reduce-div-fusion fsdp-double-buffer suggested-communication-unit-size
    keep-fp8-transpose-cache nccl-communicator-config-path eval-iters eval-interval test-mode skip-train vocab-file
    merge-file vocab-extra-ids tokenizer-type tokenizer-model tiktoken-pattern trust-remote-code data-path split
    train-data-path valid-data-path test-data-path data-args-path per-split-data-args-path data-cache-path
    no-mmap-bin-files mock-data encoder-seq-length decoder-seq-length mask-prob short-seq-prob num-workers
    reset-position-ids reset-attention-mask eod-mask-loss no-create-attention-mask-in-dataloader
    num-dataset-builder-threads adlr-autoresume adlr-autoresume-interval moe-grouped-gemm moe-use-legacy-grouped-gemm
    moe-router-load-balancing-type moe-router-dtype moe-router-fusion moe-router-score-function moe-router-pre-softmax
    moe-router-num-groups moe-router-group-topk moe-router-topk-scaling-factor moe-router-enable-expert-bias
    moe-router-bias-update-rate moe-router-force-load-balancing moe-router-padding-for-fp8 moe-aux-loss-coeff
    moe-z-loss-coeff moe-input-jitter-eps moe-per-layer-logging moe-token-dispatcher-type moe-enable-deepep
    moe-deepep-num-sms moe-permute-fusion
    moe-token-drop-policy moe-shared-expert-overlap rotary-scaling-factor mscale mscale-all-dim enable-experimental
    spec yaml-cfg use-precision-aware-optimizer main-grads-dtype main-params-dtype exp-avg-dtype exp-avg-sq-dtype
    fp8-recipe fp8-margin fp8-interval fp8-amax-history-len fp8-amax-compute-algo fp8-param-gather
    tensorboard-dir use-te-activation-func high-priority-stream-groups pipeline-model-parallel-comm-backend
""")

VLLM = _names("""
    runner convert task tokenizer tokenizer-mode trust-remote-code seed hf-config-path allowed-local-media-path
    revision code-revision rope-scaling rope-theta tokenizer-revision max-seq-len-to-capture max-logprobs logprobs-mode
    disable-sliding-window disable-cascade-attn skip-tokenizer-init enable-prompt-embeds served-model-name
    disable-async-output-proc config-format hf-token hf-overrides override-neuron-config override-pooler-config
    logits-processor-pattern generation-config override-generation-config enable-sleep-mode model-impl
    override-attention-dtype load-format download-dir model-loader-extra-config ignore-patterns use-tqdm-on-load
    pt-load-map-location guided-decoding-backend guided-decoding-disable-fallback
    guided-decoding-disable-any-whitespace guided-decoding-disable-additional-properties reasoning-parser
    distributed-executor-backend data-parallel-rank data-parallel-start-rank data-parallel-size-local
    data-parallel-address data-parallel-rpc-port data-parallel-backend data-parallel-hybrid-lb
    max-parallel-loading-workers ray-workers-use-nsight worker-cls worker-extension-cls
    enable-multimodal-encoder-data-parallel prefix-caching-hash-algo calculate-kv-scales kv-sharing-fast-prefill
    limit-mm-per-prompt media-io-kwargs mm-processor-kwargs mm-processor-cache-gb disable-mm-preprocessor-cache
    interleave-mm-strings default-mm-loras show-hidden-metrics-for-version otlp-traces-endpoint
    collect-detailed-traces cuda-graph-sizes num-lookahead-slots scheduler-delay-factor preemption-mode
    disable-chunked-mm-input scheduler-cls kv-events-config additional-config
    disable-log-stats enable-prompt-adapter host port uvicorn-log-level disable-uvicorn-access-log allow-credentials
    allowed-origins allowed-methods allowed-headers api-key chat-template chat-template-content-format response-role
    ssl-keyfile ssl-certfile ssl-ca-certs root-path middleware return-tokens-as-token-ids enable-auto-tool-choice
    tool-call-parser tool-parser-plugin log-config-file disable-log-requests enable-log-requests max-log-len
    disable-fastapi-docs enable-prompt-tokens-details enable-server-load-tracking enable-force-include-usage
    api-server-count headless disable-frontend-multiprocessing enable-request-id-headers -dpn -dpr -dpl -dpa -dpp -dpb
""")

SGLANG = _names("""
    tokenizer-path tokenizer-mode skip-tokenizer-init load-format model-loader-extra-config trust-remote-code
    is-embedding enable-multimodal revision model-impl host port skip-server-warmup warmups nccl-port
    quantization-param-path max-queued-requests max-total-tokens schedule-conservativeness device max-micro-batch-size
    stream-interval stream-output random-seed constrained-json-whitespace-pattern watchdog-timeout dist-timeout
    download-dir base-gpu-id gpu-id-step sleep-on-idle log-level log-level-http log-requests log-requests-level
    crash-dump-folder show-time-cost enable-metrics enable-metrics-for-all-schedulers bucket-time-to-first-token
    bucket-inter-token-latency bucket-e2e-request-latency collect-tokens-histogram decode-log-interval
    enable-request-time-stats-logging kv-events-config api-key served-model-name chat-template completion-template
    file-storage-path enable-cache-report reasoning-parser tool-call-parser load-balance-method dist-init-addr
    nccl-init-addr node-rank json-model-override-args preferred-sampling-params attention-backend
    decode-attention-backend prefill-attention-backend sampling-backend grammar-backend mm-attention-backend
    enable-deepep-moe deepep-mode enable-ep-moe enable-flashinfer-cutlass-moe enable-flashinfer-trtllm-moe
    ep-dispatch-algorithm init-expert-location eplb-algorithm deepep-config moe-dense-tp-size hicache-io-backend
    cuda-graph-max-bs cuda-graph-bs disable-cuda-graph-padding enable-profile-cuda-graph enable-nccl-nvls
    enable-tokenizer-batch-encode disable-outlines-disk-cache enable-mscclpp enable-dp-lm-head torch-compile-max-bs
    enable-nan-detection enable-p2p-check triton-attention-reduce-in-fp32 triton-attention-num-kv-splits
    delete-ckpt-after-loading enable-memory-saver allow-auto-truncate enable-custom-logit-processor
    flashinfer-mla-disable-ragged disable-shared-experts-fusion disable-chunked-prefix-cache max-prefill-tokens
    disable-fast-image-processor enable-return-hidden-states enable-triton-kernel-moe custom-weight-loader
    weight-loader-disable-mmap
""")

TENSORRT_LLM = _names("""
    tokenizer custom_tokenizer host port backend custom_module_dirs log_level max_beam_width
    gpus_per_node num_postprocess_workers trust_remote_code revision reasoning_parser tool_parser
    metadata_server_config_file fail_fast_on_attention_window_too_large otlp_traces_endpoint media_io_kwargs
    chat_template
""")
