"""How chains are named: by hashes that an older kvctl made alike."""

from __future__ import annotations

import base64
import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kvctl.policy.layout import LAYOUT, digest


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=4))
def test_a_digest_is_80_bits_of_sha256_in_base32(parts: list[str]) -> None:
    data = "\0".join((str(LAYOUT), *parts)).encode()
    assert digest(*parts) == base64.b32encode(hashlib.sha256(data).digest()[:10]).decode()
