"""Calls drawn from laws: Poisson arrivals spread over functions of unequal popularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.workload.functions.table import FunctionTable

__all__ = ["CallLaw", "generate_calls"]


@dataclass(frozen=True)
class CallLaw:
    """What is drawn.

    Attributes
    ----------
    rate
        Calls per second of all functions together.
    functions, owners
        How many; functions are dealt out to owners in turn.
    skew
        Exponent of Zipf's law of popularity: function k gets a share in proportion to k^−skew; 0: all alike.
    seconds
        Median execution time [s].
    sigma
        Of its logarithm; 0: every call takes the median.
    """

    rate: float
    functions: int = 1
    owners: int = 1
    skew: float = 0.0
    seconds: float = 1.0
    sigma: float = 0.0


def generate_calls(law: CallLaw, duration: float, seed: int = 0) -> FunctionTable:
    """Calls over ``duration`` [s]."""
    random = np.random.Generator(np.random.PCG64(seed))
    count = int(random.poisson(law.rate * duration))
    arrival = np.sort(random.random(count)) * duration
    weight = np.arange(1, law.functions + 1, dtype=np.float64) ** -law.skew
    function = random.choice(law.functions, count, p=weight / weight.sum()).astype(np.int64)
    seconds = law.seconds * np.exp(law.sigma * random.standard_normal(count))
    owners = tuple(f"owner-{i % law.owners + 1}" for i in range(law.functions))
    names = tuple(f"function-{i + 1}" for i in range(law.functions))
    return FunctionTable(arrival, function, seconds, names, owners, np.zeros(law.functions), "generated")
