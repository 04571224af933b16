"""Measurements of asyncgen, side by side with what users would otherwise run and with a physical limit.

    throughput    images per second and CPU per image, against a plain loop and raw sockets
    soak          memory, file descriptors, threads and tasks over an hour of faults; only when named

One question per file, with a `run` that returns a `Report`; `__main__` lists them. Shared by
all of them: `servers` (the sandbox in a process of its own), `measuring` (a side in a process of its own, its wall
time and CPU), `peers` (what asyncgen is measured against), `pictures` (whether the files are right), `report` (the
table).
"""
