"""`asyncgen` and `python -m asyncgen`: the command line, which Ctrl-C ends without a word until a command begins."""

import signal


def main() -> None:
    """Entry point. Imports take a while, and nothing is at stake in them: `console.with_exit_code` takes over."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from asyncgen import cli  # noqa: PLC0415 - as said

    cli.main()


if __name__ == "__main__":
    main()
