"""Counts the broken images of a run and raises when there are too many."""

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np

from pretrain.errors import UserError, printable

NAMED_IN_LOG = 20  # broken images that the log names one by one

logger = logging.getLogger(__name__)


class BrokenImages:
    """Which images were found broken, and why. Each counts once, however often it is drawn.

    num_images: size of the source. max_share: the fraction of its images that may be broken.

    The limit is exceeded when more than max_share * num_images broken images are known, or earlier, when the images
    tried by this process leave no doubt: more than a + 3 sqrt(a) + 3 of n are broken, where a = max_share * n would be
    allowed. That is three standard deviations; images come in random order.
    """

    def __init__(self, num_images: int, max_share: float):
        self.num_images, self.max_share = num_images, max_share
        self.reasons: dict[str, str] = {}  # by name
        self._met: set[str] = set()  # by this process
        self._readable = np.zeros(num_images, dtype=bool)

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, broken: Iterable[tuple[str, str]]) -> None:
        """Add (name, reason) of images that another process found broken."""
        for name, reason in broken:
            self.reasons.setdefault(name, reason)

    def note(self, broken: Iterable[tuple[str, str]], readable: np.ndarray) -> None:
        """Record the images of one batch, and log the broken ones that are new.

        readable: int (n,), indices of the images that could be read. Raises `UserError` beyond the limit.
        """
        for name, reason in broken:
            self._met.add(name)
            if name not in self.reasons and len(self) < NAMED_IN_LOG:
                last = " (further ones are counted, not named)" if len(self) == NAMED_IN_LOG - 1 else ""
                logger.warning("skipped a broken image: %s (%s)%s", printable(name), reason, last)
            self.reasons.setdefault(name, reason)
        self._readable[readable] = True
        self.check()

    def check(self) -> None:
        """Raise `UserError` beyond the limit."""
        tried = len(self._met) + int(np.count_nonzero(self._readable))
        allowed = self.max_share * tried
        beyond_doubt = len(self._met) > allowed + 3 * allowed**0.5 + 3
        if beyond_doubt or len(self) > self.max_share * self.num_images:
            raise UserError(
                f"too many of the {self.num_images:,} images are broken, {len(self):,} so far: "
                f"{summarize(self.reasons.items())}. max_broken allows a share of {self.max_share:g}: "
                "repair or remove the files, or raise it"
            )


def summarize(broken: Iterable[tuple[str, str]]) -> str:
    """The reasons of (name, reason), most frequent first: "12 truncated (a.jpg), 3 not an image (b.png)"."""
    examples, counts = {}, Counter()
    for name, reason in broken:
        examples.setdefault(reason, name)
        counts[reason] += 1
    return ", ".join(f"{count} {reason} ({printable(examples[reason])})" for reason, count in counts.most_common())
