"""`python -m irpo` is the `irpo` command."""

import os
import sys

if sys.path[0] == os.getcwd():  # `-m` puts it there, and a file here would stand in for an installed package
    del sys.path[0]

from irpo.cli import main

main()
