"""extproc: identity, policy, approvals, masking and a tamper-evident ledger for traffic that Envoy carries."""

__version__ = "0.1.0"
