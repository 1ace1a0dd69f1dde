"""`python -m irpo` is the `irpo` command."""

from irpo.cli import main

main()
