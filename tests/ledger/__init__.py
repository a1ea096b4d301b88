"""A stress test that compares two records: what ran, and the outcomes that callers got.

Every handler run appends its call's id to a file, every caller appends its outcome. The
two must agree, whatever happens between them:

- told a result or "yes": it ran; told "no": it did not;
- it never runs twice unless the call was idempotent;
- a result is the call's own;
- the items of a stream are its own, all of them and in order, up to its end or an error, which says
  how many came.

``python -m tests.ledger --seconds 60 --seed 1`` runs it and exits 1 on any disagreement.
"""
