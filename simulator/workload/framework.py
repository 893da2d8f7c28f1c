"""What software adds to the hardware: one record for training and serving engines, by version.

A framework is data (``workloads/frameworks/*.yaml``). Every field that is not a plain fact of the engine's
defaults is a :class:`~simulator.constants.Constant` with a source or the id of a fit that can be rerun.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from simulator.constants import Constant

__all__ = ["Framework"]


@dataclass(frozen=True)
class Framework:
    """An engine and its version.

    Attributes
    ----------
    name, area, version
        ``area`` is ``training`` or ``serving``.
    attention_kernel
        ``unfused`` (scores in HBM), ``flash-1``, ``flash-2``, ``flash-3``, ``paged``.
    expert_kernels
        Libraries of the kernels of served experts, in the order in which the engine takes them: the first that was
        timed on the device's architecture for the format of the weights counts
        (:mod:`simulator.cost.expert_kernels`). Empty: GEMMs of the device's curve and passes over rows.
    sinks_by_triton
        Whether prompts of attention with sinks run by a Triton kernel before Hopper, whose FlashAttention has them.
    sparse_decode
        Kernel of decodes over the tokens that an indexer chose: ``sparse`` (FlashMLA's, which computes every place of
        the top-k, filled or not) or ``dense`` (one that reads the chosen places as a short context).
    sparse_dense_tokens
        Context up to which prompts of such models are computed without choosing; 0: never.
    fused_kernels
        Whether bias, dropout, residual, norm and activation are fused as in Megatron.
    fused_cross_entropy
        Whether one kernel computes the loss from the 16-bit logits, without a copy in fp32.
    vocab_parallel_loss
        Whether the loss is Megatron's over a split vocabulary, whose softmax passes over the fp32 logits kernel by
        kernel.
    composite
        Operators that run as several kernels whose intermediate results autograd keeps: ``rms_norm``, ``swiglu``; and
        those whose training passes over memory more often than a fused kernel: ``glu_halves`` (a gated activation on
        slices of one projection), ``attention_layout`` (copies between projections and the attention kernel),
        ``grouped_projection`` (queries taken out of the groups of a fused projection), ``latent_rotary`` (rotation and
        joins of latent attention, kernel by kernel;
        :mod:`simulator.workload.lowering_layout`).
    recomputes_elementwise
        Whether a compiler recomputes what elementwise kernels wrote instead of saving it, where a plan asks for nothing
        else.
    weights_activated_rows
        Whether router weights multiply the activated rows inside the experts: their outputs need not be kept then.
    dropout
        Whether training stores dropout masks (None: as the model's recipe says).
    gradient_dtype
        Type in which gradients are accumulated.
    keeps_half_gradients
        Whether the 16-bit gradients of a whole backward stay beside the accumulators until they are added to them.
    adds_gradients
        Which 16-bit gradients are tensors of their own that a kernel adds to their accumulators in every micro-batch:
        ``none``, those of embedding ``tables``, made whole, where GEMMs add the others themselves, or ``all``.
    keeps_gradient_buckets
        Whether replicas without ZeRO keep the 16-bit buckets of ``DistributedDataParallel`` beside the gradients.
    holds_handed_over
        How far the host runs ahead of the device while tensors that were handed to a communicator's stream
        (``Tensor.record_stream``) cannot be reused: one ``forward``, or the ``warm-up`` of a pipeline. See
        :func:`~simulator.training.memory.memory_ledger`.
    pipeline_split
        How layers are dealt to pipeline stages: ``even`` numbers, or ``share``: a stage takes layers until their cost
        so far reaches its share of the model's, the head included.
    overlap_grad_reduce, overlap_param_gather, overlap_p2p
        Whether data-parallel reductions hide under backward, gathers under forward, pipeline sends under compute.
    overlap_shard_reduce
        The same for reductions to shards of optimizer states at the end of a step (ZeRO-1); None: as
        ``overlap_grad_reduce``.
    gradient_bucket_mib
        Size from which a bundle of gradients leaves while the backward runs, as the bytes of its message; parameters
        are not cut. 0: layer by layer.
    shard_copies_reduce, shard_copies_gather
        How often ZeRO-1 copies all gradients around their reduction, and all parameters around their gather.
    broadcasts_by_owner
        Whether ZeRO-1 deals whole parameters to ranks, and every rank that owns some broadcasts what it has updated as
        one message, instead of one all-gather of equal shards.
    gradient_passes
        How often a step reads or writes all gradients that a rank holds, beside their accumulation, reduction, norm and
        update: zeroing, a check for values that are not finite, division by the replicas.
    update_bytes
        Bytes per parameter that a rank updates, moved beside norm and update: casts, unscaling, copies from masters.
    drains_at_messages
        Whether the host waits for its device behind every message between stages that is not overlapped
        (:mod:`simulator.training.drained_queues`).
    p2p_scatter_gather
        Whether tensor-parallel ranks each send a slice of a pipeline message and join the slices inside the node
        (arXiv 2104.04473 §4.1).
    tensor_parallel_overlap
        Whether tensor-parallel collectives are split and hidden behind GEMMs; under sequence parallelism in chunks
        (:mod:`simulator.strategies.tensor.chunks`).
    overlaps_linear_backward
        Whether the backward of a column-parallel linear layer gathers its saved input beside the GEMM of the input
        gradient, and reduces that gradient beside the GEMM of the weight gradient.
    distributed_optimizer_default
        ZeRO stage used when the plan says nothing.
    cuda_graphs
        Whether iterations are replayed without host launches.
    cuda_graph_batches, cuda_graph_max_tokens
        Which iterations run from graphs (``decode``: those without prompts; ``all``: mixed ones too, piecewise), and
        the largest captured number of tokens. Such an iteration is padded to the next captured size; 0 = never padded.
    cuda_graph_max_sequences
        Most sequences of an iteration without prompts that is replayed from a CUDA graph; 0 = any number.
    cuda_graph_stages
        Most stages of a replica whose decodes are replayed from CUDA graphs; 0: any number.
    cuda_graph_wide_ranks, cuda_graph_narrow_sequences
        Ranks from which that number holds, and the number below; 0: the same for all.
    hybrid_kv_manager
        Whether layers with a sliding window hold blocks for their window only.
    async_scheduling
        Whether host scheduling hides behind the device.
    plans_ahead
        Whether the next iteration is launched before the running one ends, so that requests wait for one more.
    workers_launch
        Whether processes of their own launch what the scheduler plans, so that prompts do not keep it.
    small_all_reduce
        ``nccl`` or ``custom`` (one-shot kernels below a few MiB).
    library_rows
        Rows above which an engine with kernels of its own multiplies by the vendor's library instead: weights in blocks
        are written out in fp16 first, fp32 activations are cast before and the fp16 sums after; 0: never.
    operators_apart
        Whether every operator of the model's graph is a kernel of its own over fp32 activations
        (:mod:`simulator.workload.lowering_apart`).
    launch_queue
        Kernels that a device's queue holds before the host that launches all stages of a replica waits; 0: any number
        (:mod:`simulator.serving.launch_queue`).
    launch_chunks
        Chunks of prompts whose inputs a stage has buffers for; 0: any number.
    block_size, max_num_batched_tokens, max_num_seqs, memory_utilization, batching
        Serving defaults: KV block [tokens], token budget per iteration, sequences, share of HBM the engine takes,
        name of the batching policy.
    kv_cache
        Name of the policy that gives requests their blocks; empty: the batching policy's own.
    small_device_gib, small_devices, small_max_num_batched_tokens, small_max_num_seqs
        Budget and sequences by default on accelerators with less memory than that [GiB] or a name that holds one of
        these words; 0: the same everywhere. See :meth:`on`.
    memory_share
        What ``memory_utilization`` is a share of: ``device``: of the device, for everything (vLLM); ``static``: of the
        device, for weights and cache, activations live beside (SGLang ``mem_fraction_static``); ``free``: of what
        weights and workspace leave, for the cache (TensorRT-LLM ``free_gpu_memory_fraction``).
    static_reserve_mib, static_reserve_per_1024_tokens_mib, static_reserve_per_sequence_mib, static_reserve_per_rank_mib
        What the engine sets aside for everything but weights and cache, from which its default share follows
        (:mod:`simulator.workload.static_memory`); 0: the share is ``memory_utilization`` everywhere.
    static_reserve_least_mib, static_reserve_least_from_gib
        The least of it on devices of more than so much memory.
    sampler_bytes_per_logit
        Bytes for every logit of as many sequences as it may run, held while their tokens are drawn, where a run of the
        largest iteration says what is left for the cache; 0: not counted.
    expert_row_multiple
        Multiple to which rows of experts in MXFP4 are padded where they are stored; 0: as they are.
    front_end
        How the process in front works off requests: a ``queue``, one after another, or all it holds in ``turns``
        (:mod:`simulator.serving.front_end`).
    own_chat_formats
        Families of models whose messages the engine encodes itself, without a template.
    operators_forward, operators_backward
        Operators that a rank calls for one layer: from Python in the forward, from autograd and hooks in the backward;
        views and custom autograd functions count, collectives do not (:mod:`simulator.cost.host`). 0: not counted, the
        constant ``host_per_layer`` says it.
    operators_behind_loss
        Operators from the moment at which the host reads the loss of a micro-batch, as a check of it does, to the first
        kernel of its backward, while nothing is queued on the device; 0: it never reads it.
    operators_per_parameter
        Operators per parameter tensor and step: zeroing, norm, copies between precisions, updates that are not fused.
    operators_routed_forward, operators_routed_backward
        The same of a layer with routed experts, beyond those of a dense one: router, dispatcher, grouped linears.
    operators_latent_forward, operators_latent_backward
        The same of a layer with latent attention: projections, slices and joins beyond those of one fused projection.
    operators_per_expert_forward, operators_per_expert_backward
        And of every expert that the rank holds: a grouped linear may have a gradient per expert to the host.
    gemm_per_expert
        Whether a grouped linear is a GEMM per expert, each launched by itself, not one kernel over all
        (``nvte_multi_stream_cublas_gemm`` of Transformer Engine).
    router_kernels_forward, router_kernels_backward
        Kernels of a mixture's router beside its product and its selections: so small that the launch is what they cost.
    router_selections
        How often the forward selects the highest scores of every token (``torch.topk``).
    sorts_arrived_rows
        Whether rows that came from other ranks are sorted by local expert in a pass of their own, and back, in either
        direction (Megatron's all-to-all dispatcher); else they are gathered once, on the side of the experts.
    pairs_sequence_chunks
        Whether a rank of context parallelism holds two chunks of a sequence, one from either half, so that causal
        attention is as much work on every rank; all-to-alls then leave the tokens out of order.
    saves_output_by_tokens
        Whether attention between all-to-alls keeps its output as it left, cut by tokens, and exchanges it once more for
        the backward; else it is kept by heads as well.
    operators_per_shard
        Operators per parameter tensor and data-parallel rank, where ZeRO-1 gathers updated parameters slice by slice.
    gathers_by_parameter
        Whether ZeRO-3 gathers and reduces every large parameter for itself, not a layer at once.
    message_copies_gather, message_copies_reduce
        How often a gathered parameter is copied on the device, and a gradient before its reduction, where they travel
        one by one.
    exposes_shards
        Whether nothing is computed while ZeRO-3 gathers, and while gradients are reduced to shards in every pass.
    exposes_evictions
        Whether activations go to the host and come back by calls that return when the copy is done.
    waits_at_gathers
        Whether every gather of ZeRO-3 waits for the device, so that the host never runs ahead.
    persistent_elements, reuse_elements
        Parameters of at most so many elements stay gathered within a step; a parameter stays gathered between two uses
        with at most so many elements of others in between. Both where parameters are gathered one by one.
    slices_gather, slices_reduce, slices_persistent
        Views and copies that the host makes for every rank of a tensor, where ZeRO-3 gathers it in a layer's pass,
        reduces it, and gathers one that persists at the end of a step (:data:`simulator.cost.host.SLICE` each).
    checked_collectives
        Whether every collective is first checked by its group on the host, as ``TORCH_DISTRIBUTED_DEBUG=DETAIL`` does.
    constants
        By local key (ids are global): ``host_per_layer`` [s] host time to launch one layer's forward,
        ``host_per_step`` [s] per training step or serving iteration, ``host_per_sequence`` [s] per sequence of an
        iteration, ``memory_reserve`` [B] context, workspaces and communication buffers, ``memory_reserve_alone`` [B]
        the same of a replica on one accelerator, ``fragmentation`` relative allocator loss, ``compute_interference``
        slow-down of compute beside communication,
        ``optimizer_workspace`` [B] temporary bytes of the update per parameter that the rank updates,
        ``host_per_operator``, ``host_per_collective``, ``host_per_check``, ``host_per_check_inside``,
        ``host_per_slice`` [s] in place of what all frameworks share, ``host_per_message`` [s] that both ends of a
        pipeline message wait on the host,
        ``host_per_launch`` [s] host time to launch an Op of an iteration that is not replayed from a CUDA graph, which
        the device cannot outrun (on a host of speed 1, :class:`~simulator.hardware.types.Node`),
        ``host_per_prompt_layer`` [s] that the attention of prompts takes the host beyond one launch, per layer,
        ``host_per_latent_layer``, ``host_per_expert_layer``, ``host_per_unpacked_expert_layer`` [s] that a layer with
        latent attention, with experts, or with experts whose weights are widened on the way takes it beyond launches,
        ``launch_exposed`` share of the shorter of launches and kernels that the longer does not hide,
        ``front_end_per_request`` and ``front_end_per_token`` [s] time of the process in front of a serving engine for a
        request and for a token of its prompt, ``front_end_per_chat`` more for one whose messages it renders by a
        template, ``front_end_latency`` what keeps none waiting, ``front_end_tokenizers`` prompts that it turns into
        tokens at once, ``gemm_share_fp16`` and ``gemm_share_int8`` share of the usual compute efficiency that its own
        GEMMs in these types have, ``gemm_share_unpacked`` the same of 16-bit GEMMs that widen weights of fewer bits on
        the way, ``vector_bytes`` [B] most that a multiprocessor reads per clock where a GEMM has so few rows that the
        engine multiplies vectors, ``unpack_bytes`` [B] most that it reads and writes per clock where weights in blocks
        are written out for a library, ``cache_bytes`` [B] that it reads and writes per clock in a pass over activations
        which the cache holds, ``index_per_row`` [s] time of the kernels that number the rows of a mixture by
        expert, per row. Of its own kernels on Hopper: ``latent_decode_hopper`` and ``sparse_decode_hopper`` [s] that a
        layer's decode of latent attention takes beyond what is counted, dense and over chosen tokens,
        ``sparse_share_hopper`` share of the 16-bit rate that attention over chosen tokens reaches.
    """

    name: str
    area: Literal["training", "serving"]
    version: str = ""
    attention_kernel: Literal["unfused", "flash-1", "flash-2", "flash-3", "paged"] = "flash-2"
    expert_kernels: tuple[str, ...] = ()
    sinks_by_triton: bool = False
    sparse_decode: Literal["sparse", "dense"] = "sparse"
    sparse_dense_tokens: int = 0
    fused_kernels: bool = True
    fused_cross_entropy: bool = False
    dropout: bool | None = None
    gradient_dtype: str = "fp32"
    keeps_half_gradients: bool = False
    adds_gradients: Literal["none", "tables", "all"] = "none"
    keeps_gradient_buckets: bool = False
    holds_handed_over: Literal["no", "forward", "warm-up"] = "no"
    pipeline_split: Literal["even", "share"] = "even"
    overlap_grad_reduce: bool = True
    overlap_param_gather: bool = True
    overlap_p2p: bool = True
    overlap_shard_reduce: bool | None = None
    gradient_bucket_mib: int = 0
    shard_copies_reduce: int = 0
    shard_copies_gather: int = 0
    broadcasts_by_owner: bool = False
    gradient_passes: int = 0
    update_bytes: int = 0
    drains_at_messages: bool = False
    p2p_scatter_gather: bool = True
    tensor_parallel_overlap: bool = False
    distributed_optimizer_default: int = 0
    cuda_graphs: bool = False
    cuda_graph_batches: Literal["decode", "all"] = "decode"
    cuda_graph_max_tokens: int = 0
    cuda_graph_max_sequences: int = 0
    cuda_graph_stages: int = 0
    cuda_graph_wide_ranks: int = 0
    cuda_graph_narrow_sequences: int = 0
    hybrid_kv_manager: bool = False
    async_scheduling: bool = False
    plans_ahead: bool = False
    workers_launch: bool = False
    small_all_reduce: Literal["nccl", "custom"] = "nccl"
    block_size: int = 16
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    memory_utilization: float = 0.9
    batching: str = "chunked-prefill"
    kv_cache: str = ""
    memory_share: Literal["device", "static", "free"] = "device"
    static_reserve_mib: int = 0
    static_reserve_per_1024_tokens_mib: int = 0
    static_reserve_per_sequence_mib: int = 0
    static_reserve_per_rank_mib: int = 0
    static_reserve_least_mib: int = 0
    static_reserve_least_from_gib: int = 0
    sampler_bytes_per_logit: int = 0
    expert_row_multiple: int = 0
    front_end: Literal["queue", "turns"] = "queue"
    own_chat_formats: tuple[str, ...] = ()
    constants: Mapping[str, Constant] = field(default_factory=dict, hash=False)
    sources: tuple[str, ...] = ()
    notes: str = ""
    composite: tuple[str, ...] = ()
    recomputes_elementwise: bool = False
    weights_activated_rows: bool = False
    small_device_gib: int = 0
    small_devices: tuple[str, ...] = ()
    small_max_num_batched_tokens: int = 0
    small_max_num_seqs: int = 0
    operators_forward: int = 0
    operators_backward: int = 0
    operators_behind_loss: int = 0
    operators_per_parameter: int = 0
    operators_routed_forward: int = 0
    operators_routed_backward: int = 0
    operators_latent_forward: int = 0
    operators_latent_backward: int = 0
    operators_per_expert_forward: int = 0
    operators_per_expert_backward: int = 0
    gemm_per_expert: bool = False
    router_kernels_forward: int = 0
    router_kernels_backward: int = 0
    router_selections: int = 0
    sorts_arrived_rows: bool = False
    pairs_sequence_chunks: bool = False
    saves_output_by_tokens: bool = False
    operators_per_shard: int = 0
    gathers_by_parameter: bool = False
    message_copies_gather: int = 0
    message_copies_reduce: int = 0
    exposes_shards: bool = False
    exposes_evictions: bool = False
    waits_at_gathers: bool = False
    persistent_elements: int = 0
    reuse_elements: int = 0
    slices_gather: int = 0
    slices_reduce: int = 0
    slices_persistent: int = 0
    checked_collectives: bool = False
    vocab_parallel_loss: bool = False
    library_rows: int = 0
    operators_apart: bool = False
    launch_queue: int = 0
    launch_chunks: int = 0
    overlaps_linear_backward: bool = False

    def on(self, accelerator: str, memory: float) -> Framework:
        """The framework with its defaults for an accelerator of that name with that much memory [B]."""
        small = memory < self.small_device_gib * 2**30 or any(word in accelerator for word in self.small_devices)
        if not (small and self.small_max_num_seqs):
            return self
        tokens, sequences = self.small_max_num_batched_tokens, self.small_max_num_seqs
        return replace(self, max_num_batched_tokens=tokens, max_num_seqs=sequences)

    def graph_sequences(self, ranks: int) -> int:
        """Most sequences of a decode that so many ranks replay from a CUDA graph; 0 = any number."""
        narrow = ranks < self.cuda_graph_wide_ranks
        return self.cuda_graph_narrow_sequences if narrow else self.cuda_graph_max_sequences
