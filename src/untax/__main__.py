"""`python -m untax` is `untax`."""

from untax.cli import main

main()
