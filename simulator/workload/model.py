"""What a model is: layers with their shapes, in the field names of Hugging Face ``config.json``.

A :class:`ModelSpec` is a value without behaviour beyond counting. :mod:`simulator.workload.hf_config` builds it
from a ``config.json``; :mod:`simulator.workload.lowering` turns it into Ops.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["AttentionSpec", "LayerSpec", "MlpSpec", "ModelSpec", "PatchSpec"]


@dataclass(frozen=True)
class AttentionSpec:
    """A token mixer.

    Attributes
    ----------
    kind
        ``full`` softmax attention (multi-head, grouped-query and multi-query by ``num_key_value_heads``),
        ``sliding`` the same within ``sliding_window`` tokens, ``latent`` multi-head latent attention (DeepSeek),
        ``linear`` a recurrent or state-space mixer with a state of fixed size (Mamba-2, gated delta net).
    head_dim, v_head_dim
        Size of one query/key head and of one value head.
    q_lora_rank, kv_lora_rank, qk_rope_head_dim, qk_nope_head_dim
        Latent attention only; ``q_lora_rank`` 0 projects queries directly. head_dim = nope + rope.
    index_n_heads, index_head_dim, index_topk
        Latent attention over the ``index_topk`` tokens of highest score only (DeepSeek-V3.2): an indexer scores every
        earlier token by so many small heads and keeps a key of its own per token; ``index_topk`` 0 attends to all.
        Without heads of its own a layer takes what an indexer before it chose (GLM-5.2).
    state_size, conv_kernel, num_groups
        Linear mixers only: state per head is head_dim × state_size; ``num_groups`` of B and C (Mamba-2).
        For linear mixers ``num_attention_heads`` × ``v_head_dim`` is the inner width and
        ``num_key_value_heads`` × ``head_dim`` the width of queries and keys (gated delta net).
    gated_output
        An output gate of inner width is projected besides q, k, v.
    position_embedding_type
        What the mixer itself does about positions, in Megatron's words: ``rope`` rotates queries and keys in a kernel
        of its own (Su et al. 2021, arXiv 2104.09864); ``alibi`` (Press et al. 2022, arXiv 2108.12409) and ``relative``
        (T5) are biases on the scores inside the core; ``none`` nothing, as with learned positions.
    mixer
        Which linear mixer, as far as its projections differ.
    time_step_rank
        Mamba-1 only: rank of the projection that gives the time step.
    """

    kind: Literal["full", "sliding", "latent", "linear"]
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    v_head_dim: int
    causal: bool = True
    sliding_window: int = 0
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    sinks: bool = False
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    qk_nope_head_dim: int = 0
    index_n_heads: int = 0
    index_head_dim: int = 0
    index_topk: int = 0
    state_size: int = 0
    conv_kernel: int = 0
    num_groups: int = 1
    gated_output: bool = False
    position_embedding_type: Literal["rope", "alibi", "relative", "none"] = "rope"
    mixer: Literal["", "mamba1", "mamba2", "gated-delta-net", "lightning"] = ""
    time_step_rank: int = 0


@dataclass(frozen=True)
class MlpSpec:
    """A feed-forward block, dense or mixture of experts.

    Attributes
    ----------
    intermediate_size
        Width of the dense block, 0 for a mixture of experts.
    gated
        Three matrices (SwiGLU, GeGLU) instead of two.
    num_experts, num_experts_per_tok, moe_intermediate_size
        Routed experts, 0 when dense.
    shared_intermediate_size
        Total width of the experts that see every token.
    shared_gate
        A sigmoid gate of width 1 on the shared expert (Qwen2-MoE).
    """

    intermediate_size: int
    gated: bool
    bias: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False

    @property
    def is_moe(self) -> bool:
        """Whether tokens are routed to experts."""
        return self.num_experts > 0


@dataclass(frozen=True)
class LayerSpec:
    """One block: token mixer, optional cross-attention, feed-forward, and its norms.

    Attributes
    ----------
    norm
        ``layer`` has weight and bias, ``layer_nobias`` weight only, ``rms`` weight only, ``none_affine`` no parameters.
    norms
        How many norms of width hidden_size the block has (2; 4 with post-norms as in Gemma 2; 3 with cross-attention).
    parallel_residual
        Attention and MLP read the same input (GPT-J, PaLM, Falcon).
    adaptive_norm
        Parameters of the conditioning projection (DiT: 6·h² + 6·h), 0 if none.
    extra_parameters
        Parameters that no GEMM touches: relative position buckets, layer scale, A/D/dt of Mamba.
    """

    attention: AttentionSpec | None
    mlp: MlpSpec | None
    cross_attention: AttentionSpec | None = None
    norm: Literal["layer", "layer_nobias", "rms", "none_affine"] = "rms"
    norms: int = 2
    parallel_residual: bool = False
    adaptive_norm: int = 0
    extra_parameters: int = 0


@dataclass(frozen=True)
class PatchSpec:
    """How a non-text input becomes tokens: ``tokens`` per item from patches of ``patch_dim`` numbers.

    ``output_tokens`` is what a tower hands to its backbone per item (after pooling), 0 when that is all ``tokens``.
    """

    patch_dim: int
    tokens: int
    bias: bool = True
    class_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class ModelSpec:
    """A transformer-like model.

    Attributes
    ----------
    layers
        Run-length list of blocks in order: ``((layer, count), ...)``. Blocks that alternate appear as many short runs.
    vocab_size
        Rows of the token embedding; 0 for a tower without one.
    max_position_embeddings
        Longest context.
    learned_positions
        Rows of a learned position embedding, 0 where the mixers take care of positions.
    tie_word_embeddings
        The head shares the embedding matrix.
    head
        ``lm`` predicts tokens; ``none`` returns hidden states; ``classes`` projects to ``num_labels``.
    is_decoder
        Causal generation with a KV cache.
    encoder
        Encoder of an encoder-decoder model (its states feed the cross-attention).
    towers
        Vision, audio or text towers of a multimodal model, run before the backbone.
    projector_parameters
        Parameters between towers and backbone.
    fp8_block
        Side of the squares of weights that share a scale in its fp8 checkpoint (``weight_block_size``); 0: larger parts
        do.
    num_nextn_predict_layers
        Modules for multi-token prediction behind the last block, each one block like the last and a projection of two
        hidden states to one; they share embedding and head. Training runs them, serving only as a draft.
    dropout
        Whether the published recipe trains with dropout (its masks are stored).
    published_parameters
        The count the authors state, for the tests.
    """

    name: str
    family: str
    hidden_size: int
    layers: tuple[tuple[LayerSpec, int], ...]
    vocab_size: int
    max_position_embeddings: int
    learned_positions: int = 0
    token_types: int = 0
    embedding_norm: bool = False
    tie_word_embeddings: bool = False
    final_norm: bool = True
    head: Literal["lm", "none", "classes"] = "lm"
    head_bias: bool = False
    head_hidden_layers: int = 0
    num_labels: int = 0
    embedding_size: int = 0
    is_decoder: bool = True
    dropout: bool = False
    encoder: ModelSpec | None = None
    towers: tuple[ModelSpec, ...] = ()
    projector_parameters: int = 0
    patch: PatchSpec | None = None
    extra_parameters: int = 0
    fp8_block: int = 0
    num_nextn_predict_layers: int = 0
    published_parameters: float = 0.0
    published_active_parameters: float = 0.0
    sources: tuple[str, ...] = ()
    notes: str = ""
    extra: tuple[tuple[str, object], ...] = field(default=(), repr=False)

    @property
    def num_hidden_layers(self) -> int:
        """Number of blocks of the backbone."""
        return sum(count for _, count in self.layers)

    @property
    def position_embedding_type(self) -> str:
        """``learned_absolute``, or what the first attention that minds positions does; ``none`` if nothing does."""
        if self.learned_positions:
            return "learned_absolute"
        kinds = (
            layer.attention.position_embedding_type
            for layer, _ in self.layers
            if layer.attention is not None and layer.attention.kind != "linear"
        )
        return next((kind for kind in kinds if kind != "none"), "none")

    def layer_list(self) -> tuple[LayerSpec, ...]:
        """The blocks one by one, in order."""
        return tuple(layer for layer, count in self.layers for _ in range(count))
