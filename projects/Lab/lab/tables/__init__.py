"""The papers' tables, with the values measured here."""
