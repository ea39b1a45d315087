import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.note import NoteError, NoteKey, iter_notes, parse_key, parse_note, sign_note, split_notes
from tests.support.books import KEY, OTHER_KEY

# the example note of golang.org/x/mod/sumdb/note: foreign bytes that must verify here
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\N{EM DASH} PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()


def test_a_note_made_elsewhere_verifies():
    assert parse_note(GO_NOTE).is_signed_by(parse_key(GO_KEY))


def test_a_changed_note_does_not_verify():
    assert not parse_note(GO_NOTE.replace(b"answer", b"Answer")).is_signed_by(parse_key(GO_KEY))


def test_keys_survive_writing():
    assert parse_key(f"{KEY.key}\n") == KEY.key


def test_only_the_signing_key_verifies():
    note = parse_note(sign_note(b"text\n", KEY))
    assert note.is_signed_by(KEY.key)
    assert not note.is_signed_by(OTHER_KEY.key)
    assert not note.is_signed_by(NoteKey("another-name", KEY.key.public))


def test_a_note_may_carry_two_signatures():
    note = parse_note(sign_note(b"text\n", KEY, OTHER_KEY))
    assert note.is_signed_by(KEY.key)
    assert note.is_signed_by(OTHER_KEY.key)


def test_the_private_half_is_not_shown():
    assert "private" not in repr(KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000+",
        str(KEY.key)[:-4],
        str(KEY.key).replace("+", "+0", 1),
        "a b+1+2",
        GO_KEY[1:],
    ],
)
def test_what_is_no_key_is_refused(text):
    with pytest.raises(NoteError):
        parse_key(text)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_note_or_a_note_error(data):
    try:
        parse_note(data)
    except NoteError:
        pass


@given(st.lists(st.sampled_from([b"a\n", b"b\nc\n"]), max_size=5), st.integers(1, 50), st.binary(max_size=20))
def test_where_the_file_is_cut_into_chunks_makes_no_difference(texts, step, tail):
    notes = [sign_note(text, KEY) for text in texts]
    data = b"".join(note + b"\n" for note in notes) + tail
    whole, rest = split_notes(data)
    chunks = [data[at : at + step] for at in range(0, len(data), step)]
    found = list(iter_notes(chunks))
    assert [note for note, complete in found if complete] == whole
    assert [note for note, complete in found if not complete] == ([rest] if rest else [])
    assert whole[: len(notes)] == notes
