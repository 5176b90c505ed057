"""The papers' tables, and beside their rows what was measured here."""

from lab.tables.paper_one import TABLES as _ONE
from lab.tables.paper_two import TABLES as _TWO
from lab.tables.paper_two_appendix import TABLES as _TWO_APPENDIX

PAPER_TABLES = (*_ONE, *_TWO, *_TWO_APPENDIX)
