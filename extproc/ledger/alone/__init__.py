"""`verify.py`: a verifier that needs nothing but Python. Nothing in it imports the rest of extproc."""

from pathlib import Path

VERIFIER = Path(__file__).with_name("verify.py")
"""The one file that is copied into every evidence packet."""
