"""MySQL's own server reads texts as we do: what `test_mysql_reading` says of MariaDB."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import test_mysql_reading
from tests.support.mysql_server import MISSING, MySQL, is_here

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.mysql_server,
    pytest.mark.skipif(not is_here(), reason=MISSING),
]

connection = test_mysql_reading.connection
test_the_server_reads_texts_as_we_do = test_mysql_reading.test_the_server_reads_texts_as_we_do
test_modes_change_what_a_text_means = test_mysql_reading.test_modes_change_what_a_text_means


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MySQL]:
    with MySQL() as server:
        yield server
