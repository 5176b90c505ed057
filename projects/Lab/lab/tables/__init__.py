"""The papers' tables, and beside their rows what was measured here."""
