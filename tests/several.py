"""A function on several processes that have met, as torchrun starts them, without torchrun's seconds."""

import multiprocessing
import os
import pickle
import queue
import socket
import traceback

PATIENCE = 900  # seconds: three processes on two cores that others used as well took more than 120


def on_processes(count, work, *args):
    """What `work(*args)` returns on each of `count` processes (gloo); it and its arguments are pickled.

    An error of one is raised here, with its traceback's text.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_lists", "irpo.pipeline"])
    told = context.Queue()
    members = [context.Process(target=_member, args=(rank, count, port, told, work, args)) for rank in range(count)]
    for member in members:
        member.start()
    found, wrong = {}, []
    for _ in members:
        try:
            rank, value, error = told.get(timeout=1 if wrong else PATIENCE)
        except queue.Empty:  # the others may be waiting for the one that is gone
            wrong = wrong or [f"nobody said anything for {PATIENCE} s"]
            break
        found[rank] = pickle.loads(value)
        if error:
            wrong.append(f"process {rank}: {error}")
    for member in members:
        if wrong:
            member.kill()
        member.join()
    if wrong:
        raise AssertionError("\n".join(wrong))
    return [found[rank] for rank in range(count)]


def _member(rank, count, port, told, work, args):
    import torch

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group("gloo")
        value, error = work(*args), None
        torch.distributed.barrier()
    except BaseException:  # noqa: BLE001 - told to who asked
        value, error = None, traceback.format_exc()
    told.put((rank, pickle.dumps(value), error))  # bytes: a tensor would be shared memory of a process that ends
