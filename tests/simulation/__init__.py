"""The shipped engine, endpoint, ledger and store on a virtual clock, against a simulated platform and disk.

One seed draws everything: latencies, faults of requests and jobs, and when the power is cut. What differs from a real
run are the ports; nothing here is a second implementation of asyncgen. `python -m tests.simulation` runs seeds; a seed
that fails fails again, byte for byte.

    choices    every accident, drawn by key
    loop       asyncio on virtual time, cut off between any two steps
    disk       files that forget what was not flushed
    platform   the queue API and its own books
    world      all of it together, behind `asyncgen.ports`
    lives      incarnations of the engine until it ends
    truths     what must hold afterwards, looked at from outside
"""
