"""A stress test that keeps books: what ran against what callers were told.

Every handler run appends its call's id to a file, every caller appends what it was told. The
two must agree, whatever happens between them:

- told a result or "yes": it ran; told "no": it did not;
- it never runs twice unless the call was idempotent;
- a result is the call's own.

``python -m tests.ledger --seconds 60 --seed 1`` runs it and exits 1 on any disagreement.
"""
