"""Draft models, n-grams, extra heads and token trees."""

from __future__ import annotations

from dataclasses import replace

from simulator.errors import ConfigError
from simulator.registry import Claim, register
from simulator.strategies.settings import Settings
from simulator.strategies.speculation.base import Draft, Speculation
from simulator.workload.model import LayerSpec, ModelSpec
from simulator.workload.model_files import load_model

__all__ = ["DraftModel", "Eagle", "Lookahead", "Medusa", "MultiTokenPrediction", "Ngram", "SpecInfer"]

_LEVIATHAN = "Leviathan et al. 2022, arXiv 2211.17192"
_CHEN = "Chen et al. 2023, arXiv 2302.01318"
_PLAIN = "Speculative decoding (Leviathan; Chen)"
_HEADS = "Medusa, EAGLE(-2,-3), Lookahead"


def _chain(settings: Settings) -> tuple[int, ...]:
    return (1,) * settings.count("draft_tokens")


@register(
    "draft-model",
    kind="policy",
    area="serving",
    family="speculation",
    cites=(_LEVIATHAN, _CHEN),
    catalogue=(_PLAIN,),
    claims=(
        Claim(
            "expected tokens (1 − α^(γ+1))/(1 − α), speed-up that over γc + 1", "arXiv 2211.17192 eq. 1 and theorem 3.8"
        ),
    ),
    validated_by="closed_form",
)
class DraftModel(Speculation):
    """A small model (``draft_model``) drafts ``draft_tokens`` tokens one by one; the target verifies them together."""

    keys = ("draft_model", "draft_tokens")

    def _widths(self, settings: Settings) -> tuple[int, ...]:
        return _chain(settings)

    def draft(self, target: ModelSpec) -> Draft | None:
        """The named model, with its own cache."""
        model = load_model(self.settings.text("draft_model"))
        if model.vocab_size > target.vocab_size * 1.05 or model.vocab_size < target.vocab_size * 0.95:
            raise ConfigError(
                f"{self.settings.where}.draft_model: {model.name} has {model.vocab_size} tokens and {target.name} "
                f"{target.vocab_size}: a draft model needs the tokenizer of its target"
            )
        return Draft(model, (1,) * len(self.widths)) if self.widths else None


@register(
    "ngram",
    kind="policy",
    area="serving",
    family="speculation",
    cites=("vLLM speculative decoding: matching n-grams in the prompt",),
    catalogue=(_PLAIN,),
    validated_by="closed_form",
)
class Ngram(Speculation):
    """Drafts are copied from earlier text that matches the last tokens: no device time, ``draft_tokens`` to verify."""

    keys = ("draft_tokens",)

    def _widths(self, settings: Settings) -> tuple[int, ...]:
        return _chain(settings)


@register(
    "lookahead",
    kind="policy",
    area="serving",
    family="speculation",
    cites=("Fu et al. 2023 (Lookahead), lmsys.org/blog/2023-11-21-lookahead-decoding",),
    catalogue=(_HEADS,),
    validated_by="closed_form",
)
class Lookahead(Speculation):
    """Jacobi iteration collects n-grams in a window and verifies ``guesses`` of them in the same pass.

    A pass computes (window + guesses)·(ngram − 1) tokens per sequence. How many are accepted is measured
    (``accepted_length``): it is no closed form of a rate.
    """

    keys = ("window", "ngram", "guesses")

    def __init__(self, settings: Settings) -> None:
        if "accepted_length" not in settings:
            raise ConfigError(f"{settings.where}: lookahead needs 'accepted_length', the measured tokens per pass")
        super().__init__(settings)

    def _widths(self, settings: Settings) -> tuple[int, ...]:
        return (1,) * (settings.count("ngram", low=2) - 1)

    @property
    def verify_tokens(self) -> int:
        """Window and guesses, each n − 1 tokens deep."""
        window = self.settings.count("window", low=1)
        return (window + self.settings.count("guesses", window, low=1)) * len(self.widths)


@register(
    "medusa",
    kind="policy",
    area="serving",
    family="speculation",
    cites=("Cai et al. 2024 (Medusa), arXiv 2401.10774",),
    catalogue=(_HEADS,),
    claims=(
        Claim("about 2× at batch size 1 for Vicuna; Medusa-2 2.2-3.6×", "README of FasterDecoding/Medusa @0bfdcd2"),
    ),
    validated_by="closed_form",
)
class Medusa(Speculation):
    """One extra head per position on the last hidden state; their candidates form a tree of ``widths``.

    A head is one residual layer of hidden² and a projection to the vocabulary. The typical acceptance of Medusa does
    not keep the target's distribution.
    """

    keys = ("widths", "tree_nodes")
    quality = "not lossless with typical acceptance; no quality loss is declared in the source read (Medusa README)"

    def _widths(self, settings: Settings) -> tuple[int, ...]:
        return settings.counts("widths")

    @property
    def verify_tokens(self) -> int:
        """All nodes of the tree, or the ``tree_nodes`` kept of it, and the token they hang on."""
        return 1 + self.settings.count("tree_nodes", super().verify_tokens - 1)

    def draft(self, target: ModelSpec) -> Draft | None:
        """Heads without layers: each reads its own matrices once."""
        norm = target.layers[-1][0].norm
        bare = LayerSpec(None, None, norm=norm, norms=0)
        heads = replace(
            target, name=f"{target.name}-medusa-head", layers=((bare, 1),), final_norm=False, head_hidden_layers=1,
            tie_word_embeddings=False, learned_positions=0, embedding_norm=False, projector_parameters=0,
            extra_parameters=0, towers=(), encoder=None,
        )  # fmt: skip
        return Draft(heads, (1,) * len(self.widths), copies=len(self.widths), own_embedding=False, reads_prompts=False)


def _one_layer(target: ModelSpec, layer: LayerSpec, name: str, fused: int, vocabulary: int) -> ModelSpec:
    """One layer of the target behind a projection of ``fused`` hidden states to one."""
    return replace(
        target, name=f"{target.name}-{name}", layers=((layer, 1),), vocab_size=vocabulary,
        extra_parameters=fused * target.hidden_size**2, projector_parameters=0, towers=(), encoder=None,
        learned_positions=0,
    )  # fmt: skip


@register(
    "eagle",
    kind="policy",
    area="serving",
    family="speculation",
    cites=("Li et al. 2024 (EAGLE), arXiv 2401.15077", "EAGLE-2, arXiv 2406.16858", "EAGLE-3, arXiv 2503.01840"),
    catalogue=(_HEADS,),
    claims=(
        Claim("3× over plain decoding, Vicuna-13B, fp16, 2× RTX 3090", "README of SafeAILab/EAGLE @01aa119"),
        Claim(
            "Llama-3.1-8B, one H100, SGLang, batch 1, MT-bench: 158.3 tok/s plain, 244.1 EAGLE-2, "
            "373.3 EAGLE-3; 1.38× at batch 64",
            "SafeAILab/EAGLE README (EAGLE-3), as carried in published_serving.yaml",
        ),
    ),
    validated_by="closed_form",
)
class Eagle(Speculation):
    """A one-layer head on the target's hidden states drafts a tree level by level.

    ``widths``: candidates kept per parent at each level; ``tree_nodes``: nodes verified (EAGLE-2 keeps the best ones of
    a larger tree); ``beam``: tokens per draft pass after the first; ``draft_vocabulary`` of EAGLE-3's head;
    ``fused_states`` hidden states joined in front of it: 2 (embedding and feature) or 3 (EAGLE-3).
    """

    keys = ("widths", "tree_nodes", "beam", "draft_vocabulary", "fused_states")

    def _widths(self, settings: Settings) -> tuple[int, ...]:
        return settings.counts("widths")

    @property
    def verify_tokens(self) -> int:
        """All nodes of the tree, or the ``tree_nodes`` kept of it, and the token they hang on."""
        return 1 + self.settings.count("tree_nodes", super().verify_tokens - 1)

    def draft(self, target: ModelSpec) -> Draft | None:
        """One decoder layer like the target's first; embedding and head are the target's."""
        beam = self.settings.count("beam", max(self.widths), low=1)
        vocabulary = self.settings.count("draft_vocabulary", target.vocab_size, low=1)
        head = _one_layer(
            target, target.layers[0][0], "eagle", self.settings.count("fused_states", 2, low=1), vocabulary
        )
        steps = (1, *(beam,) * (len(self.widths) - 1))
        return Draft(head, steps, own_embedding=False, own_head=vocabulary != target.vocab_size)


@register(
    "mtp",
    kind="policy",
    area="serving",
    family="speculation",
    cites=(
        "DeepSeek-AI 2024 (DeepSeek-V3), arXiv 2412.19437 §2.2",
        "SemiAnalysisAI/InferenceX @843c625 golden acceptance lengths",
    ),
    catalogue=(_HEADS,),
    validated_by="closed_form",
)
class MultiTokenPrediction(Speculation):
    """A multi-token-prediction module (one layer like the target's last) drafts ``draft_tokens`` in a chain."""

    keys = ("draft_tokens",)

    def _widths(self, settings: Settings) -> tuple[int, ...]:
        return _chain(settings)

    def draft(self, target: ModelSpec) -> Draft | None:
        """One layer like the target's last, mixture of experts included; embedding and head are shared."""
        module = _one_layer(target, target.layers[-1][0], "mtp", 2, target.vocab_size)
        return Draft(module, (1,) * len(self.widths), own_embedding=False, own_head=False) if self.widths else None


@register(
    "specinfer",
    kind="policy",
    area="serving",
    family="speculation",
    cites=("Miao et al. 2023 (SpecInfer), arXiv 2305.09781",),
    catalogue=("SpecInfer",),
    claims=(
        Claim(
            "1.5-2.8× over other systems for distributed serving, 2.6-3.5× for offloading",
            "abstract of the later version of arXiv 2305.09781",
        ),
    ),
    validated_by="closed_form",
)
class SpecInfer(Speculation):
    """A small model drafts a token tree with ``widths`` children per node at each depth, verified in one pass."""

    keys = ("draft_model", "widths")

    def _widths(self, settings: Settings) -> tuple[int, ...]:
        return settings.counts("widths")

    def draft(self, target: ModelSpec) -> Draft | None:
        """The named model; the pass of each depth computes all nodes of the depth above."""
        model = load_model(self.settings.text("draft_model"))
        nodes, steps = 1, []
        for width in self.widths:
            steps.append(nodes)
            nodes *= width
        return Draft(model, tuple(steps))
