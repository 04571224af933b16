"""Measurements of asyncgen, side by side with what users would otherwise run and with a physical limit.

    throughput     images per second and CPU per image, against a plain loop and raw sockets

One question per file, each with a `QUESTION` and a `run(quick)` that returns a `Report`; a new one is added to
`BENCHMARKS` in `__main__`. Beside them: `servers` (the sandbox in a process of its own), `measuring` (a side in a
process of its own, its time and its CPU), `peers` (what asyncgen is measured against), `report` (the table).
"""
