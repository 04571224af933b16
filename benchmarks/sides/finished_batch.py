"""No side of a comparison: makes a ledger in which every prompt of a file is an image that was made long ago.

Through the ledger's own methods, job by job, and without any request or file: some 0.3 ms for each. The next run over
the same file with the same batch then has nothing to do for them but to find that out.
"""

from __future__ import annotations

from typing import Final

import anyio

from asyncgen import ImageGenerator
from asyncgen.intake import Intake
from asyncgen.ledger import Ledger
from asyncgen.protocol import Timing
from asyncgen.records import Item, StoredPicture, Terms
from benchmarks.sides.asyncgen_stream import BATCH, prompts_of
from benchmarks.workload import Workload, picture_size

#: Each of them waits for the same commits.
_AT_ONCE: Final = 2048


async def fetch(workload: Workload) -> None:
    """Fetches nothing; `prompts_file` must be given."""
    async with ImageGenerator(
        endpoint_base_url=workload.base_url,
        endpoint=workload.endpoint,
        api_key=workload.api_key,
        output_root=workload.folder,
    ) as generator:
        ledger = generator.workspace.ledger
        batch = await ledger.open_batch(BATCH, generator.target.realm)
        run_id = await ledger.begin_run(batch)
        size = dict(zip(("width", "height"), picture_size(workload.picture_bytes), strict=True))
        chunks = Intake(generator.planner, size).of_prompts(prompts_of(workload), generator.workspace.ports)
        claimed: list[Item] = []
        async for chunk in chunks:
            claimed += await ledger.claim(batch, run_id, [wanted.want for wanted in chunk])
            if len(claimed) >= _AT_ONCE:
                await _finish_all(ledger, claimed, workload.endpoint)
                claimed = []
        await _finish_all(ledger, claimed, workload.endpoint)
        await ledger.end_run(run_id, "ended")
        await generator.workspace.update_manifest()


async def _finish_all(ledger: Ledger, items: list[Item], endpoint: str) -> None:
    async with anyio.create_task_group() as tasks:
        for item in items:
            tasks.start_soon(_finish, ledger, item, endpoint)


async def _finish(ledger: Ledger, item: Item, endpoint: str) -> None:
    await ledger.record_intent(item, Terms(endpoint, execution_timeout_ms=600_000, ttl_ms=86_400_000))
    await ledger.record_accepted(item, f"job-{item.id}")
    picture = StoredPicture(0, f"pictures/{item.request_id}.png", "0" * 64, 1_800_000, "png", 1360, 768)
    await ledger.record_storing(item, [picture], Timing())
    await ledger.record_stored(item)
