"""The keys of ``requests:``: where the requests of a deployment come from."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from simulator.scenario.fields import Count, Duration, Named, Rate, Ratio, TextOrMapping, TokenLaw
from simulator.scenario.spec_base import Strict

__all__ = ["DocumentsSpec", "RequestsSpec", "SessionsSpec"]

RequestsName: TypeAlias = Annotated[
    str, Named("workloads/requests", "request workload", "simulator.workload.requests.files:load_workload")
]


class SessionsSpec(Strict):
    """Turns of a conversation or of an agent; ``input_tokens`` are then what each turn adds to all that was said, and
    ``first_tokens`` what the first one has instead, where sessions do not begin empty.

    The next turn comes ``think_time`` after the answer: log-normal with this median and ``think_sigma``.
    """

    turns: TokenLaw = 1
    think_time: Annotated[Duration, Field(ge=0)] = 0.0
    think_sigma: Annotated[Ratio, Field(ge=0)] = 0.0
    max_context: Annotated[Count, Field(ge=1)] = 131_072
    system_tokens: Annotated[Count, Field(ge=0)] = 0
    first_tokens: TokenLaw = None


class DocumentsSpec(Strict):
    """Text that prompts share: ``system_tokens`` of all, then ``per_request`` of ``count`` documents, then their own.

    ``own_tokens`` of each prompt stand before its documents: what follows them is new to a plain prefix cache.
    The i-th document is chosen with a weight of 1 / i^``skew``; ``tokens`` is the law of their lengths.
    """

    count: Annotated[Count, Field(ge=1)]
    tokens: TokenLaw
    per_request: TokenLaw = 1
    skew: Annotated[Ratio, Field(ge=0)] = 0.0
    system_tokens: Annotated[Count, Field(ge=0)] = 0
    own_tokens: Annotated[Count, Field(ge=0)] = 0


class RequestsSpec(Strict):
    """Where requests come from: a ``trace`` (file or shipped name), a ``workload`` file, or laws written here.

    ``rate`` scales the time axis of a trace to this mean rate; beside laws of length alone it means Poisson arrivals.
    ``concurrency`` keeps so many requests in flight instead (closed loop). Every request of a multimodal model has
    ``images``; one of a diffusion model is an image made in ``steps``.
    """

    trace: str | None = None
    workload: RequestsName | None = None
    arrival: TextOrMapping = None
    rate: Annotated[Rate, Field(gt=0)] | None = None
    duration: Annotated[Duration, Field(gt=0)] | None = None
    count: Annotated[Count, Field(ge=1)] | None = None
    concurrency: Annotated[Count, Field(ge=1)] | None = None
    input_tokens: TokenLaw = None
    output_tokens: TokenLaw = None
    images: Annotated[Count, Field(ge=1)] | None = None
    steps: TokenLaw = None
    sessions: SessionsSpec | None = None
    documents: DocumentsSpec | None = None
    skip_bad_rows: bool = False
