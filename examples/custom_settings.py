"""Settings in code, requests with fields and ids of their own, and one generator for several calls."""

import asyncio
from pathlib import Path

from asyncgen import ImageGenerator, ImageRequest, ImageResult, load_settings


async def main() -> None:
    settings = load_settings(
        output_root=Path("book"),
        path_template="{style_id}/{date}/{id}_{seed}",
        concurrency=8,
        max_attempts=2,
    )
    requests = [
        ImageRequest(prompt="a lighthouse keeper in a storm", id="page-1", style_id="8", width=640, height=384, seed=7),
        ImageRequest(prompt="the same keeper asleep", id="page-2", style_id="8", width=640, height=384, steps=12),
    ]
    async with ImageGenerator(settings, sandbox=settings.api_key is None) as generator:
        for result in await generator.generate_many(requests, batch="book"):
            show(result)
        show(await generator.generate_image("a cover without a file", width=512, height=512, save_to_style=False))


def show(result: ImageResult) -> None:
    where = result.saved_path or f"{len(result.delivered[0].data):,} bytes in memory"
    print(f"{result.id or result.request_id}: {result.status}, {where}")


if __name__ == "__main__":
    asyncio.run(main())
