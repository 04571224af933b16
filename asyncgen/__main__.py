"""`python -m asyncgen`: the command line."""

from asyncgen.cli import main

main()
