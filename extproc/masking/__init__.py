"""Recognizers find, operators change, a plan says which meets which."""

from extproc.masking.operators import STRICTNESS, MaskSecrets
from extproc.masking.plan import Masker, compile_masker
from extproc.masking.recognizers import ENTITIES
from extproc.masking.typed import typed_mask

__all__ = ["ENTITIES", "STRICTNESS", "MaskSecrets", "Masker", "compile_masker", "typed_mask"]
