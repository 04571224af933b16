"""The shipped engine, endpoint, ledger and store on a virtual clock, against a simulated platform and disk.

One seed draws everything: latencies, faults of requests and jobs, stops, and when the power is cut. What differs from a
real run are the ports; nothing here is a second implementation of asyncgen, and the truths are told from the platform's
books, the durable disk and the durable ledger, never from what the engine believes. A seed that fails fails again, byte
for byte::

    python -m tests.simulation --seeds 2000     all cores; failures shrunk, with trace and the command that repeats them
    python -m tests.simulation --sweep 20       small plans, crashed at every step in turn
    python -m tests.simulation.mutants          the engine broken on purpose, each way caught within 500 seeds

The world, from below:

    choices                     every accident, drawn by key
    loop                        asyncio on virtual time, cut off between any two steps
    books, platform, network    the queue API, its own books, and the wire to it
    disk, ledger_file           files and a database that forget what was not flushed
    points                      where the power may go
    world                       all of it together, behind `asyncgen.ports`
    plans, lives                what one seed asks for; incarnations of the engine until it is done

What must hold:

    watch                       at every instant
    truths                      in the end: records, purchases, requests, folder, runs, limits
    coverage                    what a run must have met

Around it: `shrink`, `sweep`, `mutants`. Beside it two lanes that simulate less: `lane_aiohttp` (with `misbehaving`,
`sockets`) runs the real HTTP adapter, `lane_sqlite` (with `vfs`) the real SQLite file.
"""
