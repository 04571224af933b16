"""The RunPod serverless queue API on localhost, with simulated workers or real ones. See `docs/sandbox.md`.

It shares no code with asyncgen's client: it is what the client is tested against.

    server         starts and stops it; the books and faults over HTTP
    client_side    /run, /status and the rest, as clients see them
    platform_side  job-take, job-done and the rest, as real workers see them
    exchange       what both sides share, and the passing of time
    books          jobs, queues and workers as a function of time (pure)
    faults, limits, replies   scripted faults, rate limits, shapes of replies (pure)
    workers        simulated workers; comfy checks their graphs and painter paints their pictures
"""

from asyncgen.sandbox.faults import FaultRule
from asyncgen.sandbox.server import HEADER, Sandbox, run_forever, serve
from asyncgen.sandbox.settings import SandboxSettings

__all__ = ["HEADER", "FaultRule", "Sandbox", "SandboxSettings", "run_forever", "serve"]
