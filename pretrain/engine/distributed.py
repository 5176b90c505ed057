"""Runs in several processes, on one machine or more: starting them, and their communication.

Every process holds the whole model and sees its slice of the batch (`torch.nn.parallel.DistributedDataParallel`). The
states are not sharded (FSDP2): student, gradient and AdamW take 16 bytes a parameter and the teacher 4, which for ViT-L
with three heads is 7.5 GB, and sharding would split a checkpoint that today is one file for any number of processes.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine import DEFAULT_TIMEOUT, launch
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from torch import nn
from torch.multiprocessing import ProcessExitedException

from pretrain.engine.signals import passing_on
from pretrain.errors import UserError


def start(
    main: Callable,
    args: tuple = (),
    num_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> None:
    """Run `main(*args)` in every process of the run; under torchrun, in this process only.

    The processes talk by NCCL where GPUs are visible, each with one of its own, and by gloo elsewhere. The first error
    ends all of them: a `UserError` is raised here again, an exit code becomes this process's own. SIGTERM is passed on.

    Args:
        main: a module's own function, so that a new process can import it.
        num_processes: on this machine. num_machines, machine_rank: how many take part, and which one this is.
        dist_url: where to meet, tcp://HOST:PORT of machine 0; "auto" on one machine.

    Raises:
        UserError: numbers that contradict each other or the machine, or one raised by a process.
    """
    if dist.is_torchelastic_launched():
        if num_processes * num_machines > 1:
            raise UserError("torchrun starts the processes: leave out --num-gpus and --num-machines")
        with torchrun_group():
            main(*args)
        return
    check_numbers(num_processes, num_machines, machine_rank, dist_url)
    if num_processes * num_machines == 1:
        main(*args)
        return
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    try:
        with passing_on(_terminate_children):
            launch(_work, num_processes, num_machines, machine_rank, dist_url, args=(main, args, errors))
    except ProcessExitedException as failure:
        if not errors.empty():
            raise UserError(errors.get()) from None
        if failure.exit_code < 0:
            raise UserError(f"{failure}; if nobody sent it, the machine ran out of memory") from None
        sys.exit(failure.exit_code)


def check_numbers(num_processes: int, num_machines: int, machine_rank: int, dist_url: str) -> None:
    """Raise UserError if no run can be started with these."""
    gpus = torch.cuda.device_count()
    if num_processes < 1 or num_machines < 1 or not 0 <= machine_rank < num_machines:
        raise UserError(
            f"--num-gpus {num_processes}, --num-machines {num_machines}, --machine-rank {machine_rank}: the first two "
            "count from 1, machine ranks from 0"
        )
    if gpus and num_processes > gpus:
        raise UserError(f"--num-gpus {num_processes}: this machine has {gpus}")
    if dist_url != "auto":
        _check_address(dist_url)
    elif num_machines > 1:
        raise UserError("several machines need to know where to meet: add --dist-url tcp://HOST:PORT of machine 0")


def _check_address(dist_url: str) -> None:
    """Raise UserError unless machines can meet there: PyTorch would stumble in every process, minutes later."""
    try:
        parts = urlsplit(dist_url)
        if parts.scheme != "tcp" or not parts.hostname or not parts.port or parts.path.strip("/"):
            raise ValueError
        socket.getaddrinfo(parts.hostname, parts.port)
    except socket.gaierror as error:
        raise UserError(
            f"--dist-url {dist_url}: there is no host {parts.hostname} ({error.strerror}); check the name"
        ) from None
    except ValueError:
        raise UserError(
            f"--dist-url {dist_url!r} is not tcp://HOST:PORT; give the address of machine 0 and a free port of it"
        ) from None


def _work(main: Callable, args: tuple, errors) -> None:
    """One process that `launch` has started."""
    try:
        main(*args)
    except UserError as error:
        errors.put(str(error))
        sys.exit(2)
    dist.destroy_process_group()


@contextmanager
def torchrun_group() -> Iterator[None]:
    """Join the other processes that torchrun has started, and part from them when the block ends well."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    yield
    dist.destroy_process_group()


def _terminate_children() -> None:
    for child in multiprocessing.active_children():
        child.terminate()


def check_device(device: str) -> None:
    """Raise UserError if the processes of this run cannot exchange tensors on `device`."""
    if comm.get_world_size() > 1 and dist.get_backend() == "nccl" and not str(device).startswith("cuda"):
        raise UserError(
            f"train.device={device}: to run several processes on the CPU, hide the GPUs (CUDA_VISIBLE_DEVICES=)"
        )


def data_parallel(model: nn.Module) -> nn.Module:
    """What to call instead of `model` so that its gradient is the mean over processes: `model` itself in a run of one.

    The gradient travels while the backward pass is under way. Parameters, buffers and their names stay the model's own;
    buffers are not copied from rank to rank, because a method keeps them equal.
    """
    return create_ddp_model(model, device_ids=None, broadcast_buffers=False, gradient_as_bucket_view=True)


def seed_rank(seed: int, step: int = 0) -> None:
    """Seed torch from (seed, this process's rank, step): from here on, random numbers of the ranks differ."""
    torch.manual_seed(int(np.random.SeedSequence((seed, comm.get_rank(), step)).generate_state(1)[0]))
