"""Reports the broken images of a run: one line at the end, and a list in the output folder."""

import logging
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from pretrain.data.broken import summarize
from pretrain.engine.loop import due
from pretrain.files import replacing

LISTED = "broken_images.txt"

logger = logging.getLogger(__name__)


class BrokenImagesReport(HookBase):
    """Every `period` steps, merges the processes' counts, checks the limit, and lists the broken images in `path`.

    A line is "reason <tab> name". Images that were listed before a resume stay in the list but do not count towards
    the limit, because they may have been repaired since.
    """

    def __init__(self, path: Path, period: int):
        self.path, self.period = Path(path), period
        self.listed: dict[str, str] = {}  # reasons by name
        self.sent = 0

    def before_train(self) -> None:
        if self.trainer.start_iter > 0 and self.path.is_file():
            text = self.path.read_bytes().decode("utf-8", "surrogateescape")
            lines = [line.partition("\t") for line in text.split("\n") if line]  # a name may hold other line breaks
            self.listed = {name: reason for reason, _, name in lines}

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if due(done, self.period) or done == self.trainer.max_iter:
            account = self.trainer.loader.broken
            found = list(account.reasons.items())
            for other in comm.all_gather(found[self.sent :]):
                account.add(other)
            self.sent = len(account)
            self.write()
            account.check()

    def after_train(self) -> None:
        """Also runs after an error, so it does not communicate with other processes."""
        self.write()
        if self.listed:
            logger.info(f"{len(self.listed):,} broken images: {summarize(self.listed.items())}; see {self.path}")

    def write(self) -> None:
        known = len(self.listed)
        self.listed |= self.trainer.loader.broken.reasons
        if comm.is_main_process() and len(self.listed) > known:
            write_list(self.path, self.listed)


def write_list(path: Path, reasons: dict[str, str]) -> None:
    """Write {name: reason} as lines "reason <tab> name"; raises UserError as `replacing` does."""
    lines = [f"{reason}\t{name}".replace("\n", "\\n") + "\n" for name, reason in reasons.items()]
    with replacing(path) as draft:
        draft.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
