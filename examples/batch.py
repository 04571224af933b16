"""A named batch, image by image as they land. Run it twice: the second time nothing is bought again."""

import asyncio
from pathlib import Path

import asyncgen

PROMPTS = Path(__file__).with_name("prompts.txt")


async def main() -> None:
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    prompts = [line for line in lines if line and not line.startswith("#")][:6]
    results = asyncgen.stream_many(
        prompts,
        style="16",
        width=640,
        height=384,
        batch="example",
        sandbox=asyncgen.load_settings().api_key is None,
    )
    async for result in results:
        if result.ok:
            print(f"{'kept' if result.kept else 'made'} {result.saved_path}")
        else:
            print(f"{result.status}: {result.prompt!r}: {result.failure}")


if __name__ == "__main__":
    asyncio.run(main())
