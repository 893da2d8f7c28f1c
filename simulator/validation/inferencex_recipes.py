"""How InferenceX launched its engines: its results name model, device, degrees and image, its scripts the options.

Read in SemiAnalysisAI/InferenceX ``benchmarks/*.sh`` (commits of each script's era: 409e9a4 and 73ef922 for Llama,
1fc5d73, 111f031 and 0a919c5 for the others) and ``perf-changelog.yaml``. One rule per script, none per run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from simulator.strategies.speculation.acceptance import GOLDEN_LENGTHS

__all__ = ["PLAIN", "Recipe", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """What a script adds to a run.

    Attributes
    ----------
    fields
        Fields of the deployment.
    options
        Its ``options``: parameters of policies, speculation.
    assumed
        What the scripts do not state either.
    engine
        The engine's version, where the results do not state it.
    precision
        Registered precision, where the column of the results does not tell it.
    captured
        Whether CUDA graphs were captured for every batch of the run (``cuda_graph_config.max_batch_size``).
    expert_kernels
        Libraries of the experts' kernels, where the script names a back end (``moe_config.backend``).
    replayed
        Tokens of an iteration with prompts up to which it is replayed piece by piece (``enable_piecewise_cuda_graph``).
    doubt
        Why the record does not say how it was launched: it is grade C then.
    compiles
        Whether the engine compiles kernels of the model when they are first called.
    """

    fields: Mapping[str, object] = field(default_factory=dict)
    options: tuple[tuple[str, object], ...] = ()
    assumed: tuple[str, ...] = ()
    engine: str = ""
    precision: str = ""
    captured: bool = False
    expert_kernels: tuple[str, ...] = ()
    replayed: int = 0
    doubt: str = ""
    compiles: bool = False


PLAIN = Recipe()
"""A launch without options."""


@dataclass(frozen=True)
class _Run:
    """What the rules look at; ``attention_ranks``: data-parallel ranks of the attention."""

    system: str
    precision: str
    isl: int
    osl: int
    concurrency: int
    ranks: int
    attention_ranks: int
    expert_ranks: int
    image: str
    measured: str

    @property
    def short(self) -> bool:
        """1k prompts and 1k answers, for which several scripts have options of their own."""
        return self.isl == self.osl == 1024

    @property
    def longest(self) -> int:
        """``MAX_MODEL_LEN`` of the sweep: lengths and 200 tokens of room."""
        return self.isl + self.osl + 200


def recipe(model: str, backend: str, row: Mapping[str, str], ranks: int, attention_ranks: int) -> Recipe:
    """Options of the run's script; empty where no script of that model and engine was read."""
    run = _Run(
        _card(row["system"]), row["precision"], int(float(row["isl"])), int(float(row["osl"])),
        int(float(row["conc"])), ranks, attention_ranks, int(float(row.get("moe_ep_size") or 1)),
        row.get("image") or row.get("backend_version") or "", row.get("measured") or "",
    )  # fmt: skip
    rule = RULES.get((model, backend)) if run.system in SCRIPTED else None
    found = rule(run) if rule else PLAIN
    compiles = model == "deepseek-v3" and (backend, run.precision) in COMPILING
    precision = found.precision or CHECKPOINTS.get((model, run.precision), "")
    captured = rule is not None and backend == "trtllm"
    return replace(found, captured=captured, compiles=compiles, precision=precision)


CHECKPOINTS = {("deepseek-v3", "fp4"): "fp4-mlp", ("gpt-oss-120b", "fp4"): "mxfp4", ("gpt-oss-120b", "fp8"): "mxfp4"}
"""What the checkpoints of a sweep hold where its column says less: nvidia/DeepSeek-R1-0528-FP4-V2 leaves most of the
attention in 16 bit, openai/gpt-oss-120b all but the experts."""


def _card(system: str) -> str:
    """``b200`` of ``b200_sxm``, ``B200-180GB`` and ``NVIDIA B200``."""
    found = re.search(r"(gb|mi|[abh])\d+x?", system.lower())
    return found[0] if found else system.lower()


SCRIPTED = ("h100", "h200", "b200", "b300", "gb200", "gb300")
"""Systems of the scripts that were read, and their kin; AMD's have scripts of their own."""

COMPILING = (("sglang", "fp4"), ("sglang", "fp8"), ("trtllm", "fp8"))
"""Engines and formats whose kernels for DeepSeek-R1 are compiled just in time: FlashInfer's in SGLang, DeepGEMM's in
TensorRT-LLM."""


def _llama_vllm(run: _Run) -> Recipe:
    most = 512 if run.system == "b200" else run.concurrency
    fields = {"kv_dtype": "fp8", "max_num_batched_tokens": 8192, "max_num_seqs": most}
    # Pull request 149 removed these runs before 159 went from vLLM 0.10.2 to 0.11.
    return Recipe(fields, engine="vllm 0.10 --async-scheduling")


def _llama_trt(run: _Run) -> Recipe:
    fields: dict[str, object] = {"kv_dtype": "fp8", "max_num_batched_tokens": run.longest, "batching": WHOLE}
    if not run.short or run.ranks >= 8:
        return Recipe(fields)
    return _waiting(fields, 20, 0.9)


WHOLE = "in-flight"
"""TensorRT-LLM cuts prompts where ``enable_chunked_prefill`` is set, which no script does."""


def _waiting(fields: dict[str, object], iterations: int, ratio: float) -> Recipe:
    held = (("base", WHOLE), ("iterations", iterations), ("ratio", ratio))
    return Recipe(fields | {"batching": "batch-wait"}, (("batching", held),))


MXFP8_ACTIVATIONS = "fp4-fp8"
"""gpt-oss on B200: ``VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8`` in vLLM, the TRTLLM expert backend in TensorRT-LLM."""


BALANCED_ITERATIONS = 50
"""``timeout_iters`` of TensorRT-LLM's attention_dp_config by default; the scripts of DeepSeek-R1 set 60."""


def _balanced(fields: dict[str, object], run: _Run, iterations: int, tokens: float = 1.0) -> Recipe:
    """Data-parallel attention with ``enable_balance``: prompts wait until every rank has one, or for ``timeout_iters``
    of ``tokens`` each."""
    waits = (("ranks", run.attention_ranks), ("iterations", round(iterations * tokens)))
    return Recipe(fields | {"batching": "rank-balance"}, (("batching", waits),))


def _gpt_oss_vllm(run: _Run) -> Recipe:
    if run.system == "b200":
        fields = {"kv_dtype": "fp8", "max_num_batched_tokens": 8192, "max_num_seqs": 512}
        return Recipe(fields, precision=MXFP8_ACTIVATIONS, replayed=VLLM_CAPTURES)
    fields = {"max_num_batched_tokens": 8192, "max_num_seqs": run.concurrency}
    return Recipe(fields, replayed=VLLM_CAPTURES)


VLLM_CAPTURES = 2048
"""``max-cudagraph-capture-size`` (``cuda-graph-sizes`` in 2025) of the scripts of gpt-oss."""


def _gpt_oss_trt(run: _Run) -> Recipe:
    # TensorRT-LLM counts tokens and sequences by rank of its data-parallel attention, a deployment in all.
    ranks, b200 = run.attention_ranks, run.system == "b200"
    fields: dict[str, object] = {"max_num_batched_tokens": 20000 * ranks, "memory_utilization": 0.85, "batching": WHOLE}
    fields |= {"max_num_seqs": (512 if b200 else run.concurrency) * ranks} | ({"kv_dtype": "fp8"} if b200 else {})
    plain = _balanced(fields, run, BALANCED_ITERATIONS) if ranks > 1 else Recipe(fields)
    return replace(plain, precision=MXFP8_ACTIVATIONS) if b200 else plain


def _deepseek_sglang(run: _Run) -> Recipe:
    if run.system == "h200":
        fields: dict[str, object] = {"max_num_batched_tokens": 32768, "memory_utilization": 0.82}
        return Recipe(fields | {"max_num_seqs": 512 if run.short else 256})
    if run.precision == "fp8" and run.ranks == 4:
        fields = {"kv_dtype": "fp8", "max_num_batched_tokens": 8192, "memory_utilization": 0.95, "batching": "polled"}
        return Recipe(fields | {"max_num_seqs": max(run.concurrency, 32)}, (("batching", _polled(10)),))
    fp4 = run.precision == "fp4"
    fields = {"kv_dtype": "fp8", "max_num_batched_tokens": 16384 if fp4 else 32768}
    # 256 and 128 in the scripts read; runs at more were launched with a later one.
    fields |= {"max_num_seqs": max(run.concurrency, 256 if fp4 else 128)}
    fields |= {"memory_utilization": 0.85 if fp4 else 0.82, "batching": "polled"}
    interval = 30 if run.concurrency >= 16 else 10
    both = not fp4 and run.measured >= SGLANG_DRAFTS
    if not both or run.concurrency <= PLAIN_MOST:
        return Recipe(fields, (("batching", _polled(interval)),), doubt=UNTOLD if both else "")
    drafting, what = _drafting(2)
    tokens = GOLDEN_LENGTHS[ACCEPTED][1]
    return Recipe(fields, (("batching", _polled(interval, tokens)), drafting), assumed=(what,))


SGLANG_DRAFTS = "2026-02"
"""Month from which DeepSeek-R1 in fp8 on eight B200 is swept twice, with and without two drafts (``dsr1_fp8_b200.sh``,
``dsr1_fp8_b200_mtp.sh``; perf-changelog, pull requests 626 and 943); on four without alone."""

PLAIN_MOST = 64
"""Most clients of the sweep without drafts (nvidia-master.yaml: 4 to 64; with them 4 to 512)."""

UNTOLD = "grade C: two sweeps ran this configuration, with drafts and without, and the table does not say which it is"


def _polled(iterations: int, tokens: float = 1.0) -> tuple[tuple[str, object], ...]:
    """``--scheduler-recv-interval``: so many iterations of ``tokens`` each."""
    return (("base", "chunked-prefill-first"), ("iterations", round(iterations * tokens)))


def _backend(run: _Run, drafting: bool) -> tuple[str, ...]:
    """``MOE_BACKEND`` of the scripts: CUTLASS on Hopper; on Blackwell DEEPGEMM for all in fp8 until the images of 2026,
    then TRTLLM but for many requests and data-parallel attention."""
    if run.system != "b200":
        return ("cutlass",)
    spread = run.attention_ranks > 1
    if run.precision == "fp4":
        most = 256 if run.isl == 1024 else 64
        return ("cutlass",) if (spread if drafting else run.concurrency >= most) else ("trtllm-gen",)
    many = not drafting and run.isl == 1024 and run.concurrency >= 256
    return ("deepgemm",) if spread or many or FIRST_IMAGE in run.image else ("trtllm-gen",)


FIRST_IMAGE = "1.1.0rc2"
"""TensorRT-LLM's image of 2025, for which ``dsr1_fp8_b200_trt*.sh`` set DEEPGEMM (2e46dba, 40be3a4, 111f031; TRTLLM in
0a919c5 and 2f3a788)."""

MTP_IMAGES = ("1.2.0rc6.post3",)
"""Images of the multi-token-prediction scripts alone (perf-changelog: the plain ones went from 1.1.0rc2.post2 to
1.2.0rc6.post2)."""

MTP_SWEEPS = (("1.1.0rc2.post2", "2026-01-14"),)
"""Image and day of the sweep that brought these scripts (pull request 392); the plain ones share the image."""


ACCEPTED = "dsv4-pro-mtp-thinking"
"""Golden acceptance lengths that stand for those of DeepSeek-R1."""

LARGER_BUDGET = "2026-01"
"""Month from which the plain scripts take 8,192 tokens at least (``dsr1_*_trt.sh`` of 1fc5d73, 111f031 and 0a919c5;
before: b5ebafa, f560513, 6320e9b)."""


def _deepseek_trt(run: _Run) -> Recipe:
    drafting = any(i in run.image for i in MTP_IMAGES)
    drafting |= any(i in run.image and d == run.measured for i, d in MTP_SWEEPS)
    drafts = (1 if run.attention_ranks > 1 else 3) if drafting else 0
    share = 0.75 if run.system == "h200" else 0.8
    fields: dict[str, object] = {"kv_dtype": "fp8", "memory_utilization": share, "batching": WHOLE}
    if drafts:
        # Sequences per rank, each with its drafts, and one prompt.
        most = max(1, run.concurrency // run.attention_ranks)
        budget = _sixtyfours((drafts + 1) * most + run.isl)
        fields["max_num_seqs"] = most * run.attention_ranks
    else:
        budget = max(_sixtyfours(run.concurrency + run.isl), 8192 if run.measured >= LARGER_BUDGET else 0)
    fields["max_num_batched_tokens"] = budget * run.attention_ranks
    replayed = budget if any(i in run.image for i in PIECEWISE) and _piecewise(run, bool(drafts)) else 0
    tokens = GOLDEN_LENGTHS[ACCEPTED][drafts - 1] if drafts else 1.0
    held = _balanced(fields, run, 60, tokens) if run.attention_ranks > 1 else Recipe(fields)
    if drafts:
        option, what = _drafting(drafts)
        kernels = _backend(run, True)
        return Recipe(held.fields, (*held.options, option), assumed=(what,), expert_kernels=kernels, replayed=replayed)
    delayed = run.system == "b200" and run.precision == "fp8" and "1.2.0rc6.post2" in run.image
    plain = _waiting(fields, 40, 0.8) if delayed and run.short and 64 <= run.concurrency < 256 else held
    return replace(plain, expert_kernels=_backend(run, False), replayed=replayed)


PIECEWISE = ("1.2.0rc6.post2", "1.2.0rc6.post3")
"""Images whose scripts know piecewise CUDA graphs (perf-changelog, pull requests 594, 620, 632 and 642)."""


def _piecewise(run: _Run, drafts: bool) -> bool:
    """Which runs have them (``single_node/dsr1_fp{4,8}_b200_trt{,_mtp}.sh``)."""
    clients, whole, lengths = run.concurrency, run.attention_ranks == 1, (run.isl, run.osl)
    if run.system != "b200":
        return False
    if run.precision == "fp4" and not drafts:
        return run.short and run.ranks == run.expert_ranks == 8
    if run.precision == "fp4":
        short = run.short and (clients in (32, 64) or (clients == 128 and whole))
        return short or (lengths == (1024, 8192) and clients == 64)
    if drafts:
        return whole and clients > FEW_DRAFTING.get(lengths, 0)
    least, most = MANY_PLAIN.get(lengths, (1, 0))
    return least <= clients <= most


FEW_DRAFTING = {(1024, 1024): 4, (1024, 8192): 8, (8192, 1024): 16}
"""Lengths → most clients without piecewise graphs, fp8 with drafts."""

MANY_PLAIN = {(1024, 1024): (64, 512), (1024, 8192): (128, 255), (8192, 1024): (64, 512)}
"""Lengths → clients with piecewise graphs, fp8 without drafts."""


def _drafting(drafts: int) -> tuple[tuple[str, object], str]:
    """The option of multi-token prediction, and what is assumed with it."""
    given = (("accepted_lengths", ACCEPTED), ("draft_tokens", drafts), ("method", "mtp"))
    what = f"multi-token prediction with {drafts} drafts, accepted as DeepSeek-V4's (InferenceX golden lengths)"
    return ("speculation", given), what


def _sixtyfours(tokens: int) -> int:
    """``MAX_NUM_TOKENS`` of the scripts: 64 tokens of room, rounded up to a multiple of 64."""
    return (tokens + 64 + 63) // 64 * 64


RULES = {
    ("llama-3.1-70b", "vllm"): _llama_vllm,
    ("llama-3.1-70b", "trtllm"): _llama_trt,
    ("gpt-oss-120b", "vllm"): _gpt_oss_vllm,
    ("gpt-oss-120b", "trtllm"): _gpt_oss_trt,
    ("deepseek-v3", "sglang"): _deepseek_sglang,
    ("deepseek-v3", "trtllm"): _deepseek_trt,
}
"""Shipped model and engine → rule."""
