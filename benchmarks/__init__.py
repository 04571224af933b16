"""Measurements of asyncgen, side by side with what users would otherwise run and with a physical limit.

    wire          CPU and wall time per 1.8 MB image, over HTTP and over HTTPS
    memory        peak RSS, with many results ready at once and with a long file of prompts
    loop          delay of a host application's heartbeat while images land
    overhead      jobs of 1 KB images a second, few and many
    start         `asyncgen --help` and the import
    soak          memory, file descriptors, threads and tasks over an hour of faults; only when named

One question per file, with a `run` that returns a `Report`; `__main__` lists them. Shared by all of them:

    report, results, readme   table, targets and samples; kept as JSON and plots; the latest of them in `README.md`
    sides                     what is compared
    trial                     one side against one server, and whether what it made is right
    measuring, child          a side's process: wall time, CPU, memory; `workload` is what it is told
    servers, static_server    servers in processes of their own: for the wire's limit, and the sandbox for behaviour
    pictures                  whether files are whole, and all different
"""
