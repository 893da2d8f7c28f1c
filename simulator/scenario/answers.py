"""How a model answers: token by token, in one pass over its input, or in the steps of a diffusion; with images too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from simulator.scenario.spec import ServingSpec
from simulator.workload.jobs import Denoising, Deployment
from simulator.workload.model import ModelSpec
from simulator.workload.requests.table import RequestTable

__all__ = ["Answers"]

Problem = tuple[tuple[str, ...], str]


@dataclass(frozen=True)
class Answers:
    """What a served model makes of a request.

    Attributes
    ----------
    model
        The model.
    kind
        ``tokens`` generated one by one, ``pass``: one pass over the input (embedding, classification), ``steps`` of a
        diffusion.
    """

    model: ModelSpec
    kind: Literal["tokens", "pass", "steps"]

    @classmethod
    def of(cls, model: ModelSpec) -> Answers:
        """By the model: a patched one without class tokens predicts patches, that is noise."""
        if model.is_decoder:
            return cls(model, "tokens")
        denoises = model.patch is not None and not model.patch.class_tokens
        return cls(model, "steps" if denoises else "pass")

    @property
    def item_tokens(self) -> int:
        """Tokens that an image puts into the prompt of a multimodal model."""
        return sum(t.patch.output_tokens or t.patch.tokens for t in self.model.towers if t.patch is not None)

    def problems(self, spec: ServingSpec) -> Iterator[Problem]:
        """Keys that do not go with such a model."""
        requests, deployment, name = spec.requests, spec.deployment, self.model.name
        if requests.images and not (self.kind == "tokens" and self.item_tokens):
            yield ("requests", "images"), f"'{name}' has no encoder for images beside a language model, leave it out"
        if requests.steps is not None and self.kind != "steps":
            yield ("requests", "steps"), f"'{name}' is no diffusion model, leave it out"
        if requests.output_tokens is not None and self.kind != "tokens":
            cure = "write 'steps'" if self.kind == "steps" else "leave it out"
            yield ("requests", "output_tokens"), f"'{name}' does not generate tokens, {cure}"
        if deployment.diffusion is not None and self.kind != "steps":
            yield ("deployment", "diffusion"), f"'{name}' is no diffusion model, leave it out"
        if self.kind == "tokens":
            return
        if self.kind == "pass" and deployment.batching == "chunked-prefill":
            where = ("deployment", "batching")
            yield where, f"'{name}' reads its input at once, chunks do not work: use 'prefill-first' or 'dynamic'"
        for key in ("pools", "speculation", "sparse_attention", "decode_attention", "batch_overlap", "kv_tiers"):
            if getattr(deployment, key):
                yield ("deployment", key), f"'{name}' does not generate tokens, leave it out"

    def adapted(self, spec: ServingSpec) -> ServingSpec:
        """The scenario's keys with the lengths that the model itself decides."""
        if self.kind == "tokens" or spec.requests.trace or spec.requests.workload:
            return spec
        changes: dict[str, Any] = {"output_tokens": 1}
        if self.kind == "steps":
            changes = {"output_tokens": spec.requests.steps or 50, "input_tokens": 1}
        elif self.model.patch is not None and spec.requests.input_tokens is None:
            changes["input_tokens"] = self.model.patch.tokens
        return spec.model_copy(update={"requests": spec.requests.model_copy(update=changes)})

    def table(self, requests: RequestTable, spec: ServingSpec) -> RequestTable:
        """The requests as the engine counts them: one output for a pass, and the tokens of images in the prompt."""
        ones = np.ones(len(requests), dtype=np.int32)
        if self.kind == "pass":
            return replace(requests, output_tokens=ones)
        if self.kind == "steps":
            return replace(requests, input_tokens=ones)
        if spec.requests.images:
            return replace(requests, input_tokens=requests.input_tokens + spec.requests.images * self.item_tokens)
        return requests

    def fitted(self, deployment: Deployment, spec: ServingSpec) -> Deployment:
        """The deployment with what follows from how its model answers."""
        if self.kind == "tokens":
            return replace(deployment, items=spec.requests.images or 0)
        asked = spec.deployment
        if self.kind == "pass":
            # The one output is no token of the context.
            length = asked.max_model_len or self.model.max_position_embeddings
            return replace(
                deployment, batching=asked.batching or "prefill-first", max_model_len=length + 1 if length else 0
            )
        assert self.model.patch is not None
        diffusion = asked.diffusion
        tokens = diffusion.tokens if diffusion and diffusion.tokens else self.model.patch.tokens
        denoising = Denoising(tokens, 2 if diffusion is None or diffusion.guidance else 1)
        images = max(1, deployment.max_num_batched_tokens // (denoising.tokens * denoising.passes))
        return replace(
            deployment, denoising=denoising, max_model_len=0, max_num_seqs=min(deployment.max_num_seqs, images)
        )
