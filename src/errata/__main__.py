"""`python -m errata` is the command line."""

from errata.cli import main

main()
