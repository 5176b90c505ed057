"""What a table of a paper is: its rows as printed, and what each column measures."""

from dataclasses import dataclass, field

PAPERS = {"one": "CropField", "two": "StoP"}


@dataclass(frozen=True)
class Column:
    """A column of figures: `metrics` of a result.json of this `protocol` and `dataset`, of which the best counts."""

    title: str
    protocol: str
    dataset: str
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class PaperRow:
    """`labels` and `values` as printed, one for each label and each column of its table; None is the paper's dash."""

    labels: tuple[str, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class PaperTable:
    """A table of figures.

    Args:
        paper: "one" or "two", see `PAPERS`.  number: as printed, "1a".
        printed: the rows, one a line, cells between bars. The papers' own systems are called "Ours" or "(ours)" in
            print and "the paper's" here, where ours would be taken for what was measured here.
        command: makes a row's figures, of a trunk in FILE.
        where: settings that a result must not contradict, e.g. `{"epochs": 12}`.
        note: what is not as printed, or left open.
    """

    paper: str
    number: str
    caption: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    printed: str
    command: str
    where: dict = field(default_factory=dict)
    note: str = ""

    @property
    def key(self) -> str:
        """Paper and number, "one:1a"."""
        return f"{self.paper}:{self.number}"

    @property
    def title(self) -> str:
        return f"Paper {self.paper} ({PAPERS[self.paper]}), Table {self.number}: {self.caption}"

    def rows(self) -> list[PaperRow]:
        """ValueError if a line has another number of cells than there are labels and columns."""
        rows = []
        for line in self.printed.strip().splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) != len(self.labels) + len(self.columns):
                raise ValueError(f"{self.title}: {len(cells)} cells in {line!r}")
            values = tuple(None if cell == "-" else float(cell) for cell in cells[len(self.labels) :])
            rows.append(PaperRow(tuple(cells[: len(self.labels)]), values))
        return rows
