"""The sides of the comparisons: each a module with `fetch(workload)`, run alone in a process by `benchmarks.child`.

Each does whole jobs: `POST /run` with the same graph, `GET /status` until the reply carries the picture, the picture
decoded and written. What they add to that, or leave out, their first lines say.
"""

from collections.abc import Mapping
from typing import Final

ASYNCGEN: Final = "asyncgen_stream"
FINISHED: Final = "finished_batch"  # prepares, and is compared with nothing
FLOOR: Final = "raw_sockets"
OFFICIAL: Final = "official_client"
OFFICIAL_OUTPUT: Final = "official_output"
PLAIN: Final = "plain_aiohttp"
PLAN_KEPT: Final = "plan_kept"  # these two, and the reader, fetch nothing
PLAN_NEW: Final = "plan_new"
READER: Final = "csv_reader"
REQUESTS: Final = "requests_threads"

#: What the tables call them, in the tables' order.
LABELS: Final[Mapping[str, str]] = {
    ASYNCGEN: "asyncgen",
    FLOOR: "raw sockets (floor)",
    PLAIN: "plain aiohttp",
    OFFICIAL: "official client",
    OFFICIAL_OUTPUT: "official, output()",
    REQUESTS: "requests, threads",
}
