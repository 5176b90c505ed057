import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

from pretrain.data import worker_signals
from pretrain.data.worker_signals import obey_parent_alone, signals_held


def worker(ready):
    obey_parent_alone()
    ready.set()
    while True:
        time.sleep(1)


def stranger(pid):
    os.kill(pid, signal.SIGTERM)


def test_a_worker_dies_by_its_parents_signal_alone():
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    process = fork.Process(target=worker, args=(ready,), daemon=True)
    with signals_held():
        process.start()
    assert ready.wait(10)
    os.kill(process.pid, signal.SIGINT)
    other = fork.Process(target=stranger, args=(process.pid,))
    other.start()
    other.join()
    process.join(0.3)
    assert process.is_alive()
    process.terminate()
    process.join(10)
    assert process.exitcode == 0


def test_a_signal_before_the_worker_is_ready_neither_ends_it_nor_hides_the_parents(monkeypatch):
    wait = worker_signals._wait_for_the_parent
    late_wait = lambda parent: (time.sleep(0.5), wait(parent))  # noqa: E731, as on a busy machine
    monkeypatch.setattr(worker_signals, "_wait_for_the_parent", late_wait)
    fork = multiprocessing.get_context("fork")
    ready, sent = fork.Event(), fork.Event()

    def late(ready):
        sent.wait(10)
        worker(ready)

    with signals_held():
        process = fork.Process(target=late, args=(ready,), daemon=True)
        process.start()
    os.kill(process.pid, signal.SIGINT)
    other = fork.Process(target=stranger, args=(process.pid,))
    other.start()
    other.join()
    sent.set()
    assert ready.wait(10)
    process.terminate()
    process.join(10)
    assert process.exitcode == 0


def test_a_worker_ends_with_its_parent(monkeypatch):
    """Even where it is writing into a pipe that nobody reads, and that others keep open."""
    monkeypatch.setattr(worker_signals, "PERIOD", 0.1)
    fork = multiprocessing.get_context("fork")
    begun, (_, writer) = fork.SimpleQueue(), os.pipe()

    def write():
        obey_parent_alone()
        begun.put(os.getpid())
        os.write(writer, bytes(1 << 20))  # more than a pipe holds

    def parent():
        fork.Process(target=write).start()
        time.sleep(60)

    process = fork.Process(target=parent)
    process.start()
    worker = begun.get()
    process.kill()
    process.join()
    for _ in range(100):
        if not _is_running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker outlived its parent")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_signals_are_only_held_for_the_block():
    received = []
    former = signal.signal(signal.SIGINT, lambda *_: received.append("SIGINT"))
    try:
        with signals_held():
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # the process has other threads, not held
            assert not received
        assert received == ["SIGINT"]
    finally:
        signal.signal(signal.SIGINT, former)
