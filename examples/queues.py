"""Simulates a queue before some servers: the customers' waits, and the highest rate of arrivals.

First come, first served. Arrivals are random (Poisson), service times are measured ones: M/G/c.
"""

import heapq

import numpy as np

CUSTOMERS = 50_000  # of one simulation


def waits(arrivals, services, servers):
    """Returns how long each customer waits until one of the servers is free.

    Args:
        arrivals: When each customer comes, in order.
        services: How long each customer is served.
        servers: The number of servers.
    """
    free, found = [0.0] * servers, np.empty(len(arrivals))  # when each server is free: a heap
    for number, (arrival, service) in enumerate(zip(arrivals, services, strict=True)):
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + service)
        found[number] = start - arrival
    return found


def most_within(measured, servers, limit, share=0.99, seed=1):
    """Returns the highest rate of arrivals with this share of the answers within a limit.

    Args:
        measured: Service times to draw from.
        servers: The number of servers.
        limit: The most time for waiting and service together, in the unit of `measured`.

    Raises:
        ValueError: If the services alone take longer.
    """
    draw = np.random.default_rng(seed)
    services = draw.choice(np.asarray(measured, float), CUSTOMERS)
    arrivals = np.cumsum(draw.exponential(size=CUSTOMERS))  # at rate 1; the same at every rate

    def late(rate):
        times = waits(arrivals / rate, services, servers) + services
        return np.quantile(times, share) > limit

    if np.quantile(services, share) > limit:
        raise ValueError(
            f"No number of servers answers {share:.0%} within {limit:g}: without any waiting "
            f"it takes {np.quantile(services, share):g}."
        )
    low, high = 0.0, servers / services.mean()  # at `high` the servers never rest
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if late(middle) else (middle, high)
    return low
