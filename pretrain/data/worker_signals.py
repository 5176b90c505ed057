"""Who may end a data loader's worker: the process that made it, and no one else."""

import os
import signal
import threading


def heed_only_the_parent() -> None:
    """Ignore SIGINT, and SIGTERM from others than the parent; call it in a worker.

    Ctrl-C and schedulers signal a whole group of processes. The main process finishes its step then, and still needs
    its workers; when they must go, it ends them itself, with SIGTERM at the last.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler would not be told the sender. Threads that start later, torch's queue feeder say, inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_when_the_parent_says, daemon=True).start()


def _leave_when_the_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
