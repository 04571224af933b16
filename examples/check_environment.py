"""What `asyncgen check` looks at, for programs: exit code 1 when something stands in the way of a run."""

import asyncio

from asyncgen import SettingsError, load_settings
from asyncgen.check import findings


def main() -> int:
    try:
        settings = load_settings()
    except SettingsError as error:
        print(f"problem: {error}")
        return 1
    found = asyncio.run(findings(settings))
    for finding in found:
        print(f"{finding.level}: {finding.text}")
        if finding.cure:
            print(f"    {finding.cure}")
    return int(any(finding.level == "problem" for finding in found))


if __name__ == "__main__":
    raise SystemExit(main())
