"""The compact model packages `models/jcs-compact` and `models/m3lung-compact`: their data and their training.

`python -m training.compact --help` is the command; `docs/models/compact.md` says what it does and what came out.
"""
