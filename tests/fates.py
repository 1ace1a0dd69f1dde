"""A plug-in that meets the other processes as soon as it is imported, and does to them what FATE names.

So a test of how processes end loads no model: `irpo evaluate ... --plugin fates`.
"""

import os
import signal
import sys
import time

from irpo.meeting import meet
from irpo.processes import gather, rank
from irpo.types import UserError


def killed():
    """Process 1 dies while 0 waits for it."""
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    gather([rank()])


def alone():
    """Process 1 meets a mistake that 0 does not, which waits for it."""
    if rank() == 1:
        raise UserError("the road is closed")
    gather([rank()])


def waits():
    """Nothing, for a long time."""
    time.sleep(300)


def stubborn():
    """Ctrl-C and SIGTERM end nothing."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    waits()


if fate := os.environ.get("FATE"):
    meet()
    gather([rank()])  # from here on all have met
    os.write(1, f"fate of {rank()}: {os.getpid()}\n".encode())  # whole, beside another process's
    {each.__name__: each for each in (killed, alone, waits, stubborn)}[fate]()
    sys.exit("the fate did not come")
